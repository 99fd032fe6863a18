//! A lane of an isolate: things wait in arrival order, and whoever finds a free place takes many of
//! one campaign at once.

use crate::batching::permits::{Permit, Permits};
use dropgate_shared::ids::CampaignId;
use std::cell::RefCell;
use std::collections::VecDeque;

/// What a lane carries.
pub trait OfCampaign {
    /// The campaign it belongs to.
    fn campaign(&self) -> &CampaignId;
}

/// A bounded queue with `IN_FLIGHT` places to work at it.
#[derive(Debug)]
pub struct BatchQueue<T, const IN_FLIGHT: usize> {
    waiting: RefCell<VecDeque<T>>,
    permits: Permits<IN_FLIGHT>,
    batch: usize,
    most: usize,
}

impl<T: OfCampaign, const IN_FLIGHT: usize> BatchQueue<T, IN_FLIGHT> {
    /// A lane for `most` waiting things, taken by `batch` at most; a holder of a place has `step_ms`
    /// from one batch to the next.
    #[must_use]
    pub fn new(most: usize, batch: usize, step_ms: u64) -> Self {
        Self { waiting: RefCell::default(), permits: Permits::new(step_ms), batch, most }
    }

    /// Adds `thing`; false where too many wait already.
    #[must_use]
    pub fn push(&self, thing: T) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let fits = waiting.len() < self.most;
        if fits {
            waiting.push_back(thing);
        }
        fits
    }

    /// A place to work from, if something waits and one is free.
    pub fn lead(&self, now_ms: u64) -> Option<Permit> {
        if self.waiting.borrow().is_empty() { None } else { self.permits.take(now_ms) }
    }

    /// The next batch: all of the campaign that waits longest, in arrival order. The holder's lease
    /// begins anew. None where nothing waits or the place is lost; it is given back then.
    pub fn next_batch(&self, permit: Permit, now_ms: u64) -> Option<(Permit, CampaignId, Vec<T>)> {
        let permit = self.permits.renew(permit, now_ms)?;
        let mut waiting = self.waiting.borrow_mut();
        let Some(campaign) = waiting.front().map(|first| first.campaign().clone()) else {
            self.permits.release(permit);
            return None;
        };
        let mut batch = Vec::new();
        let mut others = VecDeque::new();
        while batch.len() < self.batch
            && let Some(thing) = waiting.pop_front()
        {
            if *thing.campaign() == campaign {
                batch.push(thing);
            } else {
                others.push_back(thing);
            }
        }
        others.append(&mut waiting);
        *waiting = others;
        Some((permit, campaign, batch))
    }

    /// Gives a place back before the lane is empty.
    pub fn release(&self, permit: Permit) {
        self.permits.release(permit);
    }

    /// Takes out the first thing that `is` finds.
    pub fn remove(&self, is: impl Fn(&T) -> bool) -> Option<T> {
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(is)?;
        waiting.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(CampaignId, usize);

    impl OfCampaign for Thing {
        fn campaign(&self) -> &CampaignId {
            &self.0
        }
    }

    fn push(batches: &BatchQueue<Thing, 2>, campaign: &str, n: usize) -> bool {
        batches.push(Thing(CampaignId::parse(campaign).unwrap(), n))
    }

    fn numbers(batch: &[Thing]) -> Vec<usize> {
        batch.iter().map(|thing| thing.1).collect()
    }

    #[test]
    fn a_batch_is_one_campaigns_in_arrival_order_and_others_keep_theirs() {
        let batches = BatchQueue::new(100, 3, 1000);
        for (n, campaign) in ["a", "b", "a", "b", "a", "a"].into_iter().enumerate() {
            assert!(push(&batches, campaign, n));
        }
        let permit = batches.lead(0).unwrap();
        let (permit, _, batch) = batches.next_batch(permit, 0).unwrap();
        assert_eq!(numbers(&batch), [0, 2, 4]);
        let (permit, campaign, batch) = batches.next_batch(permit, 0).unwrap();
        assert_eq!((campaign.as_str(), numbers(&batch)), ("b", vec![1, 3]));
        let (permit, _, batch) = batches.next_batch(permit, 0).unwrap();
        assert_eq!(numbers(&batch), [5]);
        assert!(batches.next_batch(permit, 0).is_none());
        assert!(batches.lead(0).is_none(), "nothing waits, yet somebody leads");
    }

    #[test]
    fn few_work_at_it_and_one_that_vanished_is_replaced() {
        let batches = BatchQueue::new(100, 3, 1000);
        for n in 0..9 {
            assert!(push(&batches, "a", n));
        }
        for _ in 0..2 {
            let permit = batches.lead(0).unwrap();
            assert_eq!(batches.next_batch(permit, 0).unwrap().2.len(), 3);
        }
        assert!(batches.lead(999).is_none(), "a third works at it");
        assert!(batches.lead(1010).is_some(), "whoever vanished keeps his permit");
    }

    #[test]
    fn a_full_lane_takes_no_more() {
        let batches = BatchQueue::new(2, 3, 1000);
        assert!(push(&batches, "a", 0) && push(&batches, "a", 1) && !push(&batches, "a", 2));
        assert_eq!(batches.remove(|thing| thing.1 == 0).map(|thing| thing.1), Some(0));
        assert!(push(&batches, "a", 3));
    }
}
