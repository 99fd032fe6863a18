//! What went wrong at another system, in the terms that decide what to do next.

use std::fmt;

/// What became of the request. The adapter that sent it decides; callers never guess from a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It surely had no effect.
    None,
    /// It may have had its effect. Never tell this as a refusal, never undo it (I8).
    Unknown,
    /// It had its effect, only the answer is unusable.
    Done,
}

/// The system at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The HTTP-based Redis.
    Redis,
    /// The Kafka REST proxy.
    KafkaRest,
    /// Whoever publishes the public keys that visitors' tokens are checked with.
    KeySet,
    /// Whoever tells visitors from programs.
    Challenge,
    /// What the gate's own platform has bound to it.
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
    /// What became of the request.
    pub fate: Fate,
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
    /// A fault that a later try may not meet, with unknown effect.
    #[must_use]
    pub fn unknown(source: Source, label: &'static str, detail: impl Into<String>) -> Self {
        Self { fate: Fate::Unknown, retry: true, source, label, detail: detail.into() }
    }

    /// A fault that surely had no effect.
    #[must_use]
    pub fn none(source: Source, label: &'static str, retry: bool, detail: impl Into<String>) -> Self {
        Self { fate: Fate::None, retry, source, label, detail: detail.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.source.label(), self.label, self.detail)
    }
}

impl std::error::Error for Fault {}
