//! What a failed statement means, by its number. MySQL and MariaDB share most of them.

use dropgate_shared::fault::{Effect, Fault, Source};
use sqlx::mysql::MySqlDatabaseError;

/// A failed statement, in the terms that decide what to do next.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A constraint refused a row: look which, and place it elsewhere.
    Constraint,
    /// Deadlock or lock wait: the transaction is rolled back, the same one may succeed now.
    Contention,
    /// The database will never take this value. The text names column and reason.
    Data(String),
    /// The database is away, or will not let us write: wait, lose nothing, blame no record.
    Away(Fault),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = database_error(&error) else {
            return Self::Away(fault_of(&error));
        };
        match (database.number(), database.code().unwrap_or_default()) {
            // Duplicate entry; no such parent row; CHECK on MySQL.
            (1062 | 1169 | 1586 | 1216 | 1452 | 3819, _) => Self::Constraint,
            // CHECK on MariaDB. The number is another error on MySQL.
            (4025, "23000") => Self::Constraint,
            // Lock wait timeout; deadlock; a row changed under a snapshot (MariaDB); lock table full.
            (1205 | 1213 | 1020 | 1206, _) => Self::Contention,
            // Truncated, not representable, invalid in its character set, wrong for its column; and NULL.
            (1048 | 1265 | 1300 | 1366 | 1406 | 3988, _) => Self::Data(database.message().to_owned()),
            // SQLSTATE class 22: data exception.
            (_, code) if code.starts_with("22") => Self::Data(database.message().to_owned()),
            _ => Self::Away(fault_of(&error)),
        }
    }
}

/// The error number that the server gave, if it was the server that failed the call.
pub(crate) fn number_of(error: &sqlx::Error) -> Option<u16> {
    database_error(error).map(MySqlDatabaseError::number)
}

/// A failure as a fault, with the remedy for whoever reads the log.
///
/// Its effect counts as unknown: a connection may die after the commit has arrived. Writing the same
/// batch again finds that out (I6).
pub(crate) fn fault_of(error: &sqlx::Error) -> Fault {
    let (label, remedy) = match number_of(error) {
        None => ("unreachable", "is MySQL up, and does DATABASE_URL name its host and port?"),
        Some(1045 | 1044 | 1142 | 1143 | 1370 | 1698 | 3118) => {
            ("access_denied", "check user and password in DATABASE_URL, and the user's grants")
        }
        Some(1049) => ("no_database", "create the database that DATABASE_URL names"),
        Some(NO_TABLE | 1054) => ("no_schema", "run `issuer migrate`"),
        Some(1040 | 1203 | 1226) => {
            ("too_many_connections", "raise max_connections, or give the issuer a quota of its own")
        }
        Some(1290 | 1792 | 1836) => ("read_only", "the server takes no writes: DATABASE_URL must name the primary"),
        Some(1021 | 1114 | 1041 | 1037) => ("out_of_space", "the server is out of disk or memory"),
        Some(1053 | 1077 | 1079 | 1927 | 2006 | 2013 | 3169 | 4031) => {
            ("going_down", "the server ended the connection")
        }
        Some(_) => ("refused", "see the number in MySQL's list of server errors"),
    };
    let detail = match error {
        sqlx::Error::PoolTimedOut => format!("no connection within 5 s ({remedy})"),
        // The server's own words for a connection or a grant; they hold no value of a row.
        other => format!("{other} ({remedy})"),
    };
    Fault { effect: Effect::Unknown, retry: true, source: Source::MySql, label, detail }
}

const NO_TABLE: u16 = super::NO_SUCH_TABLE;

fn database_error(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
}
