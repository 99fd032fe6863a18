//! The admission queues of an isolate: claims wait in arrival order, and whichever request finds a free permit takes
//! many of them to Redis at once.
//!
//! No request awaits another request's I/O. A claim gets a ticket, and its request polls
//! the queue for the decision of that ticket: plain values in memory.

use crate::batching::batch_queue::{BatchQueue, OfCampaign};
use crate::upstream::admission::Decision;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::time::Millis;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// EVALs of a queue in flight at most.
const IN_FLIGHT: usize = 3;
/// Claims in one EVAL at most: the script takes well under a millisecond for them.
const BATCH: usize = 256;
/// How long a decision is kept for a request that no longer asks for it.
const KEPT: Millis = Millis(15_000);
/// Claims that wait at most: a retry later is better than a longer wait.
const KNOWN_CAPACITY: usize = 10_000;
/// The same for unknown campaigns. Each made-up id costs a call of its own, so few wait: a real claim among them must
/// not run into its timeout.
const UNKNOWN_CAPACITY: usize = 2_000;

/// The number of a claim in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingClaim {
    pub ticket: Ticket,
    pub campaign: CampaignId,
    pub user: UserId,
    /// `traceparent` of the request.
    pub trace: Option<String>,
    /// Until when its request waits for a decision.
    pub deadline: Millis,
}

impl OfCampaign for WaitingClaim {
    fn campaign(&self) -> &CampaignId {
        &self.campaign
    }
}

/// Which queue a claim waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// This isolate has seen the campaign in Redis.
    Known,
    /// It has not: the id may be made up.
    Unknown,
}

/// The two queues of an isolate. They are separate so that a flood of made-up ids does not delay a real campaign.
#[derive(Debug)]
pub struct AdmissionQueues {
    known: AdmissionQueue,
    unknown: AdmissionQueue,
}

impl AdmissionQueues {
    /// `deadline`: the time limit of one call to Redis.
    #[must_use]
    pub fn new(deadline: Millis) -> Self {
        let queue = |capacity| AdmissionQueue::new(deadline, capacity);
        Self { known: queue(KNOWN_CAPACITY), unknown: queue(UNKNOWN_CAPACITY) }
    }

    #[must_use]
    pub fn of(&self, kind: QueueKind) -> &AdmissionQueue {
        match kind {
            QueueKind::Known => &self.known,
            QueueKind::Unknown => &self.unknown,
        }
    }
}

type DecisionResult = Result<Decision, Fault>;

/// Owns the claims that wait, and the decisions that their requests have not collected yet.
#[derive(Debug)]
pub struct AdmissionQueue {
    pub claims: BatchQueue<WaitingClaim, IN_FLIGHT>,
    next_ticket: Cell<u64>,
    /// With the time of each decision.
    decided: RefCell<BTreeMap<Ticket, (Millis, DecisionResult)>>,
    /// How long an EVAL takes, smoothed, in ms.
    eval_ms: Cell<u64>,
}

impl AdmissionQueue {
    fn new(deadline: Millis, capacity: usize) -> Self {
        // EVALSHA, and EVAL if the script is not cached.
        let step = deadline * 2 + Millis(500);
        Self {
            claims: BatchQueue::new(capacity, BATCH, step),
            next_ticket: Cell::new(0),
            decided: RefCell::default(),
            eval_ms: Cell::new(2),
        }
    }

    /// Adds a claim; none if the queue is full.
    pub fn push(
        &self,
        campaign: &CampaignId,
        user: &UserId,
        trace: Option<String>,
        deadline: Millis,
    ) -> Option<Ticket> {
        let ticket = Ticket(self.next_ticket.get());
        self.next_ticket.set(ticket.0.wrapping_add(1));
        let (campaign, user) = (campaign.clone(), user.clone());
        self.claims.push(WaitingClaim { ticket, campaign, user, trace, deadline }).then_some(ticket)
    }

    /// Stores the decisions of one EVAL, which took `took`.
    pub fn resolve_batch(&self, outcomes: impl Iterator<Item = (Ticket, DecisionResult)>, took: Millis, now: Millis) {
        let smoothed_ms = (Millis(self.eval_ms.get()) * 3 + took).0.div_ceil(4);
        self.eval_ms.set(smoothed_ms.clamp(1, 100));
        let mut decided = self.decided.borrow_mut();
        // Tickets grow, so the first entries are the oldest: those of clients that disconnected.
        while let Some(oldest) = decided.first_entry()
            && oldest.get().0 + KEPT < now
        {
            let _ = oldest.remove();
        }
        decided.extend(outcomes.map(|(ticket, outcome)| (ticket, (now, outcome))));
    }

    /// Stores one decision that came another way.
    pub fn resolve(&self, ticket: Ticket, outcome: DecisionResult, now: Millis) {
        self.decided.borrow_mut().insert(ticket, (now, outcome));
    }

    /// The decision of a ticket, once.
    pub fn collect(&self, ticket: Ticket) -> Option<DecisionResult> {
        self.decided.borrow_mut().remove(&ticket).map(|(_, outcome)| outcome)
    }

    /// How long to wait before the next poll for a decision, in ms: polls are frequent around the time that an EVAL
    /// usually takes, and rare afterwards.
    #[must_use]
    pub fn poll_delay_ms(&self, polls: u32) -> u32 {
        let eval_ms = u32::try_from(self.eval_ms.get()).unwrap_or(100);
        match polls {
            0 => eval_ms,
            1..=4 => eval_ms.div_ceil(4),
            _ => eval_ms.div_ceil(2).max(5),
        }
    }

    /// Takes a claim back that has not been sent to Redis.
    pub fn give_up(&self, ticket: Ticket) {
        self.claims.remove(|claim| claim.ticket == ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &AdmissionQueue, user: &str) -> Ticket {
        queue.push(&CampaignId::parse("a").unwrap(), &UserId::parse(user).unwrap(), None, Millis(10)).unwrap()
    }

    fn queue() -> AdmissionQueue {
        AdmissionQueue::new(Millis(1000), 100)
    }

    #[test]
    fn a_decision_is_collected_once_and_dropped_if_nobody_collects_it() {
        let queue = queue();
        let (first, second) = (push(&queue, "1"), push(&queue, "2"));
        let outcomes = [(first, Ok(Decision::Closed)), (second, Ok(Decision::Closed))];
        queue.resolve_batch(outcomes.into_iter(), Millis(3), Millis(10));
        assert_eq!(queue.collect(first), Some(Ok(Decision::Closed)));
        assert_eq!(queue.collect(first), None);
        queue.resolve_batch(std::iter::empty(), Millis(3), Millis(11) + KEPT);
        assert_eq!(queue.collect(second), None);
    }

    #[test]
    fn a_claim_that_is_given_up_does_not_reach_redis() {
        let queue = queue();
        let (first, _) = (push(&queue, "1"), push(&queue, "2"));
        queue.give_up(first);
        let mut permit = queue.claims.try_lead(Millis(0)).unwrap();
        let (_, batch) = queue.claims.next_batch(&mut permit, Millis(0)).unwrap();
        assert_eq!(batch.iter().map(|claim| claim.user.as_str()).collect::<Vec<_>>(), ["2"]);
    }

    #[test]
    fn polls_come_when_a_decision_is_likely() {
        let queue = queue();
        for _ in 0..20 {
            queue.resolve_batch(std::iter::empty(), Millis(40), Millis(0));
        }
        assert_eq!((queue.poll_delay_ms(0), queue.poll_delay_ms(1), queue.poll_delay_ms(9)), (40, 10, 20));
    }
}
