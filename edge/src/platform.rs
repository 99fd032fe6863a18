//! What a request has around it: a clock, a timer, the time after its answer, and what the runtime
//! has bound to the gate.

use crate::counters::Point;
use serde_json::Value;
use std::future::Future;

/// A rate limit that the operator may bind. It is kind to the upstreams, it decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limiter {
    /// `LIMIT_PER_USER`
    User,
    /// `LIMIT_PER_ADDRESS`
    Address,
}

impl Limiter {
    /// The name of the binding.
    #[must_use]
    pub fn binding(self) -> &'static str {
        match self {
            Self::User => "LIMIT_PER_USER",
            Self::Address => "LIMIT_PER_ADDRESS",
        }
    }
}

/// The surroundings of one request, or of one run of the cron.
pub trait Platform: Clone + 'static {
    /// Wall clock, ms since the epoch. On Workers it stands still between two I/O events.
    fn now_ms(&self) -> u64;

    /// From 0 to 1, evenly. Not for secrets.
    fn random(&self) -> f64;

    /// Waits. A timer belongs to its request and ends with it.
    fn sleep(&self, ms: u32) -> impl Future<Output = ()>;

    /// Work that goes on when the visitor has his answer, or has hung up (`waitUntil`).
    fn after_answer(&self, work: impl Future<Output = ()> + 'static);

    /// Whether `key` is within a limit; true where none is bound.
    ///
    /// # Errors
    /// In words, where the limit cannot be asked.
    fn within(&self, limiter: Limiter, key: &str) -> impl Future<Output = Result<bool, String>>;

    /// Tells the operator something ordinary.
    fn log(&self, line: &Value);

    /// Tells the operator that something is wrong.
    fn log_error(&self, line: &Value);

    /// Writes figures, if there is a place for them.
    fn write(&self, points: &[Point]);
}
