//! Something that one request fetches for all: a value with an age, never a promise.
//!
//! Nobody awaits another request's I/O. Whoever finds the value too old and the lease free fetches it,
//! the others look now and then.

use dropgate_shared::fault::Fault;
use std::cell::{Cell, RefCell};

/// A fetched value, and who fetches it anew.
#[derive(Debug)]
pub struct SingleFlight<T> {
    value: RefCell<Option<(u64, T)>>,
    fault: RefCell<Option<(u64, Fault)>>,
    tried_ms: Cell<u64>,
    leased_until_ms: Cell<u64>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self {
            value: RefCell::default(),
            fault: RefCell::default(),
            tried_ms: Cell::default(),
            leased_until_ms: Cell::default(),
        }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// The value, if it was asked for less than `age_ms` ago, and when.
    #[must_use]
    pub fn fresh(&self, now_ms: u64, age_ms: u64) -> Option<(u64, T)> {
        self.value.borrow().as_ref().filter(|(asked_ms, _)| now_ms.saturating_sub(*asked_ms) < age_ms).cloned()
    }

    /// The fault of a fetch that ended at `since_ms` or later.
    #[must_use]
    pub fn fault_since(&self, since_ms: u64) -> Option<Fault> {
        self.fault.borrow().as_ref().filter(|(at_ms, _)| *at_ms >= since_ms).map(|(_, fault)| fault.clone())
    }

    /// Whether somebody fetches it.
    #[must_use]
    pub fn fetching(&self, now_ms: u64) -> bool {
        now_ms < self.leased_until_ms.get()
    }

    /// Takes the lease to fetch it, for `lease_ms`, unless another has it.
    #[must_use]
    pub fn try_lead(&self, now_ms: u64, lease_ms: u64) -> bool {
        let free = !self.fetching(now_ms);
        if free {
            self.leased_until_ms.set(now_ms.saturating_add(lease_ms));
            self.tried_ms.set(now_ms);
        }
        free
    }

    /// When the last fetch began, ms.
    #[must_use]
    pub fn tried_ms(&self) -> u64 {
        self.tried_ms.get()
    }

    /// A fetch that began at `asked_ms` has ended at `now_ms`. A fault leaves the old value.
    pub fn complete(&self, asked_ms: u64, now_ms: u64, result: Result<T, Fault>) {
        self.leased_until_ms.set(0);
        match result {
            Ok(value) => {
                self.fault.replace(None);
                let mut held = self.value.borrow_mut();
                if held.as_ref().is_none_or(|(held_ms, _)| *held_ms <= asked_ms) {
                    *held = Some((asked_ms, value));
                }
            }
            Err(fault) => {
                self.fault.replace(Some((now_ms, fault)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_shared::fault::Source;

    #[test]
    fn one_fetches_and_a_vanished_one_is_replaced() {
        let flight = SingleFlight::<u8>::default();
        assert!(flight.try_lead(0, 100) && !flight.try_lead(99, 100) && flight.try_lead(100, 100));
        flight.complete(100, 110, Ok(7));
        assert!(!flight.fetching(110));
        assert_eq!((flight.fresh(1_099, 1_000), flight.fresh(1_100, 1_000)), (Some((100, 7)), None));
    }

    #[test]
    fn a_fault_is_told_to_those_who_waited_and_leaves_the_old_value() {
        let flight = SingleFlight::<u8>::default();
        flight.complete(0, 5, Ok(7));
        flight.complete(10, 15, Err(Fault::unknown(Source::Redis, "timeout", "")));
        assert!(flight.fault_since(12).is_some() && flight.fault_since(16).is_none());
        assert_eq!(flight.fresh(20, 100), Some((0, 7)));
    }

    #[test]
    fn a_late_answer_does_not_replace_a_younger_one() {
        let flight = SingleFlight::<u8>::default();
        flight.complete(100, 110, Ok(2));
        flight.complete(0, 120, Ok(1));
        assert_eq!(flight.fresh(120, 1_000), Some((100, 2)));
    }
}
