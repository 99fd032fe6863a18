//! Places for work that may be in flight: few, and each a lease.
//!
//! A request that is cancelled runs no clean-up, so whoever holds a place may vanish. A place is
//! therefore free again when its time is over, and a holder asks before each step whether it is still his.

use std::cell::Cell;

/// At most `N` pieces of work at a time.
#[derive(Debug)]
pub struct Permits<const N: usize> {
    /// When each lease ends, ms; 0: free.
    ends_ms: Cell<[u64; N]>,
    lease_ms: u64,
}

/// A held place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    at: usize,
    ends_ms: u64,
}

impl<const N: usize> Permits<N> {
    /// Places whose holders have `lease_ms` for each step.
    #[must_use]
    pub fn new(lease_ms: u64) -> Self {
        Self { ends_ms: Cell::new([0; N]), lease_ms }
    }

    /// Takes a free place, if there is one.
    pub fn take(&self, now_ms: u64) -> Option<Permit> {
        let at = self.ends_ms.get().iter().position(|ends_ms| *ends_ms <= now_ms)?;
        Some(self.set(at, now_ms))
    }

    /// Prolongs the lease of `place` for one more step; none where it was lost.
    #[must_use]
    pub fn renew(&self, permit: Permit, now_ms: u64) -> Option<Permit> {
        self.holds(permit).then(|| self.set(permit.at, now_ms))
    }

    /// Gives `place` back.
    pub fn release(&self, permit: Permit) {
        if self.holds(permit) {
            self.store(permit.at, 0);
        }
    }

    fn holds(&self, permit: Permit) -> bool {
        self.ends_ms.get().get(permit.at) == Some(&permit.ends_ms)
    }

    fn set(&self, at: usize, now_ms: u64) -> Permit {
        // The end of a lease is also its holder's mark, so no two of a place may be alike.
        let last = self.ends_ms.get().get(at).copied().unwrap_or(0);
        let ends_ms = now_ms.saturating_add(self.lease_ms).max(last.saturating_add(1));
        self.store(at, ends_ms);
        Permit { at, ends_ms }
    }

    fn store(&self, at: usize, value_ms: u64) {
        let mut ends_ms = self.ends_ms.get();
        if let Some(slot) = ends_ms.get_mut(at) {
            *slot = value_ms;
        }
        self.ends_ms.set(ends_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_there_are() {
        let permits = Permits::<2>::new(100);
        let first = permits.take(0).unwrap();
        assert!(permits.take(0).is_some());
        assert_eq!(permits.take(0), None);
        permits.release(first);
        assert!(permits.take(0).is_some());
    }

    #[test]
    fn a_holder_that_vanished_loses_his_place_and_a_late_one_knows() {
        let permits = Permits::<1>::new(100);
        let vanished = permits.take(0).unwrap();
        assert_eq!(permits.take(99), None);
        let heir = permits.take(100).unwrap();
        assert_eq!(permits.renew(vanished, 101), None);
        permits.release(vanished);
        assert_eq!(permits.take(101), None, "the heir's permit was given away");
        assert!(permits.renew(heir, 150).is_some());
        assert_eq!(permits.take(201), None, "renewing did not prolong");
    }

    #[test]
    fn two_leases_of_one_moment_are_told_apart() {
        let permits = Permits::<1>::new(100);
        let first = permits.take(0).unwrap();
        let renewed = permits.renew(first, 0).unwrap();
        assert_ne!(first, renewed);
        assert_eq!(permits.renew(first, 0), None);
    }
}
