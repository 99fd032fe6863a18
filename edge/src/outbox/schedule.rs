//! When an outbox entry is forwarded again.

use dropgate_shared::time::Millis;

/// The sweeper's times. `wrangler.toml` and docs/architecture.md repeat some of them; `tests/documents.rs` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From the admission until the sweeper may take the entry: longer than a forward takes.
    pub first_lease: Millis,
    /// From an attempt of the sweeper until the next: as long as the entry is old, within these bounds. So the time
    /// doubles from attempt to attempt, without a counter.
    pub attempt_lease: (Millis, Millis),
    /// The same from Kafka's acknowledgement until the entry is forwarded again for want of a confirmation. Far out:
    /// Kafka keeps what it has acknowledged, and behind a small write budget a claim waits for hours. It grows, so that
    /// an issuer that is away for a day does not find each claim a hundred times in its topic.
    pub acknowledged_lease: (Millis, Millis),
    /// Entries that one step takes: a produce call of well under 100 KB.
    pub batch: usize,
    /// Between two steps that an isolate makes beside its requests.
    pub beside_requests: Millis,
    /// Steps for one campaign in a row, before the next campaign gets its share.
    pub share: u32,
    /// Between two runs of the cron. A run begins no step later than this.
    pub cron: Millis,
    /// Calls that a run of the cron makes at most, unless `SWEEP_CALLS` is set.
    pub cron_calls: u32,
}

pub const SCHEDULE: Schedule = Schedule {
    first_lease: Millis(15_000),
    attempt_lease: (Millis(5_000), Millis(15 * 60_000)),
    acknowledged_lease: (Millis(15 * 60_000), Millis(4 * 60 * 60_000)),
    batch: 200,
    beside_requests: Millis(5_000),
    share: 2,
    cron: Millis(60_000),
    cron_calls: 45,
};

impl Schedule {
    /// The lease of an entry of this age that Kafka has acknowledged.
    #[must_use]
    pub fn acknowledged_lease_at(&self, age: Millis) -> Millis {
        let (shortest, longest) = self.acknowledged_lease;
        age.clamp(shortest, longest)
    }
}
