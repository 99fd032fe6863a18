//! Where MySQL is.

use crate::config::redact::redacted;
use sqlx::mysql::MySqlConnectOptions;
use std::str::FromStr;

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
}

impl FromStr for DatabaseSettings {
    type Err = DatabaseUrlError;

    fn from_str(url: &str) -> Result<Self, DatabaseUrlError> {
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(DatabaseUrlError::Scheme);
        }
        // The driver's error may quote the URL, so it is not repeated.
        let options = MySqlConnectOptions::from_str(url).map_err(|_| DatabaseUrlError::Malformed)?;
        match options.get_database() {
            Some(database) if !database.is_empty() => Ok(Self { options, shown: redacted(url) }),
            _ => Err(DatabaseUrlError::NoDatabase),
        }
    }
}
