//! The three servers of a verb.

use crate::timestamp::Clock;
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::redis_rest::RedisRest;

/// MySQL, Redis and Kafka, as a verb needs them.
pub struct Servers<S, H, B> {
    pub store: S,
    pub redis: RedisRest<H>,
    /// Kafka, where it is configured.
    pub kafka: Option<B>,
    /// What codes are derived from, where it is configured.
    pub secrets: Option<CodeSecrets>,
    pub clock: Clock,
    /// Whether progress bars are shown on a terminal.
    pub progress: bool,
}
