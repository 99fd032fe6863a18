//! Whether a partition is silent: the broker has records of it, none arrives, and nothing here is the cause. No I/O.
//!
//! A client can stop reading a partition without any error. librdkafka 2.12.1 ignores metadata with a lower leader epoch
//! than the one it knows (rdkafka_topic.c, `rd_kafka_toppar_leader_update`), and the epochs of a topic that was deleted
//! and created again begin at 0: each fetch then fails with `UNKNOWN_LEADER_EPOCH`, is repeated, and the application
//! gets no event. Only a new client reads on (I9).
//!
//! The ends come from a client of their own, which knows nothing from before ([`super::topics::ends`]); the position is
//! that of the client that reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the ends of the partitions.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After this time without a record although there are some, the client is replaced: at the third look.
const SILENT_AFTER: Duration = Duration::from_secs(20);
/// The time doubles with each new client that reads nothing either, so often at most.
const DOUBLINGS: u32 = 5;

/// First and next offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub begin: i64,
    pub end: i64,
}

/// How far the client has read a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// The next offset that the client asks the broker for.
    pub next: Option<i64>,
    /// Records have arrived in this process that the application has not taken.
    pub is_queued: bool,
}

/// Why the client must be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// One of the silent partitions, how far it was read, and what the broker has.
    partition: i32,
    next: Option<i64>,
    ends: Ends,
    for_time: Duration,
    /// Where to begin, by partition, if the topic is another one than the one that was read.
    pub begin_at: Option<BTreeMap<i32, i64>>,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, next, ends: Ends { begin, end }, for_time, begin_at } = self;
        let next = next.map_or_else(|| "unknown".to_owned(), |next| next.to_string());
        let seconds = for_time.as_secs();
        write!(f, "partition {partition} has records up to offset {end}, and none was received for {seconds} s ")?;
        write!(f, "(position {next}, first offset {begin})")?;
        let why = begin_at.as_ref().map(|_| ": the topic was created again, or has lost records");
        f.write_str(why.unwrap_or_default())
    }
}

/// What is known of the partitions of a member.
#[derive(Debug, Default)]
pub struct Silence {
    readings: BTreeMap<i32, Reading>,
    /// The readings before the ends were asked for: only a position of that time can be compared with them.
    asked_at: BTreeMap<i32, Reading>,
    /// Those of which the client has said something since the last look. Nothing comes from a process that is suspended.
    is_fresh: BTreeSet<i32>,
    /// Since when a partition has records of which none arrives.
    unread_since: BTreeMap<i32, Instant>,
    /// New clients since the last record of the partition that is the cause.
    replaced: u32,
    /// Why the client was replaced, until records of this partition arrive, or another member reads it.
    cause: Option<Silent>,
    /// Since when the partition that is the cause is not ours.
    elsewhere_since: Option<Instant>,
}

impl Silence {
    /// What the client's statistics say of a partition.
    pub fn read(&mut self, partition: i32, reading: Reading) {
        let before = self.readings.insert(partition, reading);
        self.is_fresh.insert(partition);
        let has_moved = before.is_some_and(|before| before.next.is_some() && before.next != reading.next);
        if has_moved || reading.is_queued {
            self.unread_since.remove(&partition);
        }
        if has_moved && reading.next.is_some() && self.is_cause(partition) {
            self.recovered();
        }
    }

    /// The partition was assigned or revoked.
    pub fn forget(&mut self, partition: i32) {
        self.readings.remove(&partition);
        self.asked_at.remove(&partition);
        self.is_fresh.remove(&partition);
        self.unread_since.remove(&partition);
    }

    /// Nothing is to arrive, or nothing can.
    pub fn paused(&mut self) {
        self.unread_since.clear();
        self.elsewhere_since = None;
    }

    /// The ends are about to be asked for.
    pub fn asking(&mut self) {
        self.asked_at.clone_from(&self.readings);
    }

