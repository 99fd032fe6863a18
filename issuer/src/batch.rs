//! Gathers items until there are enough of them or the first has waited long enough.

use std::time::{Duration, Instant};

/// A batcher. The clock comes in with every call.
#[derive(Debug)]
pub struct Batcher<T> {
    items: Vec<T>,
    first_at: Option<Instant>,
    size: usize,
    linger: Duration,
}

impl<T> Batcher<T> {
    /// Batches of at most `size` items (at least one), none older than `linger` when it is due.
    #[must_use]
    pub fn new(size: usize, linger: Duration) -> Self {
        let size = size.max(1);
        Self { items: Vec::with_capacity(size), first_at: None, size, linger }
    }

    /// Adds an item that arrived at `now`.
    pub fn push(&mut self, item: T, now: Instant) {
        self.first_at.get_or_insert(now);
        self.items.push(item);
    }

    /// Whether a batch should be taken at `now`.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.is_full() || self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether the batch has reached its size.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() >= self.size
    }

    /// When the batch is due even if nothing more arrives; `None` while it is empty.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.first_at.map(|first_at| first_at + self.linger)
    }

    /// Takes a batch, oldest items first. What exceeds the size stays, and stays as old as it is.
    pub fn take(&mut self) -> Vec<T> {
        if self.items.len() <= self.size {
            self.first_at = None;
            return std::mem::replace(&mut self.items, Vec::with_capacity(self.size));
        }
        let rest = self.items.split_off(self.size);
        std::mem::replace(&mut self.items, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(20);

    #[test]
    fn due_by_size() {
        let now = Instant::now();
        let mut batcher = Batcher::new(2, LINGER);
        assert!(!batcher.is_due(now + LINGER * 100), "an empty batch is never due");
        batcher.push('a', now);
        assert!(!batcher.is_due(now));
        batcher.push('b', now);
        assert!(batcher.is_due(now));
        assert_eq!(batcher.take(), ['a', 'b']);
        assert_eq!(batcher.deadline(), None);
    }

    #[test]
    fn due_by_the_age_of_the_first_item_not_of_the_last() {
        let now = Instant::now();
        let mut batcher = Batcher::new(100, LINGER);
        batcher.push('a', now);
        batcher.push('b', now + LINGER / 2);
        assert_eq!(batcher.deadline(), Some(now + LINGER));
        assert!(!batcher.is_due(now + LINGER - Duration::from_millis(1)));
        assert!(batcher.is_due(now + LINGER));
        assert_eq!(batcher.take(), ['a', 'b']);
        batcher.push('c', now + LINGER * 5);
        assert_eq!(batcher.deadline(), Some(now + LINGER * 6));
    }

    #[test]
    fn never_more_than_its_size_and_none_lost() {
        let now = Instant::now();
        let mut batcher = Batcher::new(2, LINGER);
        for item in 0..5 {
            batcher.push(item, now);
        }
        assert_eq!(batcher.take(), [0, 1]);
        assert_eq!(batcher.take(), [2, 3]);
        assert!(batcher.is_due(now + LINGER), "the rest is as old as it was");
        assert_eq!(batcher.take(), [4]);
        assert!(batcher.take().is_empty());
    }
}
