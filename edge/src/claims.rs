//! The way of a claim that needs Redis: into the queue, to Redis in company, back to its visitor, and
//! on to Kafka.

use crate::admission::{self, Admission, Decision, Held};
use crate::errand::Errand;
use crate::gate::{Gate, Network};
use crate::places::Place;
use crate::queue::{Queue, Ticket, Waiting};
use crate::relay::{self, Outgoing};
use crate::reply::{Problem, Reply};
use crate::settings::AdmitAck;
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
enum Line {
    Alive,
    Unseen,
}

/// A decision that its visitor hears only when Kafka has his record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    line: Line,
    ticket: Ticket,
    decision: Decision,
}

impl<H: Network> Gate<H> {
    /// Gets a decision for one claim. Leads the queue itself where nobody does.
    pub(crate) async fn claim<E: Errand>(
        self: &Rc<Self>,
        campaign: CampaignId,
        user: UserId,
        trace: Option<String>,
        errand: &E,
    ) -> Result<Reply, Fault> {
        let line = self.line(&campaign);
        let queue = self.queue(line);
        let until_ms = errand.now_ms().saturating_add(self.patience_ms);
        let Some(ticket) = queue.push(campaign.clone(), user.clone(), trace, until_ms) else {
            // Of all who fill it nobody may be there any more to see to it that it is emptied.
            self.lead_if_nobody_does(line, errand);
            return Err(Fault::none(Source::Redis, "queue_full", true, "too many claims wait in this isolate"));
        };
        let mut looks = 0;
        let outcome = loop {
            if let Some(outcome) = queue.collect(ticket) {
                break outcome;
            }
            let now_ms = errand.now_ms();
            if now_ms >= until_ms {
                queue.give_up(ticket);
                break Err(Fault::unknown(Source::Redis, "patience", "no decision in time"));
            }
            self.lead_if_nobody_does(line, errand);
            errand.sleep(queue.pause_ms(looks)).await;
            looks = looks.saturating_add(1);
        };
        // Whatever an earlier request has left in the buffer goes on with this one.
        self.relay(errand);
        let problem = match outcome? {
            Decision::Admitted(entry) => return Ok(self.claim_reply(202, "admitted", &campaign, &user, &entry)),
            Decision::Already(entry) => return Ok(self.claim_reply(200, "again", &campaign, &user, &entry)),
            Decision::SoldOut => Problem::SoldOut,
            Decision::NotOpen { opens_ms, now_ms } => Problem::NotOpen { opens_ms, now_ms },
            Decision::Closed => Problem::Closed,
            Decision::Paused => Problem::Paused,
            Decision::UnknownCampaign => self.unknown_campaign(&campaign),
        };
        Ok(problem.reply())
    }

    fn line(&self, campaign: &CampaignId) -> Line {
        if self.is_alive(campaign) { Line::Alive } else { Line::Unseen }
    }

    fn queue(&self, line: Line) -> &Queue {
        match line {
            Line::Alive => &self.alive,
            Line::Unseen => &self.unseen,
        }
    }

    fn lead_if_nobody_does<E: Errand>(self: &Rc<Self>, line: Line, errand: &E) {
        if let Some(place) = self.queue(line).lane.lead(errand.now_ms()) {
            // Not as a part of this request: a visitor who hangs up must not strand the others.
            errand.after_answer(Rc::clone(self).lead(line, place, errand.clone()));
        }
    }

    /// Takes batch after batch to Redis while somebody waits.
    async fn lead<E: Errand>(self: Rc<Self>, line: Line, mut place: Place, errand: E) {
        let queue = self.queue(line);
        let begun_ms = errand.now_ms();
        let mut batches = 0_u32;
        while let Some((held, campaign, mut batch)) = queue.lane.next_batch(place, errand.now_ms()) {
            place = held;
            let asked_ms = errand.now_ms();
            // Who hung up long ago, while Redis was away, is not let in before those who are there.
            batch.retain(|claim| asked_ms < claim.until_ms);
            if batch.is_empty() {
                continue;
            }
            let users: Vec<&UserId> = batch.iter().map(|claim| &claim.user).collect();
            let result = admission::admit(&self.redis, &campaign, &users, relay::FIRST_LEASE_MS).await;
            let now_ms = errand.now_ms();
            let took_ms = now_ms.saturating_sub(asked_ms);
            match result {
                Ok(admission) => {
                    self.note(&campaign, &admission, asked_ms, &errand);
                    let decided: Vec<_> = self.send(line, batch, &admission.decisions);
                    queue.decide(decided.into_iter(), took_ms, now_ms);
                    self.relay(&errand);
                }
                Err(fault) => {
                    self.report("admit", &fault, &errand);
                    queue.decide(batch.iter().map(|claim| (claim.ticket, Err(fault.clone()))), took_ms, now_ms);
                    // It may be this request that can call no more: the next in line tries for himself.
                    queue.lane.release(place);
                    return;
                }
            }
            batches = batches.saturating_add(1);
            if batches >= LEAD_BATCHES || now_ms.saturating_sub(begun_ms) > LEAD_MS {
                queue.lane.release(place);
                return;
            }
        }
    }