    /// Takes what the broker has of the partitions that are ours and not paused. Returns why the client must be
    /// replaced, if it must.
    pub fn looked(&mut self, ends: &BTreeMap<i32, Ends>, now: Instant) -> Option<Silent> {
        let after = SILENT_AFTER * 2_u32.pow(self.replaced.min(DOUBLINGS));
        let mut silent = None;
        for (partition, ends) in ends {
            let reading = self.readings.get(partition).copied().unwrap_or_default();
            let asked_at = self.asked_at.get(partition);
            let is_fresh = self.is_fresh.remove(partition) && asked_at.is_some_and(|it| it.next == reading.next);
            let is_unread = is_unread(reading.next, *ends);
            if is_fresh && !is_unread && self.is_cause(*partition) {
                self.recovered();
            }
            if !is_fresh || reading.is_queued || !is_unread {
                self.unread_since.remove(partition);
                continue;
            }
            let for_time = now.saturating_duration_since(*self.unread_since.entry(*partition).or_insert(now));
            if for_time >= after && silent.is_none() {
                silent = Some((*partition, reading.next, *ends, for_time));
            }
        }
        if self.cause.as_ref().is_none_or(|cause| ends.contains_key(&cause.partition)) {
            self.elsewhere_since = None;
        } else if now.saturating_duration_since(*self.elsewhere_since.get_or_insert(now)) >= SILENT_AFTER {
            self.recovered();
        }
        let (partition, next, its, for_time) = silent?;
        // All partitions of a topic are created together.
        let went_back = |partition: &i32, ends: &Ends| {
            self.asked_at.get(partition).and_then(|reading| reading.next).is_some_and(|next| ends.end < next)
        };
        let is_new = ends.iter().any(|(partition, ends)| went_back(partition, ends));
        let begin_at = is_new.then(|| ends.iter().map(|(partition, ends)| (*partition, ends.begin)).collect());
        let silent = Silent { partition, next, ends: its, for_time, begin_at };
        self.replaced += 1;
        self.cause = Some(silent.clone());
        self.readings.clear();
        self.unread_since.clear();
        Some(silent)
    }

    fn is_cause(&self, partition: i32) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.partition == partition)
    }

    fn recovered(&mut self) {
        (self.replaced, self.cause, self.elsewhere_since) = (0, None, None);
    }

    /// Why the client was replaced, until records of this partition arrive, or another member reads it.
    #[must_use]
    pub fn cause(&self) -> Option<&Silent> {
        self.cause.as_ref()
    }
}

