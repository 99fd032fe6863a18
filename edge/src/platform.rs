//! What the gate needs of its runtime: the network of an isolate, and the clock, timers, background work, rate limits,
//! log and metrics around one event.

use crate::counters::Point;
use crate::identity::jwks::PublicKeys;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::time::Millis;
use serde_json::Value;
use std::future::Future;

/// How long one event may work in the background for other requests: the runtime ends it after 30 s.
pub const BACKGROUND_LIMIT: Millis = Millis(10_000);

/// Outgoing calls. Belongs to no event.
pub trait Network: Http + PublicKeys + Clone + 'static {}

impl<T: Http + PublicKeys + Clone + 'static> Network for T {}

/// A rate limit that the operator may bind. It protects the upstreams, it decides nothing about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limiter {
    User,
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

/// Ends a pause of a request, from any request of the isolate. The pause may have ended already, and its request too.
pub struct Wake(Box<dyn FnOnce()>);

impl Wake {
    #[must_use]
    pub fn new(wake: impl FnOnce() + 'static) -> Self {
        Self(Box::new(wake))
    }

    pub fn wake(self) {
        (self.0)();
    }
}

/// The runtime around one event: a request, or a run of the cron.
pub trait Platform: Clone + 'static {
    /// Time since the epoch. On Workers it stands still between two I/O events.
    fn now(&self) -> Millis;

    /// Uniform in 0..1. Not for secrets.
    fn random(&self) -> f64;

    /// Waits. A timer belongs to its event and ends with it.
    fn sleep(&self, ms: u32) -> impl Future<Output = ()>;

    /// A pause of this event, from now on: it ends when the [`Wake`] is called, or after `limit`.
    ///
    /// This is how a request waits for what another request does. It never awaits the other's future: what is awaited
    /// belongs to its own event, and what the other one calls only ends the pause.
    fn pause(&self, limit: Millis) -> (Wake, impl Future<Output = ()>);

    /// Runs `work` in the background: it continues after the response, and after a client that disconnects
    /// (`waitUntil`).
    fn spawn(&self, work: impl Future<Output = ()> + 'static);

    /// Whether `key` is within a limit; true where none is bound.
    ///
    /// # Errors
    /// [`Fault`] where the limit gives no answer.
    fn within(&self, limiter: Limiter, key: &str) -> impl Future<Output = Result<bool, Fault>>;

    fn log(&self, line: &Value);

    fn log_error(&self, line: &Value);

    /// Writes to the metrics dataset, if one is bound.
    fn write_metrics(&self, points: &[Point]);
}