    /// Remembers what a call has told about its campaign.
    fn note<E: Errand>(self: &Rc<Self>, campaign: &CampaignId, admission: &Admission, asked_ms: u64, errand: &E) {
        if admission.decisions.first().is_some_and(|first| *first != Decision::UnknownCampaign) {
            self.saw_alive(campaign);
        }
        if let Some(held) = admission.held {
            if self.sold_out.full(campaign, held, asked_ms) {
                errand.after_answer(Rc::clone(self).fetch_holders(campaign.clone(), held, errand.clone()));
            }
        } else if admission.decisions.iter().any(|decision| matches!(decision, Decision::Admitted(_))) {
            self.sold_out.open(campaign);
        }
    }

    async fn fetch_holders<E: Errand>(self: Rc<Self>, campaign: CampaignId, held: Held, errand: E) {
        match admission::holders(&self.redis, &campaign).await {
            Ok(users) => {
                let users = users.as_array().map(Vec::as_slice).unwrap_or_default();
                self.sold_out.fetched(&campaign, held, users.iter().filter_map(Value::as_str));
            }
            Err(fault) => self.report("holders", &fault, &errand),
        }
    }

    /// Puts the admitted into the forward buffer. Returns what can be told now: all of it, or where
    /// Kafka has the last word, all but what is on its way there.
    fn send(&self, line: Line, batch: Vec<Waiting>, decisions: &[Decision]) -> Vec<(Ticket, Result<Decision, Fault>)> {
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
            let owed = kafka_has_the_word.then_some(Owed { line, ticket, decision: *decision });
            let record = AdmissionRecord { campaign, user, slot: entry.slot, admitted_at: entry.admitted_ms, trace };
            let fits = self.outgoing.push(Outgoing { record, owed });
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
    fn relay<E: Errand>(self: &Rc<Self>, errand: &E) {
        if let Some(place) = self.outgoing.lead(errand.now_ms()) {
            errand.after_answer(Rc::clone(self).forward(place, errand.clone()));
        }
    }

    /// Forwards what waits in the buffer.
    async fn forward<E: Errand>(self: Rc<Self>, mut place: Place, errand: E) {
        let begun_ms = errand.now_ms();
        let mut batches = 0_u32;
        errand.sleep(COMPANY_MS).await;
        while let Some((held, campaign, batch)) = self.outgoing.next_batch(place, errand.now_ms()) {
            place = held;
            let (records, owed): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.record, one.owed)).unzip();
            let produced = self.kafka.produce(&records).await;
            self.settle(owed.into_iter().flatten(), &produced, errand.now_ms());
            let result = async {
                produced?;
                relay::acknowledged(&self.redis, &campaign, &records).await?;
                self.sweep_now_and_then(&campaign, errand.now_ms()).await
            };
            if let Err(fault) = result.await {
                self.report("forward", &fault, &errand);
            }
            batches = batches.saturating_add(1);
            if batches >= FORWARD_BATCHES || errand.now_ms().saturating_sub(begun_ms) > LEAD_MS {
                self.outgoing.release(place);
                return;
            }
        }
    }

    /// Tells those who wait for Kafka's word.
    fn settle(&self, owed: impl Iterator<Item = Owed>, produced: &Result<(), Fault>, now_ms: u64) {
        for Owed { line, ticket, decision } in owed {
            let outcome = produced.clone().map(|()| decision);
            self.queue(line).leave(ticket, outcome, now_ms);
        }
    }
}
