//! The admission queue of an isolate: claims wait in arrival order, and whoever finds a free place
//! takes many of them to Redis at once.
//!
//! Nobody awaits another request's I/O. A claim leaves a ticket, and its request looks now and then
//! whether there is a decision for it: plain values in memory.

use crate::batching::batch_queue::{BatchQueue, OfCampaign};
use crate::upstream::admission::Decision;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, UserId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// EVALs of a queue in flight at most.
const IN_FLIGHT: usize = 3;
/// Claims in one EVAL at most: well under a millisecond of the script.
const BATCH: usize = 256;
/// How long a decision is kept for a visitor who no longer asks for it, ms.
const KEPT_MS: u64 = 15_000;

/// A claim's number in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A claim that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub ticket: Ticket,
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// `traceparent` of the request.
    pub trace: Option<String>,
    /// Until when its visitor waits for a decision, ms.
    pub deadline_ms: u64,
}

impl OfCampaign for Waiting {
    fn campaign(&self) -> &CampaignId {
        &self.campaign
    }
}

type Outcome = Result<Decision, Fault>;

/// The queue.
#[derive(Debug)]
pub struct AdmissionQueue {
    /// The claims that wait.
    pub batches: BatchQueue<Waiting, IN_FLIGHT>,
    next: Cell<u64>,
    /// Decisions not yet collected, with the time they were made.
    decided: RefCell<BTreeMap<Ticket, (u64, Outcome)>>,
    /// How long an EVAL takes, smoothed, ms.
    usual_ms: Cell<u64>,
}

impl AdmissionQueue {
    /// A queue for `waiting` claims, whose EVALs have `deadline_ms` each.
    #[must_use]
    pub fn new(deadline_ms: u32, waiting: usize) -> Self {
        // EVALSHA, and EVAL if it must be.
        let step_ms = u64::from(deadline_ms).saturating_mul(2).saturating_add(500);
        Self {
            batches: BatchQueue::new(waiting, BATCH, step_ms),
            next: Cell::new(0),
            decided: RefCell::default(),
            usual_ms: Cell::new(2),
        }
    }

    /// Queues a claim; none where too many wait already.
    pub fn push(&self, campaign: CampaignId, user: UserId, trace: Option<String>, deadline_ms: u64) -> Option<Ticket> {
        let ticket = Ticket(self.next.get());
        self.next.set(ticket.0.wrapping_add(1));
        self.batches.push(Waiting { ticket, campaign, user, trace, deadline_ms }).then_some(ticket)
    }

    /// Leaves the decisions for those who wait for them.
    pub fn decide(&self, outcomes: impl Iterator<Item = (Ticket, Outcome)>, took_ms: u64, now_ms: u64) {
        let usual_ms = self.usual_ms.get().saturating_mul(3).saturating_add(took_ms).div_ceil(4);
        self.usual_ms.set(usual_ms.clamp(1, 100));
        let mut decided = self.decided.borrow_mut();
        // Tickets grow, so the first entries are the oldest: those of visitors who hung up.
        while let Some(oldest) = decided.first_entry()
            && oldest.get().0.saturating_add(KEPT_MS) < now_ms
        {
            let _ = oldest.remove();
        }
        decided.extend(outcomes.map(|(ticket, outcome)| (ticket, (now_ms, outcome))));
    }

    /// Leaves one decision that has taken another way.
    pub fn leave(&self, ticket: Ticket, outcome: Outcome, now_ms: u64) {
        self.decided.borrow_mut().insert(ticket, (now_ms, outcome));
    }

    /// The decision of a ticket, once.
    pub fn collect(&self, ticket: Ticket) -> Option<Outcome> {
        self.decided.borrow_mut().remove(&ticket).map(|(_, outcome)| outcome)
    }

    /// How long to wait before the next look for a decision, ms. `looks`: how many there were.
    #[must_use]
    pub fn pause_ms(&self, looks: u32) -> u32 {
        let usual_ms = u32::try_from(self.usual_ms.get()).unwrap_or(100);
        match looks {
            0 => usual_ms,
            1..=4 => usual_ms.div_ceil(4),
            _ => usual_ms.div_ceil(2).max(5),
        }
    }

    /// Takes back a claim whose visitor gives up, if it is not on its way to Redis yet.
    pub fn give_up(&self, ticket: Ticket) {
        self.batches.remove(|claim| claim.ticket == ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &AdmissionQueue, user: &str) -> Ticket {
        queue.push(CampaignId::parse("a").unwrap(), UserId::parse(user).unwrap(), None, 10).unwrap()
    }

    #[test]
    fn a_decision_is_collected_once_and_forgotten_when_nobody_comes() {
        let queue = AdmissionQueue::new(1000, 100);
        let (first, second) = (push(&queue, "1"), push(&queue, "2"));
        queue.decide([(first, Ok(Decision::Closed)), (second, Ok(Decision::Closed))].into_iter(), 3, 10);
        assert_eq!(queue.collect(first), Some(Ok(Decision::Closed)));
        assert_eq!(queue.collect(first), None);
        queue.decide(std::iter::empty(), 3, 10 + KEPT_MS + 1);
        assert_eq!(queue.collect(second), None);
    }

    #[test]
    fn a_claim_that_is_given_up_does_not_reach_redis() {
        let queue = AdmissionQueue::new(1000, 100);
        let (first, _) = (push(&queue, "1"), push(&queue, "2"));
        queue.give_up(first);
        let permit = queue.batches.lead(0).unwrap();
        let (_, _, batch) = queue.batches.next_batch(permit, 0).unwrap();
        assert_eq!(batch.iter().map(|claim| claim.user.as_str()).collect::<Vec<_>>(), ["2"]);
    }

    #[test]
    fn looks_come_when_an_answer_is_likely() {
        let queue = AdmissionQueue::new(1000, 100);
        for _ in 0..20 {
            queue.decide(std::iter::empty(), 40, 0);
        }
        assert_eq!((queue.pause_ms(0), queue.pause_ms(1), queue.pause_ms(9)), (40, 10, 20));
    }
}
