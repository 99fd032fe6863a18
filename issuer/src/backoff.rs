//! Another system is away: how long to wait, and what is worth a log line.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const FIRST_MS: u64 = 50;
const CAP_MS: u64 = 5_000;

/// The waits between the tries of one call.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait before the next try: doubles from 50 ms up to 5 s, spread by `random` over the upper half of
    /// that, so that many issuers do not come back as one.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let full_ms = (FIRST_MS << self.failures.min(16)).min(CAP_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(full_ms / 2 + random % (full_ms / 2 + 1))
    }
}

/// What is worth a log line of the failures of one system.
#[derive(Debug, Default)]
pub struct OutageLog {
    since: Option<Instant>,
    label: &'static str,
}

impl OutageLog {
    /// A call failed. True if that is news: the first failure, or the first of another kind.
    pub fn failed(&mut self, label: &'static str, now: Instant) -> bool {
        let is_news = self.since.is_none() || self.label != label;
        self.since.get_or_insert(now);
        self.label = label;
        is_news
    }

    /// A call succeeded. If an outage ends with it: how long it lasted.
    pub fn succeeded(&mut self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.since.take()?))
    }
}

/// Random numbers that are good for jitter, and for nothing else.
#[derive(Clone)]
pub struct Jitter(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Jitter {
    /// Numbers out of `next`.
    pub fn new(next: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// Numbers that differ from process to process.
    #[must_use]
    pub fn system() -> Self {
        // Each RandomState has keys of its own.
        Self::new(|| RandomState::new().hash_one(0_u8))
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> u64 {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_once_per_kind_and_when_it_is_over() {
        let now = Instant::now();
        let mut outage = OutageLog::default();
        assert_eq!(outage.succeeded(now), None);
        assert!(outage.failed("unreachable", now));
        assert!(!outage.failed("unreachable", now));
        assert!(outage.failed("read_only", now));
        assert_eq!(outage.succeeded(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert!(outage.failed("read_only", now), "a new outage");
    }

    #[test]
    fn waits_longer_each_time_up_to_a_cap() {
        let (mut shortest, mut longest) = (Backoff::default(), Backoff::default());
        let mut last_ms = 0;
        for _ in 0..40 {
            let (least, most) = (shortest.next_delay(0).as_millis(), longest.next_delay(u64::MAX).as_millis());
            assert!(least >= last_ms / 2 && most <= u128::from(CAP_MS), "{least} {most}");
            last_ms = least;
        }
        assert_eq!(shortest.next_delay(0).as_millis(), u128::from(CAP_MS / 2));
    }
}
