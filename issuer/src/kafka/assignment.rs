//! What a member of the group knows of its partitions, and what follows from a rebalance. No I/O: the caller carries out
//! each [`Step`]. The adapter on librdkafka and the model of Kafka run this same code.
//!
//! librdkafka keeps the pause flag of a partition over revoke and assign, and `resume` reaches assigned partitions only.
//! So what is assigned gets the flag that holds now, whatever it was before (I9).

use super::silence::{Ends, Reading, Silence, Silent};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// Partitions of the topic.
pub type Partitions = BTreeSet<i32>;

/// A call to the Kafka client that the caller has to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Commit the stored offsets and wait for the answer.
    Commit,
    Pause(Partitions),
    Resume(Partitions),
    /// Commit these offsets, by partition, although the client takes the same or higher ones for committed.
    CommitBack(BTreeMap<i32, i64>),
}

/// The offsets of a partition as the client's statistics report them; `None` where the client does not know one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    /// The first offset in the broker.
    pub begin: Option<i64>,
    /// The offset after the last record in the broker.
    pub end: Option<i64>,
    /// Committed by the group.
    pub committed: Option<i64>,
    /// Stored by this member since the partition was assigned.
    pub stored: Option<i64>,
    pub reading: Reading,
}

impl Offsets {
    /// Records that are not settled.
    fn lag(self) -> Option<u64> {
        let begin = self.begin.unwrap_or(0);
        // The end is that of the last fetch. It is unknown while the committed offset is beyond it: either it is out of
        // date, or the committed offset belongs to an earlier topic of the same name.
        u64::try_from(self.end? - self.stored.or(self.committed).unwrap_or(begin).max(begin)).ok()
    }

    /// The stored offset, if the client will not commit it by itself.
    ///
    /// A topic that was deleted and created again begins at 0, and the offsets of the old one lie beyond its end. The
    /// client starts again at the beginning by itself (`auto.offset.reset`), but commits only what is beyond the
    /// committed offset, so the group would stay behind on every record up to there (rdkafka_partition.c,
    /// `rd_kafka_topic_partition_list_set_offsets`). A commit with a list of offsets has no such check. The broker may
    /// also have dropped an offset that the client takes for committed, so an equal one is committed again. At worst
    /// this repeats records (I6).
    fn commit_back(self) -> Option<i64> {
        self.stored.filter(|stored| self.committed.is_some_and(|committed| committed >= *stored))
    }
}

/// A member's part of the topic.
#[derive(Debug, Default)]
pub struct Assignment {
    owned: Partitions,
    revoked: Vec<i32>,
    all: usize,
    lags: BTreeMap<i32, u64>,
    paused: bool,
    silence: Silence,
    /// The client is being replaced: what it stored or does counts no longer.
    abandoned: bool,
}

impl Assignment {
    /// Nothing is assigned yet; the topic has `all` partitions.
    #[must_use]
    pub fn new(all: usize) -> Self {
        Self { all, ..Self::default() }
    }

    /// In the callback, before the client assigns.
    pub fn assigned(&mut self, partitions: &Partitions) -> Option<Step> {
        self.owned.extend(partitions);
        self.abandoned = false;
        partitions.iter().for_each(|partition| self.silence.forget(*partition));
        let step = if self.paused { Step::Pause } else { Step::Resume };
        (!partitions.is_empty()).then(|| step(partitions.clone()))
    }

    /// In the callback, first. Lost partitions may have another owner already, so nothing is committed for them.
    #[must_use]
    pub fn revoking(&self, partitions: &Partitions, lost: bool) -> Option<Step> {
        (!lost && !self.abandoned && !partitions.is_empty()).then_some(Step::Commit)
    }

    /// In the callback, before the client gives the partitions up.
    pub fn revoked(&mut self, partitions: &Partitions) {
        self.owned.retain(|partition| !partitions.contains(partition));
        self.lags.retain(|partition, _| !partitions.contains(partition));
        partitions.iter().for_each(|partition| self.silence.forget(*partition));
        self.revoked.extend(partitions);
    }

