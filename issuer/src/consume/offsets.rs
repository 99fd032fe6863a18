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
