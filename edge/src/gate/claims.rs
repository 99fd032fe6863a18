//! The way of a claim that needs Redis: into the queue, to Redis in company, back to its visitor, and
//! on to Kafka.

use crate::batching::admission_queue::{AdmissionQueue, Ticket, Waiting};
use crate::batching::permits::Permit;
use crate::gate::{Gate, Network};
use crate::http::response::{Problem, Response};
use crate::outbox::sweeper::{self, OutgoingRecord};
use crate::platform::Platform;
use crate::settings::AdmitAck;
use crate::upstream::admission::{self, Admission, Decision, HoldersVersion};
use dropgate_shared::claim::ClaimStatus;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::record::AdmissionRecord;
use serde_json::Value;
use std::rc::Rc;

/// How long a request may work for others after its own answer, ms: the runtime ends it after 30 s.
const LEAD_MS: u64 = 10_000;
/// EVALs that one request makes for others at most: the runtime grants a request a number of
/// subrequests, 50 on its smallest plan, and forwarding what each of them admits takes two more.
const LEAD_BATCHES: u32 = 10;
/// Produce calls that one request makes at most; each is followed by moving its leases.
const FORWARD_BATCHES: u32 = 8;
/// How long the first record of a produce call waits for company, ms.
const COMPANY_MS: u32 = 5;

/// Which queue a claim waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueKind {
    Known,
    Unknown,
}

/// A decision that its visitor hears only when Kafka has his record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingResponse {
    kind: QueueKind,
    ticket: Ticket,
    decision: Decision,
}

impl<H: Network> Gate<H> {
    /// Gets a decision for one claim. Leads the queue itself where nobody does.
    pub(crate) async fn claim<P: Platform>(
        self: &Rc<Self>,
        campaign: CampaignId,
        user: UserId,
        trace: Option<String>,
        platform: &P,
    ) -> Result<Response, Fault> {
        let kind = self.kind(&campaign);
        let queue = self.queue(kind);
        let deadline_ms = platform.now_ms().saturating_add(self.claim_timeout_ms);
        let Some(ticket) = queue.push(campaign.clone(), user.clone(), trace, deadline_ms) else {
            // Of all who fill it nobody may be there any more to see to it that it is emptied.
            self.lead_if_nobody_does(kind, platform);
            return Err(Fault::none(Source::Redis, "queue_full", true, "too many claims wait in this isolate"));
        };
        let mut looks = 0;
        let outcome = loop {
            if let Some(outcome) = queue.collect(ticket) {
                break outcome;
            }
            let now_ms = platform.now_ms();
            if now_ms >= deadline_ms {
                queue.give_up(ticket);
                break Err(Fault::unknown(Source::Redis, "patience", "no decision in time"));
            }
            self.lead_if_nobody_does(kind, platform);
            platform.sleep(queue.pause_ms(looks)).await;
            looks = looks.saturating_add(1);
        };
        // Whatever an earlier request has left in the buffer goes on with this one.
        self.relay(platform);
        let problem = match outcome? {
            Decision::Admitted(entry) => return Ok(self.claim_response(202, "admitted", &campaign, &user, &entry)),
            Decision::Already(entry) => return Ok(self.claim_response(200, "again", &campaign, &user, &entry)),
            Decision::SoldOut => Problem::SoldOut,
            Decision::NotOpen { opens_ms, now_ms } => Problem::NotOpen { opens_ms, now_ms },
            Decision::Closed => Problem::Closed,
            Decision::Paused => Problem::Paused,
            Decision::UnknownCampaign => self.unknown_campaign(&campaign),
        };
        Ok(problem.response())
    }

    fn kind(&self, campaign: &CampaignId) -> QueueKind {
        if self.is_alive(campaign) { QueueKind::Known } else { QueueKind::Unknown }
    }

    fn queue(&self, kind: QueueKind) -> &AdmissionQueue {
        match kind {
            QueueKind::Known => &self.alive,
            QueueKind::Unknown => &self.unseen,
        }
    }

    fn lead_if_nobody_does<P: Platform>(self: &Rc<Self>, kind: QueueKind, platform: &P) {
        if let Some(permit) = self.queue(kind).batches.lead(platform.now_ms()) {
            // Not as a part of this request: a visitor who hangs up must not strand the others.
            platform.after_answer(Rc::clone(self).lead(kind, permit, platform.clone()));
        }
    }

    /// Takes batch after batch to Redis while somebody waits.
    async fn lead<P: Platform>(self: Rc<Self>, kind: QueueKind, mut permit: Permit, platform: P) {
        let queue = self.queue(kind);
        let begun_ms = platform.now_ms();
        let mut batches = 0_u32;
        while let Some((held, campaign, mut batch)) = queue.batches.next_batch(permit, platform.now_ms()) {
            permit = held;
            let asked_ms = platform.now_ms();
            // Who hung up long ago, while Redis was away, is not let in before those who are there.
            batch.retain(|claim| asked_ms < claim.deadline_ms);
            if batch.is_empty() {
                continue;
            }
            let users: Vec<&UserId> = batch.iter().map(|claim| &claim.user).collect();
            let result = admission::admit(&self.redis, &campaign, &users, sweeper::FIRST_LEASE_MS).await;
            let now_ms = platform.now_ms();
            let took_ms = now_ms.saturating_sub(asked_ms);
            match result {
                Ok(admission) => {
                    self.note(&campaign, &admission, asked_ms, &platform);
                    let decided: Vec<_> = self.send(kind, batch, &admission.decisions);
                    queue.decide(decided.into_iter(), took_ms, now_ms);
                    self.relay(&platform);
                }
                Err(fault) => {
                    self.report("admit", &fault, &platform);
                    queue.decide(batch.iter().map(|claim| (claim.ticket, Err(fault.clone()))), took_ms, now_ms);
                    // It may be this request that can call no more: the next in line tries for himself.
                    queue.batches.release(permit);
                    return;
                }
            }
            batches = batches.saturating_add(1);
            if batches >= LEAD_BATCHES || now_ms.saturating_sub(begun_ms) > LEAD_MS {
                queue.batches.release(permit);
                return;
            }
        }
    }