    /// Takes the client's statistics: the number of partitions, which only grows, and the offsets of each.
    pub fn statistics(&mut self, all: usize, offsets: &BTreeMap<i32, Offsets>) -> Option<Step> {
        self.all = self.all.max(all);
        let mut back = BTreeMap::new();
        self.lags.clear();
        for (partition, offsets) in offsets.iter().filter(|(partition, _)| self.owned.contains(partition)) {
            self.lags.extend(offsets.lag().map(|lag| (*partition, lag)));
            back.extend(offsets.commit_back().map(|offset| (*partition, offset)));
            self.silence.read(*partition, offsets.reading);
        }
        (!back.is_empty()).then_some(Step::CommitBack(back))
    }

    /// The application has paused all, or resumed all.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if paused {
            self.silence.paused();
        }
    }

    /// The partitions of which records should arrive: the caller asks for their ends now, and every
    /// [`super::silence::LOOK_EVERY`], and brings them to [`Assignment::looked`].
    #[must_use]
    pub fn expected(&mut self) -> Partitions {
        self.silence.asking();
        if self.paused { Partitions::new() } else { self.owned.clone() }
    }

    /// Takes what the broker has of the partitions. If the client must be replaced, its partitions count as revoked: the
    /// caller commits [`Silent::begin_at`], if any, and nothing that is stored; ends the client; and joins with a new one.
    pub fn looked(&mut self, ends: &BTreeMap<i32, Ends>, now: Instant) -> Option<Silent> {
        if self.paused {
            return None;
        }
        let expected = self.owned.clone();
        let ends = ends.iter().filter(|(partition, _)| expected.contains(partition));
        let silent = self.silence.looked(&ends.map(|(partition, ends)| (*partition, *ends)).collect(), now)?;
        self.abandoned = true;
        self.revoked(&expected);
        Some(silent)
    }

    /// The ends are not known: the broker may be away, for the client that reads as well.
    pub fn not_looked(&mut self) {
        self.silence.paused();
    }

    /// Why the client was replaced, until records of that partition arrive, or another member reads it.
    #[must_use]
    pub fn silence(&self) -> Option<&Silent> {
        self.silence.cause()
    }

    /// The partitions that were revoked since the last call.
    pub fn take_revoked(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.revoked)
    }

    #[must_use]
    pub fn owned(&self) -> &Partitions {
        &self.owned
    }

    /// How many partitions the topic has.
    #[must_use]
    pub fn all(&self) -> usize {
        self.all
    }

    /// Each owned partition, with the number of its records that are not settled where that is known.
    #[must_use]
    pub fn lags(&self) -> Vec<(i32, Option<u64>)> {
        self.owned.iter().map(|partition| (*partition, self.lags.get(partition).copied())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn offsets(committed: i64, stored: Option<i64>, end: i64) -> BTreeMap<i32, Offsets> {
        BTreeMap::from([(
            0,
            Offsets { begin: Some(0), end: Some(end), committed: Some(committed), stored, ..Offsets::default() },
        )])
    }

    #[test]
    fn i9_what_is_assigned_gets_the_flag_that_holds_now() {
        let (zero, one) = (Partitions::from([0]), Partitions::from([1]));
        let mut assignment = Assignment::new(2);
        assert_eq!(assignment.assigned(&zero), Some(Step::Resume(zero.clone())));
        assignment.set_paused(true);
        assert_eq!(assignment.assigned(&one), Some(Step::Pause(one.clone())));
        assert_eq!(assignment.revoking(&one, false), Some(Step::Commit));
        assert_eq!(assignment.revoking(&one, true), None);
        assignment.revoked(&one);
        assignment.set_paused(false);
        assert_eq!(assignment.assigned(&one), Some(Step::Resume(one)), "it was revoked while paused");
        assert_eq!(assignment.assigned(&Partitions::new()), None);
        assert_eq!(assignment.take_revoked(), [1]);
    }

    #[test]
    fn i9_a_client_that_reads_nothing_is_replaced_and_commits_nothing_more() {
        let (mut assignment, zero) = (Assignment::new(1), Partitions::from([0]));
        assignment.assigned(&zero);
        let reading = Reading { next: Some(100), is_queued: false };
        let statistics = BTreeMap::from([(0, Offsets { reading, ..Offsets::default() })]);
        assignment.statistics(1, &statistics);
        let (found, now) = (BTreeMap::from([(0, Ends { begin: 0, end: 5 })]), Instant::now());
        assignment.set_paused(true);
        assert!(assignment.expected().is_empty() && assignment.looked(&found, now).is_none(), "paused");
        assignment.set_paused(false);
        assert_eq!(assignment.expected(), zero);
        assert_eq!(assignment.looked(&found, now), None);
        assignment.statistics(1, &statistics);
        assert_eq!(assignment.expected(), zero);
        let silent = assignment.looked(&found, now + Duration::from_secs(20)).unwrap();
        assert_eq!(silent.begin_at, Some(BTreeMap::from([(0, 0)])));
        assert_eq!(assignment.take_revoked(), [0], "what is in hand of it counts no longer");
        assert_eq!(assignment.revoking(&zero, false), None, "the stored offset is that of the old topic");
        assignment.assigned(&zero);
        assert_eq!(assignment.revoking(&zero, false), Some(Step::Commit), "the new client commits");
    }

    #[test]
    fn i9_a_topic_is_not_taken_for_a_new_one_because_it_was_read_while_the_ends_were_asked_for() {
        let mut assignment = Assignment::new(2);
        assignment.assigned(&Partitions::from([0, 1]));
        let says = |assignment: &mut Assignment, busy: i64| {
            let reading =
                |next| Offsets { reading: Reading { next: Some(next), is_queued: false }, ..Offsets::default() };
            assignment.statistics(2, &BTreeMap::from([(0, reading(3)), (1, reading(busy))]));
        };
        let ends = |end| BTreeMap::from([(0, Ends { begin: 0, end: 5 }), (1, Ends { begin: 0, end })]);
        let now = Instant::now();
        says(&mut assignment, 10);
        assert_eq!(assignment.expected(), Partitions::from([0, 1]));
        assert_eq!(assignment.looked(&ends(10), now), None);
        says(&mut assignment, 10);
        assert_eq!(assignment.expected(), Partitions::from([0, 1]));
        says(&mut assignment, 20);
        let silent = assignment.looked(&ends(15), now + Duration::from_secs(20)).unwrap();
        assert_eq!(silent.begin_at, None, "partition 1 was read beyond the end that was found before");
    }

    #[test]
    fn the_lag_of_each_owned_partition_is_shown_also_when_nothing_moves() {
        let mut assignment = Assignment::new(2);
        assignment.assigned(&Partitions::from([0, 1]));
        assert_eq!(assignment.lags(), [(0, None), (1, None)]);
        assert_eq!(assignment.statistics(2, &offsets(3, None, 10)), None);
        assert_eq!(assignment.lags(), [(0, Some(7)), (1, None)]);
        assert_eq!(assignment.statistics(2, &offsets(3, Some(10), 10)), None);
        assert_eq!(assignment.lags(), [(0, Some(0)), (1, None)]);
    }

    #[test]
    fn i9_offsets_of_an_earlier_topic_are_replaced() {
        let mut assignment = Assignment::new(1);
        assignment.assigned(&Partitions::from([0]));
        assert_eq!(assignment.statistics(1, &offsets(100, None, 4)), None, "nothing of the new topic is settled");
        assert_eq!(assignment.lags(), [(0, None)]);
        let back = Step::CommitBack(BTreeMap::from([(0, 2)]));
        assert_eq!(assignment.statistics(1, &offsets(100, Some(2), 4)), Some(back));
        assert_eq!(assignment.lags(), [(0, Some(2))]);
        let again = Step::CommitBack(BTreeMap::from([(0, 4)]));
        assert_eq!(assignment.statistics(1, &offsets(4, Some(4), 4)), Some(again), "the broker may have dropped it");
    }
}
