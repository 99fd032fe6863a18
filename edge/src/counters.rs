//! Counts of responses and faults, kept in memory and written once a second, so that a crowd costs one addition a
//! request. What is not written when the isolate ends is lost: they are for monitoring, Redis and MySQL are the proof.

use crate::labels::{Outcome, RouteLabel};
use dropgate_shared::time::Millis;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Time between two writes.
const FLUSH_INTERVAL: Millis = Millis(1_000);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricKey {
    Request {
        route: RouteLabel,
        outcome: Outcome,
    },
    Fault {
        /// Label of the system that failed.
        source: &'static str,
        label: &'static str,
    },
    /// A response 401: why the user is not accepted.
    Unauthenticated {
        reason: &'static str,
    },
}

impl MetricKey {
    /// Kind, place, label: the dimensions in the dataset.
    #[must_use]
    pub fn dimensions(self) -> [&'static str; 3] {
        match self {
            Self::Request { route, outcome } => ["request", route.as_str(), outcome.as_str()],
            Self::Fault { source, label } => ["fault", source, label],
            Self::Unauthenticated { reason } => ["unauthenticated", "identity", reason],
        }
    }
}

/// A count since the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub key: MetricKey,
    pub count: u64,
    /// Sum of the durations, in ms.
    pub total_ms: u64,
}

/// The counters of one isolate.
#[derive(Debug, Default)]
pub struct Counters {
    counts: RefCell<BTreeMap<MetricKey, (u64, Millis)>>,
    written: Cell<Millis>,
}

impl Counters {
    pub fn count(&self, key: MetricKey, took: Millis) {
        let mut counts = self.counts.borrow_mut();
        let (count, total) = counts.entry(key).or_default();
        *count = count.saturating_add(1);
        *total = *total + took;
    }

    /// The counts, if it is time to write them. They start again from zero.
    pub fn take_due(&self, now: Millis) -> Option<Vec<Point>> {
        if now - self.written.get() < FLUSH_INTERVAL {
            return None;
        }
        self.written.set(now);
        let counts = self.counts.take().into_iter();
        Some(counts.map(|(key, (count, total))| Point { key, count, total_ms: total.0 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_returned_once_a_second_and_once() {
        let counters = Counters::default();
        let key = MetricKey::Request { route: RouteLabel::Health, outcome: Outcome::Ok };
        counters.count(key, Millis(3));
        counters.count(key, Millis(4));
        assert_eq!(counters.take_due(Millis(5_000)).unwrap(), [Point { key, count: 2, total_ms: 7 }]);
        counters.count(key, Millis(1));
        assert_eq!(counters.take_due(Millis(5_999)), None);
        assert_eq!(counters.take_due(Millis(6_000)).unwrap(), [Point { key, count: 1, total_ms: 1 }]);
        assert_eq!(counters.take_due(Millis(7_000)).unwrap(), []);
        assert_eq!(key.dimensions(), ["request", "/healthz", "ok"]);
    }
}
