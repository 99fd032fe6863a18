//! Another system is away: what is worth a log line, and how long to wait.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

const FIRST_MS: u64 = 50;
const CAP_MS: u64 = 5_000;

/// The state of one system as its failures and answers show it.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    label: &'static str,
    failures: u32,
}

impl Outage {
    /// A call failed. True if that is news: the first failure, or the first of another kind.
    pub fn failed(&mut self, label: &'static str, now: Instant) -> bool {
        let news = self.since.is_none() || self.label != label;
        self.since.get_or_insert(now);
        self.label = label;
        self.failures = self.failures.saturating_add(1);
        news
    }

    /// A call succeeded. If an outage ends with it: how long it lasted.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        let since = self.since.take()?;
        self.failures = 0;
        Some(now.saturating_duration_since(since))
    }

    /// How long to wait before the next try: doubles up to 5 s, and spread over the upper half of that,
    /// so that many issuers do not come back as one.
    #[must_use]
    pub fn delay(&self, random: u64) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full_ms = (FIRST_MS << doublings).min(CAP_MS);
        Duration::from_millis(full_ms / 2 + random % (full_ms / 2 + 1))
    }
}

/// A random number that is good for jitter, and for nothing else.
#[must_use]
pub fn random() -> u64 {
    // Each RandomState has keys of its own.
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_it_once_per_kind_and_says_when_it_is_over() {
        let now = Instant::now();
        let mut outage = Outage::default();
        assert_eq!(outage.answered(now), None);
        assert!(outage.failed("unreachable", now));
        assert!(!outage.failed("unreachable", now));
        assert!(outage.failed("read_only", now));
        assert_eq!(outage.answered(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert!(outage.failed("read_only", now), "a new outage");
    }

    #[test]
    fn waits_longer_each_time_up_to_a_cap() {
        let now = Instant::now();
        let mut outage = Outage::default();
        let mut last_ms = 0;
        for _ in 0..40 {
            outage.failed("x", now);
            let (least, most) = (outage.delay(0).as_millis(), outage.delay(u64::MAX).as_millis());
            assert!(least >= last_ms / 2 && most <= u128::from(CAP_MS), "{least} {most}");
            last_ms = least;
        }
        assert_eq!(outage.delay(0).as_millis(), u128::from(CAP_MS / 2));
    }
}
