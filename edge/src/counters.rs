//! What an isolate counts: answers by route and outcome, faults by upstream and label.
//!
//! Counted in memory and written once a second, so that a flood costs an addition a request. What was
//! not written when the isolate ends is lost: these figures are for watching, Redis and MySQL are for
//! the proof.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Between two writings, ms.
const FLUSH_MS: u64 = 1_000;

/// What is counted; each field has few values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricKey {
    /// `request` or `fault`
    pub kind: &'static str,
    /// The route's pattern, or the upstream.
    pub place: &'static str,
    /// The outcome, or the fault's label.
    pub label: &'static str,
}

/// A figure to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// What was counted.
    pub what: MetricKey,
    /// How often, since the last writing.
    pub count: u64,
    /// Time it took in all, ms.
    pub total_ms: u64,
}

/// The counters of an isolate.
#[derive(Debug, Default)]
pub struct Counters {
    counts: RefCell<BTreeMap<MetricKey, (u64, u64)>>,
    written_ms: Cell<u64>,
}

impl Counters {
    /// Counts one more.
    pub fn count(&self, what: MetricKey, took_ms: u64) {
        let mut counts = self.counts.borrow_mut();
        let (count, total_ms) = counts.entry(what).or_default();
        *count = count.saturating_add(1);
        *total_ms = total_ms.saturating_add(took_ms);
    }

    /// The figures, if it is time to write them; counting begins anew.
    pub fn due(&self, now_ms: u64) -> Option<Vec<Point>> {
        if now_ms.saturating_sub(self.written_ms.get()) < FLUSH_MS {
            return None;
        }
        self.written_ms.set(now_ms);
        let counts = self.counts.take();
        Some(counts.into_iter().map(|(what, (count, total_ms))| Point { what, count, total_ms }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_once_a_second_and_once() {
        let counters = Counters::default();
        let what = MetricKey { kind: "request", place: "/healthz", label: "ok" };
        counters.count(what, 3);
        counters.count(what, 4);
        assert_eq!(counters.due(5_000).unwrap(), [Point { what, count: 2, total_ms: 7 }]);
        counters.count(what, 1);
        assert_eq!(counters.due(5_999), None);
        assert_eq!(counters.due(6_000).unwrap(), [Point { what, count: 1, total_ms: 1 }]);
        assert_eq!(counters.due(7_000).unwrap(), []);
    }
}