    /// Remembers what a call has told about its campaign.
    fn note<P: Platform>(self: &Rc<Self>, campaign: &CampaignId, admission: &Admission, asked_ms: u64, platform: &P) {
        if admission.decisions.first().is_some_and(|first| *first != Decision::UnknownCampaign) {
            self.saw_alive(campaign);
        }
        if let Some(held) = admission.held {
            if self.sold_out.record_full(campaign, held, asked_ms) {
                platform.after_answer(Rc::clone(self).fetch_holders(campaign.clone(), held, platform.clone()));
            }
        } else if admission.decisions.iter().any(|decision| matches!(decision, Decision::Admitted(_))) {
            self.sold_out.clear(campaign);
        }
    }

    async fn fetch_holders<P: Platform>(self: Rc<Self>, campaign: CampaignId, held: HoldersVersion, platform: P) {
        match admission::holders(&self.redis, &campaign).await {
            Ok(users) => {
                let users = users.as_array().map(Vec::as_slice).unwrap_or_default();
                self.sold_out.set_holders(&campaign, held, users.iter().filter_map(Value::as_str));
            }
            Err(fault) => self.report("holders", &fault, &platform),
        }
    }

    /// Puts the admitted into the forward buffer. Returns what can be told now: all of it, or where
    /// Kafka has the last word, all but what is on its way there.
    fn send(
        &self,
        kind: QueueKind,
        batch: Vec<Waiting>,
        decisions: &[Decision],
    ) -> Vec<(Ticket, Result<Decision, Fault>)> {
        let kafka_has_the_word = self.admit_ack == AdmitAck::Kafka;
        let mut told = Vec::with_capacity(batch.len());
        for (claim, decision) in batch.into_iter().zip(decisions) {
            let Waiting { ticket, campaign, user, trace, .. } = claim;
            let entry = match decision {
                Decision::Admitted(entry) => Some(entry),
                // It is not known whether Kafka has it. Sending it again is harmless (I6).
                Decision::Already(entry) if kafka_has_the_word && entry.status == ClaimStatus::Admitted => Some(entry),
                _ => None,
            };
            let Some(entry) = entry else {
                told.push((ticket, Ok(*decision)));
                continue;
            };
            let owed = kafka_has_the_word.then_some(PendingResponse { kind, ticket, decision: *decision });
            let record = AdmissionRecord { campaign, user, slot: entry.slot, admitted_at: entry.admitted_ms, trace };
            let fits = self.outgoing.push(OutgoingRecord { record, owed });
            if !kafka_has_the_word {
                told.push((ticket, Ok(*decision)));
            } else if !fits {
                let full = Fault::unknown(Source::KafkaRest, "buffer_full", "too many records wait in this isolate");
                told.push((ticket, Err(full)));
            }
        }
        told
    }

    /// Sends the forward buffer where nobody does.
    fn relay<P: Platform>(self: &Rc<Self>, platform: &P) {
        if let Some(permit) = self.outgoing.lead(platform.now_ms()) {
            platform.after_answer(Rc::clone(self).forward(permit, platform.clone()));
        }
    }

    /// Forwards what waits in the buffer.
    async fn forward<P: Platform>(self: Rc<Self>, mut permit: Permit, platform: P) {
        let begun_ms = platform.now_ms();
        let mut batches = 0_u32;
        platform.sleep(COMPANY_MS).await;
        while let Some((held, campaign, batch)) = self.outgoing.next_batch(permit, platform.now_ms()) {
            permit = held;
            let (records, owed): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.record, one.owed)).unzip();
            let produced = self.kafka.produce(&records).await;
            self.settle(owed.into_iter().flatten(), &produced, platform.now_ms());
            let result = async {
                produced?;
                sweeper::acknowledged(&self.redis, &campaign, &records).await?;
                self.sweep_now_and_then(&campaign, platform.now_ms()).await
            };
            if let Err(fault) = result.await {
                self.report("forward", &fault, &platform);
            }
            batches = batches.saturating_add(1);
            if batches >= FORWARD_BATCHES || platform.now_ms().saturating_sub(begun_ms) > LEAD_MS {
                self.outgoing.release(permit);
                return;
            }
        }
    }

    /// Tells those who wait for Kafka's word.
    fn settle(&self, owed: impl Iterator<Item = PendingResponse>, produced: &Result<(), Fault>, now_ms: u64) {
        for PendingResponse { kind, ticket, decision } in owed {
            let outcome = produced.clone().map(|()| decision);
            self.queue(kind).leave(ticket, outcome, now_ms);
        }
    }
}
