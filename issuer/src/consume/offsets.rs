//! Which offset of each partition may be stored: the one before which everything is settled (I7).

use std::collections::{BTreeMap, VecDeque};

/// The offsets in hand, per partition.
#[derive(Debug, Default)]
pub struct Offsets {
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Offsets taken and not yet stored, ascending (not always without gaps), and whether each is settled.
    in_hand: VecDeque<(i64, bool)>,
    /// The offset from which to go on, where it has moved since [`Offsets::moved`].
    next: Option<i64>,
}

impl Offsets {
    /// A record was received.
    pub fn taken(&mut self, partition: i32, offset: i64) {
        let partition = self.partitions.entry(partition).or_default();
        // Kafka delivers in order. A step back means that the partition was read anew: what is in hand
        // from before counts for nothing.
        if partition.in_hand.back().is_some_and(|(last, _)| *last >= offset) {
            *partition = Partition::default();
        }
        partition.in_hand.push_back((offset, false));
    }

    /// The record is in MySQL or, acknowledged, in the dead-letter topic. A record of a partition that
    /// was taken away in the meantime moves nothing.
    pub fn settled(&mut self, partition: i32, offset: i64) {
        let Some(partition) = self.partitions.get_mut(&partition) else {
            return;
        };
        if let Ok(index) = partition.in_hand.binary_search_by_key(&offset, |(offset, _)| *offset)
            && let Some((_, settled)) = partition.in_hand.get_mut(index)
        {
            *settled = true;
        }
        while let Some((offset, true)) = partition.in_hand.front() {
            partition.next = Some(offset + 1);
            partition.in_hand.pop_front();
        }
    }

    /// Whether the record was received, and its partition not revoked or read anew since.
    #[must_use]
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        let find =
            |partition: &Partition| partition.in_hand.binary_search_by_key(&offset, |(offset, _)| *offset).is_ok();
        self.partitions.get(&partition).is_some_and(find)
    }

    /// The partition was revoked.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Each partition whose offset has moved since the last call, with the offset to go on from.
    pub fn moved(&mut self) -> Vec<(i32, i64)> {
        let moved = |(id, partition): (&i32, &mut Partition)| partition.next.take().map(|next| (*id, next));
        self.partitions.iter_mut().filter_map(moved).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_an_offset_moves_only_when_all_before_it_are_settled() {
        let mut offsets = Offsets::default();
        for offset in [10, 11, 12, 13] {
            offsets.taken(0, offset);
        }
        offsets.settled(0, 11);
        offsets.settled(0, 12);
        assert_eq!(offsets.moved(), []);
        offsets.settled(0, 10);
        assert_eq!(offsets.moved(), [(0, 13)]);
        assert_eq!(offsets.moved(), [], "returned once");
        offsets.settled(0, 13);
        assert_eq!(offsets.moved(), [(0, 14)]);
    }

    #[test]
    fn i7_partitions_move_by_themselves_and_gaps_do_not_matter() {
        let mut offsets = Offsets::default();
        for (partition, offset) in [(0, 5), (1, 7), (0, 9), (1, 100)] {
            offsets.taken(partition, offset);
        }
        offsets.settled(1, 7);
        offsets.settled(0, 9);
        assert_eq!(offsets.moved(), [(1, 8)]);
        offsets.settled(0, 5);
        offsets.settled(1, 100);
        assert_eq!(offsets.moved(), [(0, 10), (1, 101)]);
    }

    #[test]
    fn i7_a_partition_taken_away_moves_nothing() {
        let mut offsets = Offsets::default();
        offsets.taken(3, 1);
        offsets.forget(3);
        offsets.settled(3, 1);
        assert_eq!(offsets.moved(), []);
    }

    #[test]
    fn i7_a_partition_read_anew_begins_anew() {
        let mut offsets = Offsets::default();
        for offset in [5, 6, 5] {
            offsets.taken(0, offset);
        }
        offsets.settled(0, 6);
        assert_eq!(offsets.moved(), [], "offset 6 of the earlier reading says nothing about this one");
        offsets.settled(0, 5);
        assert_eq!(offsets.moved(), [(0, 6)]);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// The next record of a partition; Kafka leaves gaps.
        Take(i32, i64),
        Settle(i32, i64),
        Forget(i32),
        /// The partition is read again from a few offsets back.
        ReadAnew(i32, i64),
        Store,
    }

    fn step() -> impl Strategy<Value = Step> {
        let partition = 0..2_i32;
        prop_oneof![
            6 => (partition.clone(), 1..3_i64).prop_map(|(partition, gap)| Step::Take(partition, gap)),
            6 => (partition.clone(), 0..24_i64).prop_map(|(partition, offset)| Step::Settle(partition, offset)),
            1 => partition.clone().prop_map(Step::Forget),
            1 => (partition, 1..6_i64).prop_map(|(partition, back)| Step::ReadAnew(partition, back)),
            3 => Just(Step::Store),
        ]
    }

    proptest! {
        /// I7: an offset that is stored has nothing open before it, and it goes as far as it may.
        #[test]
        fn i7_nothing_open_is_before_a_stored_offset(steps in prop::collection::vec(step(), 1..80)) {
            let mut offsets = Offsets::default();
            // What was received since the partition came or was read anew, and whether it is settled.
            let mut received = [BTreeMap::<i64, bool>::new(), BTreeMap::new()];
            let (mut last, mut stored) = ([0_i64; 2], [None::<i64>; 2]);
            let of = |partition: i32| usize::try_from(partition).unwrap();
            for step in steps {
                match step {
                    Step::Take(partition, gap) => {
                        last[of(partition)] += gap;
                        offsets.taken(partition, last[of(partition)]);
                        received[of(partition)].insert(last[of(partition)], false);
                    }
                    Step::Settle(partition, offset) => {
                        offsets.settled(partition, offset);
                        if let Some(settled) = received[of(partition)].get_mut(&offset) {
                            *settled = true;
                        }
                    }
                    Step::Forget(partition) => {
                        offsets.forget(partition);
                        received[of(partition)].clear();
                        stored[of(partition)] = None;
                    }
                    Step::ReadAnew(partition, back) => {
                        // Not before what was stored: from there Kafka goes on.
                        let from = (last[of(partition)] - back).max(stored[of(partition)].unwrap_or(0));
                        if received[of(partition)].range(from..).any(|(_, settled)| !settled) {
                            last[of(partition)] = from;
                            received[of(partition)].clear();
                            offsets.taken(partition, from);
                            received[of(partition)].insert(from, false);
                        }
                    }
                    Step::Store => {
                        for (partition, next) in offsets.moved() {
                            let open = received[of(partition)].range(..next).find(|(_, settled)| !**settled);
                            prop_assert_eq!(open, None, "{} of partition {} is stored", next, partition);
                            prop_assert!(stored[of(partition)].is_none_or(|before| before < next), "it went back");
                            stored[of(partition)] = Some(next);
                        }
                        for (received, stored) in received.iter().zip(stored) {
                            let settled = received.iter().take_while(|(_, settled)| **settled).last();
                            prop_assert!(settled.is_none_or(|(last, _)| Some(*last) < stored), "{:?}", settled);
                        }
                    }
                }
            }
        }
    }
}
