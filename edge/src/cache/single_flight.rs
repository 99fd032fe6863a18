//! A value that one request fetches for all.

use crate::platform::{Platform, Wake};
use dropgate_shared::fault::Fault;
use dropgate_shared::time::Millis;
use std::cell::{Cell, RefCell};

/// Holds the last value, the fault of the last fetch, and who fetches now and who waits. A request that finds the value
/// too old and no fetch under way fetches it, in the background; the end of the fetch wakes all. A fetch that vanishes
/// with its request is replaced when its time has passed.
pub struct SingleFlight<T> {
    /// With the time when the fetch began: the value is at least as old.
    value: RefCell<Option<(Millis, T)>>,
    /// With the time when the fetch ended.
    fault: RefCell<Option<(Millis, Fault)>>,
    began: Cell<Millis>,
    /// Until then no other fetch begins.
    reserved_until: Cell<Millis>,
    waiting: RefCell<Vec<Wake>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self {
            value: RefCell::default(),
            fault: RefCell::default(),
            began: Cell::default(),
            reserved_until: Cell::default(),
            waiting: RefCell::default(),
        }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// The value and when its fetch began, if that was less than `max_age` ago.
    #[must_use]
    pub fn fresh(&self, now: Millis, max_age: Millis) -> Option<(Millis, T)> {
        self.value.borrow().as_ref().filter(|(asked, _)| now - *asked < max_age).cloned()
    }

    /// The fault of a fetch that ended at `since` or later.
    #[must_use]
    pub fn fault_since(&self, since: Millis) -> Option<Fault> {
        self.fault.borrow().as_ref().filter(|(at, _)| *at >= since).map(|(_, fault)| fault.clone())
    }

    #[must_use]
    pub fn is_fetching(&self, now: Millis) -> bool {
        now < self.reserved_until.get()
    }

    /// Reserves the fetch for the caller for `limit`; false if another has it.
    #[must_use]
    pub fn try_lead(&self, now: Millis, limit: Millis) -> bool {
        let free = !self.is_fetching(now);
        if free {
            self.reserved_until.set(now + limit);
            self.began.set(now);
        }
        free
    }

    /// Waits for the end of the fetch, until `deadline` at the latest.
    pub async fn ended<P: Platform>(&self, deadline: Millis, platform: &P) {
        let (wake, ended) = platform.pause(deadline - platform.now());
        self.waiting.borrow_mut().push(wake);
        ended.await;
    }

    /// When the last fetch began.
    #[must_use]
    pub fn began(&self) -> Millis {
        self.began.get()
    }

    /// Ends the fetch that began at `asked`, and wakes those who wait. A fault keeps the old value, and so does a value older than it.
    pub fn complete(&self, asked: Millis, now: Millis, result: Result<T, Fault>) {
        self.reserved_until.set(Millis(0));
        match result {
            Ok(value) => {
                self.fault.replace(None);
                let mut held = self.value.borrow_mut();
                if held.as_ref().is_none_or(|(since, _)| *since <= asked) {
                    *held = Some((asked, value));
                }
            }
            Err(fault) => {
                self.fault.replace(Some((now, fault)));
            }
        }
        self.waiting.take().into_iter().for_each(Wake::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_shared::fault::Source;

    const LIMIT: Millis = Millis(100);

    #[test]
    fn one_fetches_and_a_vanished_fetch_is_replaced() {
        let flight = SingleFlight::<u8>::default();
        assert!(flight.try_lead(Millis(0), LIMIT));
        assert!(!flight.try_lead(Millis(99), LIMIT));
        assert!(flight.try_lead(Millis(100), LIMIT));
        flight.complete(Millis(100), Millis(110), Ok(7));
        assert!(!flight.is_fetching(Millis(110)));
        let fresh = |now| flight.fresh(Millis(now), Millis(1_000));
        assert_eq!((fresh(1_099), fresh(1_100)), (Some((Millis(100), 7)), None));
    }

    #[test]
    fn a_fault_is_returned_to_those_who_waited_and_keeps_the_old_value() {
        let flight = SingleFlight::<u8>::default();
        flight.complete(Millis(0), Millis(5), Ok(7));
        flight.complete(Millis(10), Millis(15), Err(Fault::unknown(Source::Redis, "timeout", "")));
        assert!(flight.fault_since(Millis(12)).is_some() && flight.fault_since(Millis(16)).is_none());
        assert_eq!(flight.fresh(Millis(20), LIMIT), Some((Millis(0), 7)));
    }

    #[test]
    fn a_late_result_does_not_replace_a_newer_one() {
        let flight = SingleFlight::<u8>::default();
        flight.complete(Millis(100), Millis(110), Ok(2));
        flight.complete(Millis(0), Millis(120), Ok(1));
        assert_eq!(flight.fresh(Millis(120), Millis(1_000)), Some((Millis(100), 2)));
    }
}
