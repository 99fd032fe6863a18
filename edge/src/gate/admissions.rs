//! The way of a claim that needs Redis: into a queue, to Redis together with others, back to its request, and on to
//! the forwarder.

use crate::batching::admission_queue::{AdmissionQueues, QueueKind};
use crate::batching::permits::Permit;
use crate::cache::campaigns::CampaignCache;
use crate::cache::sold_out::SoldOutMemory;
use crate::labels::{self, Activity};
use crate::outbox::forwarder::Forwarder;
use crate::outbox::schedule::SCHEDULE;
use crate::platform::{BACKGROUND_LIMIT, Platform};
use crate::telemetry::Telemetry;
use crate::upstream::admission::{self, Admission, Decision, HoldersVersion};
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use serde_json::Value;
use std::rc::Rc;

/// EVALs that one event makes for others at most: the runtime grants an event a number of subrequests, 50 on its
/// smallest plan, and forwarding what each EVAL admits takes two more.
const EVALS_LIMIT: u32 = 10;

/// Owns the claims that wait, and the memory of sold-out campaigns.
pub struct Admissions<H> {
    redis: RedisRest<H>,
    queues: AdmissionQueues,
    sold_out: SoldOutMemory,
    campaigns: Rc<CampaignCache<H>>,
    forwarder: Rc<Forwarder<H>>,
    secrets: Rc<CodeSecrets>,
    /// How long a request waits for a decision.
    claim_timeout: Millis,
    telemetry: Rc<Telemetry>,
}

impl<H: Http + 'static> Admissions<H> {
    #[must_use]
    pub fn new(
        redis: RedisRest<H>,
        queues: AdmissionQueues,
        campaigns: Rc<CampaignCache<H>>,
        forwarder: Rc<Forwarder<H>>,
        secrets: Rc<CodeSecrets>,
        claim_timeout: Millis,
        telemetry: Rc<Telemetry>,
    ) -> Self {
        Self {
            redis,
            queues,
            sold_out: SoldOutMemory::default(),
            campaigns,
            forwarder,
            secrets,
            claim_timeout,
            telemetry,
        }
    }

    /// Owned here; the gate asks it before it verifies a token.
    #[must_use]
    pub fn sold_out(&self) -> &SoldOutMemory {
        &self.sold_out
    }

    /// Gets the decision about one claim. Leads the queue in the background if no request does.
    ///
    /// # Errors
    /// [`Fault`]: the outcome may be unknown (I8).
    pub async fn decide<P: Platform>(
        self: &Rc<Self>,
        campaign: &CampaignId,
        user: &UserId,
        trace: Option<String>,
        platform: &P,
    ) -> Result<Decision, Fault> {
        let kind = if self.campaigns.has_seen(campaign) { QueueKind::Known } else { QueueKind::Unknown };
        let queue = self.queues.of(kind);
        let began = platform.now();
        let deadline = began + self.claim_timeout;
        let Some(ticket) = queue.push(campaign, user, trace, began, deadline) else {
            // The requests of all claims in a full queue may be gone: then no other would lead and empty it.
            self.lead_if_nobody_does(kind, platform);
            let detail = "too many claims wait in this isolate";
            return Err(Fault::none(Source::Redis, labels::fault::QUEUE_FULL, true, detail));
        };
        self.lead_if_nobody_does(kind, platform);
        ticket.pause(self.claim_timeout, platform).await;
        let in_time = || Err(Fault::unknown(Source::Redis, labels::fault::NO_RESULT, "no decision in time"));
        let decision = ticket.collect().unwrap_or_else(in_time);
        // A leader that has done its share leaves the rest to those who continue.
        self.lead_if_nobody_does(kind, platform);
        // Records that an earlier event left in the buffer continue with this one.
        self.forwarder.start(platform);
        decision
    }

    fn lead_if_nobody_does<P: Platform>(self: &Rc<Self>, kind: QueueKind, platform: &P) {
        if let Some(permit) = self.queues.of(kind).claims.try_lead(platform.now()) {
            // In the background: a client that disconnects must not strand the others.
            platform.spawn(Rc::clone(self).lead(kind, permit, platform.clone()));
        }
    }

    /// Takes batch after batch to Redis until no claim waits, or this event has done its share; then one of those that
    /// it has answered goes on. The permit is renewed with each batch: if this leader is late, another one
    /// has taken over and this one stops.
    async fn lead<P: Platform>(self: Rc<Self>, kind: QueueKind, mut permit: Permit, platform: P) {
        let queue = self.queues.of(kind);
        let began = platform.now();
        let mut evals = 0_u32;
        while let Some((campaign, mut batch)) = queue.claims.next_batch(&mut permit, platform.now()) {
            let asked = platform.now();
            // A claim whose request has given up, while Redis was away, must not get a slot before those that wait.
            batch.retain(|claim| asked < claim.deadline);
            if batch.is_empty() {
                continue;
            }
            let users: Vec<&UserId> = batch.iter().map(|claim| &claim.user).collect();
            let result = admission::admit(&self.redis, &campaign, &users, SCHEDULE.first_lease, &self.secrets).await;
            let now = platform.now();
            match result {
                Ok(admission) => {
                    self.remember(&campaign, &admission, asked, &platform);
                    queue.observe(now - asked);
                    self.forwarder.accept(batch, &admission.decisions, now);
                    self.forwarder.start(&platform);
                }
                Err(fault) => {
                    self.telemetry.record_fault(Activity::Admit, &fault, &platform);
                    queue.observe(now - asked);
                    batch.into_iter().for_each(|claim| claim.ticket.resolve(Err(fault.clone())));
                    // Perhaps only this event can make no more calls: the next request tries itself.
                    queue.claims.release(permit);
                    return;
                }
            }
            evals = evals.saturating_add(1);
            if evals >= EVALS_LIMIT || now - began > BACKGROUND_LIMIT {
                queue.claims.release(permit);
                return;
            }
        }
    }

    /// Remembers what the reply to a call says about its campaign.
    fn remember<P: Platform>(
        self: &Rc<Self>,
        campaign: &CampaignId,
        admission: &Admission,
        asked: Millis,
        platform: &P,
    ) {
        if admission.decisions.first().is_some_and(|first| *first != Decision::UnknownCampaign) {
            self.campaigns.saw(campaign, admission.growing(), asked, platform);
        }
        if self.campaigns.is_distrusted(campaign, platform.now()) {
            // A holder may be missing from the set.
            self.sold_out.clear(campaign);
        } else if let Some(version) = admission.holders {
            if self.sold_out.record_full(campaign, version, asked) {
                platform.spawn(Rc::clone(self).fetch_holders(campaign.clone(), version, platform.clone()));
            }
        } else if admission.decisions.iter().any(|decision| matches!(decision, Decision::Admitted(_))) {
            self.sold_out.clear(campaign);
        }
    }

    async fn fetch_holders<P: Platform>(self: Rc<Self>, campaign: CampaignId, version: HoldersVersion, platform: P) {
        match admission::holders(&self.redis, &campaign).await {
            Ok(users) => {
                let users = users.as_array().map(Vec::as_slice).unwrap_or_default();
                self.sold_out.set_holders(&campaign, version, users.iter().filter_map(Value::as_str));
            }
            Err(fault) => self.telemetry.record_fault(Activity::Holders, &fault, &platform),
        }
    }
}
