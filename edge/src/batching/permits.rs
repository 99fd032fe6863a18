//! Permits for work in flight: few, and each with an end.
//!
//! The runtime may cancel a request without any clean-up, so a holder may vanish with its permit. A permit is therefore
//! free again when its time has passed, and a holder renews it before each step: a late one learns that it has lost it.

use dropgate_shared::time::Millis;
use std::cell::Cell;

/// At most `N` pieces of work at a time.
#[derive(Debug)]
pub struct Permits<const N: usize> {
    /// When each permit is free again. Of two permits for one place no two have the same end, so it identifies the
    /// holder too.
    ends: Cell<[Millis; N]>,
    /// The time that a holder has for one step.
    step: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    at: usize,
    ends: Millis,
}

impl<const N: usize> Permits<N> {
    #[must_use]
    pub fn new(step: Millis) -> Self {
        Self { ends: Cell::new([Millis(0); N]), step }
    }

    pub fn take(&self, now: Millis) -> Option<Permit> {
        let at = self.ends.get().iter().position(|ends| *ends <= now)?;
        Some(self.extend(at, now))
    }

    /// The permit for one more step; none if it was lost.
    #[must_use]
    pub fn renew(&self, permit: Permit, now: Millis) -> Option<Permit> {
        self.is_held(permit).then(|| self.extend(permit.at, now))
    }

    pub fn release(&self, permit: Permit) {
        if self.is_held(permit) {
            self.set(permit.at, Millis(0));
        }
    }

    fn is_held(&self, permit: Permit) -> bool {
        self.ends.get().get(permit.at) == Some(&permit.ends)
    }

    fn extend(&self, at: usize, now: Millis) -> Permit {
        let last = self.ends.get().get(at).copied().unwrap_or_default();
        let ends = (now + self.step).max(last + Millis(1));
        self.set(at, ends);
        Permit { at, ends }
    }

    fn set(&self, at: usize, value: Millis) {
        let mut ends = self.ends.get();
        if let Some(end) = ends.get_mut(at) {
            *end = value;
        }
        self.ends.set(ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_permits_than_n() {
        let permits = Permits::<2>::new(Millis(100));
        let first = permits.take(Millis(0)).unwrap();
        assert!(permits.take(Millis(0)).is_some());
        assert_eq!(permits.take(Millis(0)), None);
        permits.release(first);
        assert!(permits.take(Millis(0)).is_some());
    }

    #[test]
    fn a_holder_that_vanished_loses_its_permit_and_a_late_one_learns_it() {
        let permits = Permits::<1>::new(Millis(100));
        let vanished = permits.take(Millis(0)).unwrap();
        assert_eq!(permits.take(Millis(99)), None);
        let successor = permits.take(Millis(100)).unwrap();
        assert_eq!(permits.renew(vanished, Millis(101)), None);
        permits.release(vanished);
        assert_eq!(permits.take(Millis(101)), None, "the successor's permit was released");
        assert!(permits.renew(successor, Millis(150)).is_some());
        assert_eq!(permits.take(Millis(201)), None, "the renewal did not extend it");
    }

    #[test]
    fn two_permits_of_one_moment_differ() {
        let permits = Permits::<1>::new(Millis(100));
        let first = permits.take(Millis(0)).unwrap();
        let renewed = permits.renew(first, Millis(0)).unwrap();
        assert_ne!(first, renewed);
        assert_eq!(permits.renew(first, Millis(0)), None);
    }
}
