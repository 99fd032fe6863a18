//! The server's errors, by their numbers. What a number means for the issuer is decided by the issuer's own code
//! (`dropgate_issuer::store::mysql::error`), so that the model cannot differ from it.

use super::schema::Flavor;
use dropgate_issuer::store::mysql::error::{POOL_TIMED_OUT, classify, fault};
use dropgate_issuer::store::ports::StoreError;

/// An error of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    pub number: u16,
    /// The SQLSTATE.
    pub state: &'static str,
    pub message: String,
}

impl ServerError {
    fn new(number: u16, state: &'static str, message: impl Into<String>) -> Self {
        Self { number, state, message: message.into() }
    }

    pub(super) fn too_many_connections() -> Self {
        Self::new(1040, "08004", "Too many connections")
    }

    pub(super) fn duplicate(key: &str) -> Self {
        Self::new(1062, "23000", format!("Duplicate entry for key '{key}'"))
    }

    /// A statement with an empty list, which the issuer never sends.
    pub(super) fn syntax() -> Self {
        Self::new(1064, "42000", "You have an error in your SQL syntax")
    }

    pub(super) fn lock_wait_timeout() -> Self {
        Self::new(1205, "HY000", "Lock wait timeout exceeded; try restarting transaction")
    }

    pub(super) fn deadlock() -> Self {
        Self::new(1213, "40001", "Deadlock found when trying to get lock; try restarting transaction")
    }

    pub(super) fn read_only() -> Self {
        let text = "The MySQL server is running with the --super-read-only option so it cannot execute this statement";
        Self::new(1290, "HY000", text)
    }

    pub(super) fn too_long(column: &str, row: usize) -> Self {
        Self::new(1406, "22001", format!("Data too long for column '{column}' at row {row}"))
    }

    pub(super) fn overflow() -> Self {
        Self::new(1441, "22008", "Datetime function: datetime field overflow")
    }

    pub(super) fn no_parent(constraint: &str) -> Self {
        let text = format!("Cannot add or update a child row: a foreign key constraint fails ({constraint})");
        Self::new(1452, "23000", text)
    }

    pub(super) fn check(flavor: Flavor, constraint: &str) -> Self {
        match flavor {
            Flavor::MySql => Self::new(3819, "HY000", format!("Check constraint '{constraint}' is violated.")),
            Flavor::MariaDb => Self::new(4025, "23000", format!("CONSTRAINT `{constraint}` failed")),
        }
    }

    pub(super) fn is_deadlock(&self) -> bool {
        self.number == 1213
    }
}

impl From<ServerError> for StoreError {
    fn from(error: ServerError) -> Self {
        let ServerError { number, state, message } = &error;
        classify(*number, state, message).unwrap_or_else(|| {
            // As sqlx words it.
            let detail = format!("error returned from database: {number} ({state}): {message}");
            Self::Away(fault(Some(*number), &detail))
        })
    }
}

/// A connection that was lost, or refused.
pub(super) fn lost(detail: &str) -> StoreError {
    StoreError::Away(fault(None, &detail))
}

/// The pool found no connection in time.
pub(super) fn pool_timed_out() -> StoreError {
    lost(POOL_TIMED_OUT)
}
