//! Sessions between two batches. (sqlx's pool does not know the ids by which the server can end them.)

use super::connection::Tracked;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

pub(super) struct Pool {
    most: usize,
    idle: Mutex<Vec<(Tracked, Instant)>>,
}

impl Pool {
    pub(super) fn new(most: u32) -> Self {
        Self { most: usize::try_from(most).unwrap_or(1), idle: Mutex::default() }
    }

    /// The session that was used last, and since when it is idle.
    pub(super) fn take(&self) -> Option<(Tracked, Instant)> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Takes a session back. It is closed if there are enough.
    pub(super) fn give_back(&self, connection: Tracked) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most {
            idle.push((connection, Instant::now()));
        }
    }
}
