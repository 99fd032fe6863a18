//! The server's end of a connection.

use super::locks::Trx;
use std::cell::Cell;
use tokio::sync::Notify;

/// What the server knows of a connection.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) id: u64,
    /// The open transaction, be it explicit or that of a statement.
    pub(super) trx: Cell<Trx>,
    pub(super) is_explicit: Cell<bool>,
    pub(super) is_dead: Cell<bool>,
    pub(super) killed: Notify,
    /// Statements that the client has sent and that are not done.
    pub(super) busy: Cell<usize>,
}
