//! What a request has around it: a clock, a timer, and the time after its answer.

use dropgate_shared::fault::Fault;
use std::future::Future;

/// The surroundings of one request, or of one run of the cron.
pub trait Errand: Clone + 'static {
    /// Wall clock, ms since the epoch. On Workers it stands still between two I/O events.
    fn now_ms(&self) -> u64;

    /// Waits. A timer belongs to its request and ends with it.
    fn sleep(&self, ms: u32) -> impl Future<Output = ()>;

    /// Work that goes on when the visitor has his answer, or has hung up (`waitUntil`).
    fn after_answer(&self, work: impl Future<Output = ()> + 'static);

    /// Tells the operator.
    fn report(&self, during: &'static str, fault: &Fault);
}
