//! The admission queues of an isolate: claims wait in arrival order, and whichever request finds a free permit takes
//! many of them to Redis at once.
//!
//! No request awaits another request's I/O. A claim has a ticket: the leader leaves the decision there, a plain value,
//! and ends the pause of the request that waits.

use crate::batching::batch_queue::{BatchQueue, OfCampaign};
use crate::platform::{Platform, Wake};
use crate::upstream::admission::Decision;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::time::Millis;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// EVALs of a queue in flight at most.
const IN_FLIGHT: usize = 3;
/// Claims in one EVAL at most: the script takes well under a millisecond for them.
const BATCH: usize = 256;
/// Claims that wait at most, however near Redis is: as many as an isolate's processor can answer in time.
const KNOWN_CAPACITY: usize = 10_000;
/// The same for unknown campaigns. Each made-up id costs a call of its own, so few wait: a real claim among them must
/// not run into its timeout.
const UNKNOWN_CAPACITY: usize = 2_000;

type DecisionResult = Result<Decision, Fault>;

/// The place where the request of a claim gets its decision.
#[derive(Default)]
pub struct Ticket {
    decision: RefCell<Option<DecisionResult>>,
    wake: RefCell<Option<Wake>>,
}

impl Ticket {
    /// Leaves the decision, and wakes the request.
    pub fn resolve(&self, decision: DecisionResult) {
        self.decision.replace(Some(decision));
        if let Some(wake) = self.wake.take() {
            wake.wake();
        }
    }

    /// The decision, once.
    pub fn collect(&self) -> Option<DecisionResult> {
        self.decision.take()
    }

    /// Waits for the decision, for `limit` at most.
    pub async fn pause<P: Platform>(&self, limit: Millis, platform: &P) {
        let (wake, ended) = platform.pause(limit);
        self.wake.replace(Some(wake));
        ended.await;
    }
}

pub struct WaitingClaim {
    pub ticket: Rc<Ticket>,
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
pub struct AdmissionQueues {
    known: AdmissionQueue,
    unknown: AdmissionQueue,
}

impl AdmissionQueues {
    /// `deadline`: the time limit of one call to Redis. `claim_timeout`: how long a request waits for its decision.
    #[must_use]
    pub fn new(deadline: Millis, claim_timeout: Millis) -> Self {
        let queue = |capacity| AdmissionQueue::new(deadline, claim_timeout, capacity);
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

/// Owns the claims that wait. Their tickets belong to their requests too.
pub struct AdmissionQueue {
    pub claims: BatchQueue<WaitingClaim, IN_FLIGHT>,
    claim_timeout: Millis,
    /// How long an EVAL takes, smoothed.
    eval: Cell<Millis>,
}

impl AdmissionQueue {
    fn new(deadline: Millis, claim_timeout: Millis, capacity: usize) -> Self {
        // EVALSHA, and EVAL if the script is not cached.
        let step = deadline * 2 + Millis(500);
        Self { claims: BatchQueue::new(capacity, BATCH, step), claim_timeout, eval: Cell::new(Millis(1)) }
    }

    /// Adds a claim; none if the queue is full.
    pub fn push(
        &self,
        campaign: &CampaignId,
        user: &UserId,
        trace: Option<String>,
        now: Millis,
        deadline: Millis,
    ) -> Option<Rc<Ticket>> {
        // Those whose requests have given up, while Redis was away.
        self.claims.drop_first_while(|claim| claim.deadline <= now);
        if self.claims.count() >= self.in_time() {
            return None;
        }
        let ticket = Rc::new(Ticket::default());
        let (campaign, user) = (campaign.clone(), user.clone());
        let claim = WaitingClaim { ticket: Rc::clone(&ticket), campaign, user, trace, deadline };
        self.claims.push(claim).then_some(ticket)
    }

    /// How many claims are decided before a new one gives up, as fast as Redis is now. A retry later is better than a
    /// longer wait. As many as fit into the next calls always wait: they show when Redis is fast again.
    fn in_time(&self) -> usize {
        let Millis(eval_ms) = self.eval.get();
        let rounds = (self.claim_timeout - self.eval.get()).0.checked_div(eval_ms).unwrap_or(u64::MAX);
        usize::try_from(rounds).unwrap_or(usize::MAX).max(1).saturating_mul(IN_FLIGHT * BATCH)
    }

    /// An EVAL took so long.
    pub fn observe(&self, took: Millis) {
        let smoothed_ms = (self.eval.get() * 3 + took).0.div_ceil(4);
        self.eval.set(Millis(smoothed_ms.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Millis = Millis(5_000);

    fn push(queue: &AdmissionQueue, user: &str, now: Millis) -> Option<Rc<Ticket>> {
        queue.push(&CampaignId::parse("a").unwrap(), &UserId::parse(user).unwrap(), None, now, now + TIMEOUT)
    }

    fn queue() -> AdmissionQueue {
        AdmissionQueue::new(Millis(3_000), TIMEOUT, KNOWN_CAPACITY)
    }

    fn fill(queue: &AdmissionQueue) -> usize {
        (0..).take_while(|_| push(queue, "u", Millis(0)).is_some()).count()
    }

    #[test]
    fn a_decision_is_collected_once_and_wakes() {
        let woken = Rc::new(Cell::new(0));
        let ticket = Ticket::default();
        let count = Rc::clone(&woken);
        ticket.wake.replace(Some(Wake::new(move || count.set(count.get() + 1))));
        ticket.resolve(Ok(Decision::Closed));
        assert_eq!((woken.get(), ticket.collect(), ticket.collect()), (1, Some(Ok(Decision::Closed)), None));
        ticket.resolve(Ok(Decision::Closed));
        assert_eq!(woken.get(), 1, "a pause that has ended was ended again");
    }

    #[test]
    fn as_many_wait_as_are_decided_in_time() {
        for (took_ms, waiting) in [(1, KNOWN_CAPACITY), (500, 9 * 768), (1_500, 2 * 768), (3_000, 768), (9_000, 768)] {
            let queue = queue();
            (0..40).for_each(|_| queue.observe(Millis(took_ms)));
            assert_eq!(fill(&queue), waiting, "{took_ms} ms");
        }
    }

    #[test]
    fn claims_whose_requests_have_given_up_do_not_fill_the_queue() {
        let queue = queue();
        assert_eq!(fill(&queue), KNOWN_CAPACITY);
        assert!(push(&queue, "u", Millis(4_999)).is_none());
        assert!(push(&queue, "u", TIMEOUT).is_some());
        assert_eq!(queue.claims.count(), 1);
    }
}
