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

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    const N: usize = 3;

    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Take,
        Renew(prop::sample::Index),
        Release(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let of = any::<prop::sample::Index>;
        prop_oneof![
            (0_u64..150).prop_map(Step::Pass),
            Just(Step::Take),
            of().prop_map(Step::Renew),
            of().prop_map(Step::Release),
        ]
    }

    proptest! {
        /// However holders vanish, come late and let go: of each place only the newest permit counts, a permit is given
        /// exactly while a place is free, and nobody loses one before its time has passed.
        #[test]
        fn a_place_has_one_holder(steps in prop::collection::vec(step(), 1..60)) {
            let permits = Permits::<N>::new(Millis(100));
            let (mut now, mut given, mut holders) = (Millis(0), Vec::<Permit>::new(), [None::<Permit>; N]);
            for step in steps {
                match step {
                    Step::Pass(ms) => now = now + Millis(ms),
                    Step::Take => {
                        let held = holders.iter().flatten().filter(|permit| permit.ends > now).count();
                        let taken = permits.take(now);
                        prop_assert_eq!(taken.is_some(), held < N);
                        if let Some(permit) = taken {
                            let before = holders[permit.at].replace(permit);
                            prop_assert!(before.is_none_or(|before| before.ends <= now), "{:?} was taken away", before);
                            given.push(permit);
                        }
                    }
                    Step::Renew(which) if !given.is_empty() => {
                        let permit = *which.get(&given);
                        let renewed = permits.renew(permit, now);
                        prop_assert_eq!(renewed.is_some(), holders[permit.at] == Some(permit));
                        if let Some(renewed) = renewed {
                            prop_assert!(renewed.ends >= now + Millis(100));
                            holders[permit.at] = Some(renewed);
                            given.push(renewed);
                        }
                    }
                    Step::Release(which) if !given.is_empty() => {
                        let permit = *which.get(&given);
                        permits.release(permit);
                        if holders[permit.at] == Some(permit) {
                            holders[permit.at] = None;
                        }
                    }
                    Step::Renew(_) | Step::Release(_) => {}
                }
            }
        }
    }
}
