//! A failed call to another system, in the terms that decide what to do next.

use std::fmt;

/// The effect that the failed request had. The adapter that sent it decides; callers never guess from a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None, certainly.
    None,
    /// Unknown. Never report this as a refusal, never undo it (I8).
    Unknown,
    /// The intended one; only the response is unusable.
    Done,
}

/// The system at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The HTTP-based Redis.
    Redis,
    /// The Kafka REST proxy.
    KafkaRest,
    /// The publisher of the keys that tokens are verified with.
    KeySet,
    /// The service that verifies challenges (Turnstile).
    Challenge,
    /// A binding of the gate's own platform.
    Platform,
    /// A Kafka broker.
    Kafka,
    /// The database.
    MySql,
}

impl Source {
    /// Stable label for logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::KafkaRest => "kafka_rest",
            Self::KeySet => "key_set",
            Self::Challenge => "challenge",
            Self::Platform => "platform",
            Self::Kafka => "kafka",
            Self::MySql => "mysql",
        }
    }
}

/// A failed call to another system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The effect of the request.
    pub effect: Effect,
    /// Whether the same request may succeed if it is sent again.
    pub retry: bool,
    /// The system that failed.
    pub source: Source,
    /// What happened, a stable word for logs and metrics: `timeout`, `unauthorized`, ..
    pub label: &'static str,
    /// The same for a human at 3 a.m. Holds no secret and no user id.
    pub detail: String,
}

impl Fault {
    /// A fault with unknown effect that a retry may not meet.
    #[must_use]
    pub fn unknown(source: Source, label: &'static str, detail: impl Into<String>) -> Self {
        Self { effect: Effect::Unknown, retry: true, source, label, detail: detail.into() }
    }

    /// A fault that certainly had no effect.
    #[must_use]
    pub fn none(source: Source, label: &'static str, retry: bool, detail: impl Into<String>) -> Self {
        Self { effect: Effect::None, retry, source, label, detail: detail.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.source.label(), self.label, self.detail)
    }
}

impl std::error::Error for Fault {}
