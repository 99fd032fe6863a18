//! Where MySQL is.

use crate::config::redact::redacted;
use sqlx::mysql::MySqlConnectOptions;
use std::str::FromStr;

/// In which user ids go to the server and come back, whatever the server's default is.
const CHARACTER_SET: &str = "utf8mb4";
/// That of the columns.
const COLLATION: &str = "utf8mb4_bin";

/// Where MySQL is.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// For the driver.
    pub options: MySqlConnectOptions,
    /// The URL for logs and messages, without its password.
    pub shown: String,
}

/// Why a URL names no database. Follows the name of the setting.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    #[error("does not begin with mysql://")]
    Scheme,
    #[error("cannot be parsed")]
    Malformed,
    #[error("names no database")]
    NoDatabase,
    #[error("asks for another character set than utf8mb4, so that user ids would be stored as others")]
    CharacterSet,
}

impl FromStr for DatabaseSettings {
    type Err = DatabaseUrlError;

    fn from_str(url: &str) -> Result<Self, DatabaseUrlError> {
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(DatabaseUrlError::Scheme);
        }
        // The driver's error may quote the URL, so it is not repeated.
        let options = MySqlConnectOptions::from_str(url).map_err(|_| DatabaseUrlError::Malformed)?;
        // Of utf8 not either: MySQL means by it what has no characters of four bytes.
        if !options.get_charset().eq_ignore_ascii_case(CHARACTER_SET) {
            return Err(DatabaseUrlError::CharacterSet);
        }
        let options = options.charset(CHARACTER_SET).collation(COLLATION);
        match options.get_database() {
            Some(database) if !database.is_empty() => Ok(Self { options, shown: redacted(url) }),
            _ => Err(DatabaseUrlError::NoDatabase),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_set_that_has_every_user_id_is_taken() {
        let read = |query: &str| format!("mysql://u:p@h/d{query}").parse::<DatabaseSettings>();
        for query in ["", "?charset=utf8mb4", "?charset=UTF8MB4", "?collation=latin1_swedish_ci"] {
            let options = read(query).map_err(|error| error.to_string()).unwrap().options;
            let pinned = (options.get_charset(), options.get_collation());
            assert_eq!(pinned, ("utf8mb4", Some("utf8mb4_bin")), "{query}");
        }
        for query in ["?charset=latin1", "?charset=utf8", "?charset=utf8mb3", "?charset=binary", "?charset="] {
            let error = read(query).err().unwrap().to_string();
            assert!(error.contains("another character set than utf8mb4"), "{query}: {error}");
        }
    }
}