/// Whether the broker has a record that the client has not read. A position beyond the end belongs to an earlier topic
/// of the same name, or to records that the broker has lost.
fn is_unread(next: Option<i64>, Ends { begin, end }: Ends) -> bool {
    match next {
        Some(next) if next <= end => next.max(begin) < end,
        _ => begin < end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    fn reads(silence: &mut Silence, partition: i32, next: i64) {
        silence.read(partition, Reading { next: Some(next), is_queued: false });
    }

    /// The statistics come again, and say the same.
    fn looked<const N: usize>(silence: &mut Silence, of: [(i32, i64, i64); N], at_seconds: u64) -> Option<Silent> {
        for (partition, reading) in silence.readings.clone() {
            silence.read(partition, reading);
        }
        looked_at_once(silence, of, at_seconds)
    }

    fn looked_at_once<const N: usize>(
        silence: &mut Silence,
        of: [(i32, i64, i64); N],
        at_seconds: u64,
    ) -> Option<Silent> {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        silence.asking();
        let ends = of.into_iter().map(|(partition, begin, end)| (partition, Ends { begin, end }));
        silence.looked(&ends.collect(), *BEGAN + Duration::from_secs(at_seconds))
    }

    #[test]
    fn i9_a_topic_that_was_created_again_is_read_from_its_beginning() {
        let mut silence = Silence::default();
        reads(&mut silence, 0, 100);
        reads(&mut silence, 1, 3);
        let found = [(0, 0, 5), (1, 0, 7)];
        assert_eq!(looked(&mut silence, found, 0), None, "it may just have been created");
        assert_eq!(looked(&mut silence, found, 19), None);
        let silent = looked(&mut silence, found, 20).unwrap();
        assert_eq!(silent.begin_at, Some(BTreeMap::from([(0, 0), (1, 0)])), "the other one is new as well");
        let text = silent.to_string();
        assert!(text.contains("partition 0 has records up to offset 5, and none was received for 20 s"), "{text}");
        assert!(text.contains("position 100") && text.contains("created again"), "{text}");
        assert!(silence.cause().is_some(), "it is shown until records arrive");
        reads(&mut silence, 0, 0);
        reads(&mut silence, 0, 5);
        assert_eq!(silence.cause(), None);
    }

    #[test]
    fn i9_records_that_do_not_arrive_are_noticed_also_within_one_topic() {
        let mut silence = Silence::default();
        reads(&mut silence, 0, 3);
        assert_eq!(looked(&mut silence, [(0, 0, 5)], 0), None);
        assert_eq!(looked(&mut silence, [(0, 0, 5)], 20).unwrap().begin_at, None, "the group's offsets hold");
        // The client has not found out where to begin.
        silence.read(0, Reading::default());
        assert_eq!(looked(&mut silence, [(0, 0, 5)], 30), None);
        assert_eq!(looked(&mut silence, [(0, 0, 5)], 69), None, "each new client gets more time");
        assert!(looked(&mut silence, [(0, 0, 5)], 70).is_some());
    }

    #[test]
    fn whoever_reads_waits_or_has_read_all_is_left_alone() {
        let mut silence = Silence::default();
        for (at, next) in (0..6).zip([0, 1, 2, 3, 4, 5]) {
            reads(&mut silence, 0, next);
            assert_eq!(looked(&mut silence, [(0, 0, 5)], at * 20), None, "position {next}");
        }
        let mut left_alone = |found, at: u64, then: &dyn Fn(&mut Silence)| {
            for at in [at, at + 20, at + 40] {
                assert_eq!(looked(&mut silence, [found], at), None, "{found:?}");
                then(&mut silence);
            }
        };
        left_alone((0, 0, 5), 200, &|_| {});
        left_alone((0, 9, 9), 300, &|_| {});
        left_alone((0, 0, 0), 400, &|_| {});
        left_alone((0, 0, 9), 500, &Silence::paused);
        left_alone((0, 0, 9), 600, &|silence| silence.forget(0));
        left_alone((0, 0, 9), 700, &|silence| silence.read(0, Reading { next: Some(5), is_queued: true }));
        // A process that was suspended: the look comes before the statistics.
        reads(&mut silence, 0, 5);
        assert_eq!(looked(&mut silence, [(0, 0, 9)], 800), None);
        assert_eq!(looked_at_once(&mut silence, [(0, 0, 9)], 2_000), None);
    }

    #[test]
    fn i9_what_another_partition_reads_does_not_hide_one_that_cannot_be_read() {
        let (mut silence, mut replaced_at) = (Silence::default(), Vec::new());
        for at in (0..=340).step_by(10) {
            reads(&mut silence, 0, 3);
            reads(&mut silence, 1, 100 + i64::from(at));
            let found = [(0, 0, 5), (1, 0, 100 + i64::from(at))];
            replaced_at.extend(looked(&mut silence, found, u64::from(at)).map(|_| at));
            assert_eq!(silence.cause().is_some(), at >= 20, "it is shown without a break, at {at}");
        }
        assert_eq!(replaced_at, [20, 70, 160, 330_u32], "each new client gets more time");
        reads(&mut silence, 0, 4);
        assert_eq!(silence.cause(), None);
    }

    #[test]
    fn i9_the_cause_stays_until_its_partition_is_read_or_belongs_to_another_member() {
        let replaced = || {
            let mut silence = Silence::default();
            reads(&mut silence, 0, 3);
            assert_eq!(looked(&mut silence, [(0, 0, 5)], 0), None);
            assert!(looked(&mut silence, [(0, 0, 5)], 20).is_some());
            silence.forget(0);
            silence
        };
        let mut silence = replaced();
        assert_eq!(looked_at_once(&mut silence, [(0, 0, 5)], 30), None);
        assert!(silence.cause().is_some(), "the new client has said nothing yet");
        assert_eq!(looked(&mut silence, [], 31), None);
        assert!(silence.cause().is_some(), "paused, or nothing is assigned yet");
        reads(&mut silence, 1, 5);
        assert_eq!(looked(&mut silence, [(0, 0, 5), (1, 0, 5)], 32), None);
        assert!(silence.cause().is_some(), "another partition is read to its end");
        reads(&mut silence, 0, 5);
        assert_eq!(looked(&mut silence, [(0, 0, 5)], 33), None);
        assert_eq!(silence.cause(), None, "the new client has read all");

        let mut silence = replaced();
        for at in [30, 49] {
            assert_eq!(looked(&mut silence, [(1, 0, 5)], at), None);
            assert!(silence.cause().is_some(), "the group may still decide");
        }
        assert_eq!(looked(&mut silence, [(1, 0, 5)], 50), None);
        assert_eq!(silence.cause(), None, "another member reads it");
    }
}
