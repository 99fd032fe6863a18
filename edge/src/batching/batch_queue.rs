//! A bounded queue that few workers empty in batches.

use crate::batching::permits::{Permit, Permits};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::time::Millis;
use std::cell::RefCell;
use std::collections::VecDeque;

pub trait OfCampaign {
    fn campaign(&self) -> &CampaignId;
}

/// Items wait in arrival order; whoever holds one of `IN_FLIGHT` permits takes a batch, always of one campaign.
///
/// Nobody owns the work: any request may add an item, and any request that finds a free permit may lead, in the
/// background, until nothing waits.
#[derive(Debug)]
pub struct BatchQueue<T, const IN_FLIGHT: usize> {
    waiting: RefCell<VecDeque<T>>,
    permits: Permits<IN_FLIGHT>,
    /// Items in a batch at most.
    batch: usize,
    /// Items that wait at most.
    capacity: usize,
}

impl<T: OfCampaign, const IN_FLIGHT: usize> BatchQueue<T, IN_FLIGHT> {
    /// `step`: the time that a leader has from one batch to the next.
    #[must_use]
    pub fn new(capacity: usize, batch: usize, step: Millis) -> Self {
        Self { waiting: RefCell::default(), permits: Permits::new(step), batch, capacity }
    }

    /// Items that wait.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Adds `item`; false if the queue is full.
    #[must_use]
    pub fn push(&self, item: T) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let fits = waiting.len() < self.capacity;
        if fits {
            waiting.push_back(item);
        }
        fits
    }

    /// A permit to lead, if an item waits and a permit is free.
    pub fn try_lead(&self, now: Millis) -> Option<Permit> {
        if self.waiting.borrow().is_empty() { None } else { self.permits.take(now) }
    }

    /// The next batch: the items of the campaign that waits longest, in arrival order. Renews the permit. None, and the
    /// permit is gone, if nothing waits or the permit was lost.
    pub fn next_batch(&self, permit: &mut Permit, now: Millis) -> Option<(CampaignId, Vec<T>)> {
        *permit = self.permits.renew(*permit, now)?;
        let mut waiting = self.waiting.borrow_mut();
        let Some(campaign) = waiting.front().map(|first| first.campaign().clone()) else {
            self.permits.release(*permit);
            return None;
        };
        let mut batch = Vec::new();
        let mut others = VecDeque::new();
        while batch.len() < self.batch
            && let Some(item) = waiting.pop_front()
        {
            if *item.campaign() == campaign {
                batch.push(item);
            } else {
                others.push_back(item);
            }
        }
        others.append(&mut waiting);
        *waiting = others;
        Some((campaign, batch))
    }

    /// Ends the work before the queue is empty.
    pub fn release(&self, permit: Permit) {
        self.permits.release(permit);
    }

    /// Takes out the first items, as long as `is` accepts them.
    pub fn drop_first_while(&self, is: impl Fn(&T) -> bool) {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.front().is_some_and(&is) {
            drop(waiting.pop_front());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item(CampaignId, usize);

    impl OfCampaign for Item {
        fn campaign(&self) -> &CampaignId {
            &self.0
        }
    }

    type Queue = BatchQueue<Item, 2>;

    fn push(queue: &Queue, campaign: &str, n: usize) -> bool {
        queue.push(Item(CampaignId::parse(campaign).unwrap(), n))
    }

    fn numbers(batch: &[Item]) -> Vec<usize> {
        batch.iter().map(|item| item.1).collect()
    }

    #[test]
    fn a_batch_is_of_one_campaign_in_arrival_order_and_the_others_keep_their_order() {
        let queue = Queue::new(100, 3, Millis(1000));
        for (n, campaign) in ["a", "b", "a", "b", "a", "a"].into_iter().enumerate() {
            assert!(push(&queue, campaign, n));
        }
        let mut permit = queue.try_lead(Millis(0)).unwrap();
        let (_, batch) = queue.next_batch(&mut permit, Millis(0)).unwrap();
        assert_eq!(numbers(&batch), [0, 2, 4]);
        let (campaign, batch) = queue.next_batch(&mut permit, Millis(0)).unwrap();
        assert_eq!((campaign.as_str(), numbers(&batch)), ("b", vec![1, 3]));
        let (_, batch) = queue.next_batch(&mut permit, Millis(0)).unwrap();
        assert_eq!(numbers(&batch), [5]);
        assert!(queue.next_batch(&mut permit, Millis(0)).is_none());
        assert!(queue.try_lead(Millis(0)).is_none(), "nothing waits, and there is a leader");
    }

    #[test]
    fn few_lead_and_one_that_vanished_is_replaced() {
        let queue = Queue::new(100, 3, Millis(1000));
        for n in 0..9 {
            assert!(push(&queue, "a", n));
        }
        for _ in 0..2 {
            let mut permit = queue.try_lead(Millis(0)).unwrap();
            assert_eq!(queue.next_batch(&mut permit, Millis(0)).unwrap().1.len(), 3);
        }
        assert!(queue.try_lead(Millis(999)).is_none(), "a third one leads");
        assert!(queue.try_lead(Millis(1010)).is_some(), "a leader that vanished keeps its permit");
    }

    #[test]
    fn a_full_queue_accepts_no_more() {
        let queue = Queue::new(2, 3, Millis(1000));
        assert!(push(&queue, "a", 0) && push(&queue, "a", 1) && !push(&queue, "a", 2));
        queue.drop_first_while(|item| item.1 < 1);
        assert_eq!(queue.count(), 1);
        assert!(push(&queue, "a", 3));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: usize = 12;
    const BATCH: usize = 4;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push(u8),
        Batch,
        DropBefore(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..3).prop_map(Step::Push),
            1 => Just(Step::Batch),
            1 => (0_usize..60).prop_map(Step::DropBefore),
        ]
    }

    struct Item(CampaignId, usize);

    impl OfCampaign for Item {
        fn campaign(&self) -> &CampaignId {
            &self.0
        }
    }

    proptest! {
        /// Every item that was accepted comes out once, in a batch of its campaign and in arrival order, or is dropped;
        /// the campaign that waits longest comes first, and no batch or queue is too long.
        #[test]
        fn every_item_comes_out_once_and_in_order(steps in prop::collection::vec(step(), 1..80)) {
            let queue = BatchQueue::<Item, 2>::new(CAPACITY, BATCH, Millis(1000));
            let mut waiting = Vec::<(String, usize)>::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(campaign) => {
                        let id = CampaignId::parse(&format!("c{campaign}")).unwrap();
                        let fits = queue.push(Item(id.clone(), n));
                        prop_assert_eq!(fits, waiting.len() < CAPACITY);
                        if fits {
                            waiting.push((id.as_str().to_owned(), n));
                        }
                    }
                    Step::Batch => {
                        let permit = queue.try_lead(Millis(0));
                        prop_assert_eq!(permit.is_some(), !waiting.is_empty());
                        let Some(mut permit) = permit else { continue };
                        let (campaign, batch) = queue.next_batch(&mut permit, Millis(0)).unwrap();
                        let first = waiting[0].0.clone();
                        prop_assert_eq!(campaign.as_str(), &first);
                        let of_campaign = waiting.iter().filter(|(of, _)| *of == first);
                        let expected: Vec<usize> = of_campaign.map(|(_, n)| *n).take(BATCH).collect();
                        prop_assert_eq!(batch.iter().map(|item| item.1).collect::<Vec<_>>(), expected.clone());
                        waiting.retain(|(_, n)| !expected.contains(n));
                        queue.release(permit);
                    }
                    Step::DropBefore(bound) => {
                        queue.drop_first_while(|item| item.1 < bound);
                        waiting.retain(|(_, n)| *n >= bound);
                        prop_assert_eq!(queue.count(), waiting.len());
                    }
                }
            }
        }
    }
}
