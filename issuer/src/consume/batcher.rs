//! Gathers items until there are enough of them or the first has waited long enough.

use std::time::Duration;
use tokio::time::Instant;

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

    /// Takes at most `size` items, oldest first. What exceeds that stays, and stays as old as it is.
    pub fn take(&mut self, size: usize) -> Vec<T> {
        if self.items.len() <= size {
            self.first_at = None;
            return std::mem::replace(&mut self.items, Vec::with_capacity(self.room));
        }
        let rest = self.items.split_off(size);
        std::mem::replace(&mut self.items, rest)
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
        assert_eq!(batcher.take(2), ['a', 'b']);
        assert_eq!(batcher.due_at(2), None);
    }

    #[test]
    fn due_by_the_age_of_the_first_item_not_of_the_last() {
        let now = Instant::now();
        let mut batcher = Batcher::new(100, LINGER);
        batcher.push('a', now);
        batcher.push('b', now + LINGER / 2);
        assert_eq!(batcher.due_at(100), Some(now + LINGER));
        assert_eq!(batcher.take(100), ['a', 'b']);
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
        assert_eq!(batcher.take(2), [0, 1]);
        assert_eq!(batcher.take(2), [2, 3]);
        assert_eq!(batcher.due_at(2), Some(now + LINGER), "the rest is as old as it was");
        assert_eq!(batcher.take(2), [4]);
        assert!(batcher.take(2).is_empty());
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
