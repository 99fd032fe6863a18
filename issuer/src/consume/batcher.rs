//! Gathers items until there are enough of them or the first has waited long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Which turn each group had last.
#[derive(Debug)]
pub struct Turns<K>(BTreeMap<K, u64>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A batcher. The clock comes in with every call, and so does the size of a batch: a budget may change it.
#[derive(Debug)]
pub struct Batcher<T> {
    items: Vec<T>,
    first_at: Option<Instant>,
    room: usize,
    linger: Duration,
}

impl<T> Batcher<T> {
    /// Has room for `room` items (at least one). None waits longer than `linger` for others.
    #[must_use]
    pub fn new(room: usize, linger: Duration) -> Self {
        let room = room.max(1);
        Self { items: Vec::with_capacity(room), first_at: None, room, linger }
    }

    /// Adds an item that arrived at `now`.
    pub fn push(&mut self, item: T, now: Instant) {
        self.first_at.get_or_insert(now);
        self.items.push(item);
    }

    /// Whether there is no more room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.room
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// When a batch of `size` is due if nothing more arrives; `None` while there is nothing. A time in the
    /// past: it is due.
    #[must_use]
    pub fn due_at(&self, size: usize) -> Option<Instant> {
        let first_at = self.first_at?;
        Some(if self.items.len() >= size.clamp(1, self.room) { first_at } else { first_at + self.linger })
    }

    /// Takes at most `size` items: the groups take turns, and each gives its oldest. What exceeds that stays, and stays
    /// as old as it is.
    pub fn take<K: Ord + Clone>(&mut self, size: usize, turns: &mut Turns<K>, group: impl Fn(&T) -> K) -> Vec<T> {
        if self.items.len() <= size {
            self.first_at = None;
            turns.0.clear();
            return std::mem::replace(&mut self.items, Vec::with_capacity(self.room));
        }
        let mut groups = BTreeMap::<K, usize>::new();
        let mut order: Vec<_> = self
            .items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                let group = group(item);
                let before = groups.entry(group.clone()).or_default();
                *before += 1;
                let last_turn = turns.0.get(&group).copied().unwrap_or(0);
                ((*before, last_turn, index), group)
            })
            .collect();
        order.sort_unstable_by_key(|(place, _)| *place);
        order.truncate(size);
        turns.0.retain(|group, _| groups.contains_key(group));
        let mut last = turns.0.values().copied().max().unwrap_or(0);
        let mut taken = BTreeSet::new();
        for ((.., index), group) in order {
            last += 1;
            turns.0.insert(group, last);
            taken.insert(index);
        }
        let mut index = 0;
        self.items
            .extract_if(.., |_| {
                index += 1;
                taken.contains(&(index - 1))
            })
            .collect()
    }

    /// Takes out the items for which this holds. What stays is as old as it was.
    pub fn extract(&mut self, take: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let taken = self.items.extract_if(.., take).collect();
        if self.items.is_empty() {
            self.first_at = None;
        }
        taken
    }

    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Drops the items that are not to be kept.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.items.retain(keep);
        if self.items.is_empty() {
            self.first_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take<T>(batcher: &mut Batcher<T>, size: usize) -> Vec<T> {
        batcher.take(size, &mut Turns::default(), |_| ())
    }

    const LINGER: Duration = Duration::from_millis(20);

    #[test]
    fn due_by_size() {
        let now = Instant::now();
        let mut batcher = Batcher::new(10, LINGER);
        assert_eq!(batcher.due_at(2), None, "nothing is never due");
        batcher.push('a', now);
        assert_eq!(batcher.due_at(2), Some(now + LINGER));
        assert_eq!(batcher.due_at(1), Some(now));
        batcher.push('b', now);
        assert_eq!(batcher.due_at(2), Some(now));
        assert_eq!(take(&mut batcher, 2), ['a', 'b']);
        assert_eq!(batcher.due_at(2), None);
    }

    #[test]
    fn due_by_the_age_of_the_first_item_not_of_the_last() {
        let now = Instant::now();
        let mut batcher = Batcher::new(100, LINGER);
        batcher.push('a', now);
        batcher.push('b', now + LINGER / 2);
        assert_eq!(batcher.due_at(100), Some(now + LINGER));
        assert_eq!(take(&mut batcher, 100), ['a', 'b']);
        batcher.push('c', now + LINGER * 5);
        assert_eq!(batcher.due_at(100), Some(now + LINGER * 6));
    }

    #[test]
    fn never_more_than_asked_for_and_none_lost() {
        let now = Instant::now();
        let mut batcher = Batcher::new(5, LINGER);
        for item in 0..5 {
            assert!(!batcher.is_full());
            batcher.push(item, now);
        }
        assert!(batcher.is_full());
        assert_eq!(batcher.due_at(1_000), Some(now), "a batch larger than the room is due when that is full");
        assert_eq!(take(&mut batcher, 2), [0, 1]);
        assert_eq!(take(&mut batcher, 2), [2, 3]);
        assert_eq!(batcher.due_at(2), Some(now + LINGER), "the rest is as old as it was");
        assert_eq!(take(&mut batcher, 2), [4]);
        assert!(take(&mut batcher, 2).is_empty());
    }

    #[test]
    fn no_group_waits_behind_a_larger_one() {
        let now = Instant::now();
        let mut batcher = Batcher::new(20, LINGER);
        for item in ["a1", "a2", "a3", "a4", "a5", "b1", "a6", "b2", "c1"] {
            batcher.push(item, now);
        }
        let mut turns = Turns::default();
        let mut take = |size| batcher.take(size, &mut turns, |item| item.chars().next());
        assert_eq!(take(4), ["a1", "a2", "b1", "c1"], "in the order of arrival");
        assert_eq!(take(1), ["b2"], "a had the last turn");
        assert_eq!(take(1), ["a3"]);
        assert_eq!(take(2), ["a4", "a5"]);
        batcher.push("b3", now);
        batcher.push("c2", now);
        let mut take = |size| batcher.take(size, &mut turns, |item| item.chars().next());
        assert_eq!([take(1), take(1), take(1)], [["b3"], ["c2"], ["a6"]], "also one by one");
    }

    #[test]
    fn what_is_dropped_is_not_waited_for() {
        let now = Instant::now();
        let mut batcher = Batcher::new(5, LINGER);
        batcher.push(1, now);
        batcher.retain(|item| *item != 1);
        assert_eq!((batcher.due_at(1), batcher.len()), (None, 0));
    }
}
