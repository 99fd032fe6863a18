//! The forwarder: brings newly admitted claims to Kafka at once.

use crate::batching::admission_queue::{Ticket, WaitingClaim};
use crate::batching::batch_queue::{BatchQueue, OfCampaign};
use crate::batching::permits::Permit;
use crate::labels::{self, Activity};
use crate::outbox::schedule::SCHEDULE;
use crate::outbox::sweeper::Sweeper;
use crate::platform::{BACKGROUND_LIMIT, Platform};
use crate::settings::AdmitAck;
use crate::telemetry::Telemetry;
use crate::upstream::admission::{Decision, HeldClaim};
use crate::upstream::kafka_rest::KafkaRest;
use crate::upstream::outbox;
use dropgate_shared::claim::ClaimStatus;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use std::rc::Rc;

/// Produce calls of one isolate in flight at most: a proxy may keep a producer for each connection.
const IN_FLIGHT: usize = 2;
/// Records in one produce call at most.
const BATCH: usize = 200;
/// Records that wait at most. One that does not fit is left to the sweeper.
const CAPACITY: usize = 20_000;
/// Produce calls that one event makes at most; each is followed by a call that moves the leases.
const CALLS_LIMIT: u32 = 8;
/// How long the first record waits for others to share its call, in ms.
const LINGER_MS: u32 = 5;

struct OutgoingRecord {
    record: AdmissionRecord,
    /// When it came here. After the first lease it is the sweeper's, which takes it from Redis: if Redis has lost it,
    /// nobody waits for it any more.
    accepted: Millis,
    pending: Option<PendingResponse>,
}

impl OfCampaign for OutgoingRecord {
    fn campaign(&self) -> &CampaignId {
        &self.record.campaign
    }
}

/// A decision that its request gets only when Kafka has acknowledged the record.
struct PendingResponse {
    ticket: Rc<Ticket>,
    decision: Decision,
}

/// Owns the records on their way to Kafka. They may be lost with the isolate: the outbox has all of them.
pub struct Forwarder<H> {
    redis: RedisRest<H>,
    kafka: KafkaRest<H>,
    ack: AdmitAck,
    records: BatchQueue<OutgoingRecord, IN_FLIGHT>,
    sweeper: Rc<Sweeper<H>>,
    telemetry: Rc<Telemetry>,
}

impl<H: Http + 'static> Forwarder<H> {
    /// `call`: the time limit of a produce call and the call that moves the leases.
    #[must_use]
    pub fn new(
        redis: RedisRest<H>,
        kafka: KafkaRest<H>,
        ack: AdmitAck,
        call: Millis,
        sweeper: Rc<Sweeper<H>>,
        telemetry: Rc<Telemetry>,
    ) -> Self {
        // One batch takes one call, and another where a step of the sweeper follows; that takes its entries first.
        Self { redis, kafka, ack, records: BatchQueue::new(CAPACITY, BATCH, call * 3), sweeper, telemetry }
    }

    /// Takes the records of the admitted claims over. Gives the requests their decisions now, or with
    /// [`AdmitAck::Kafka`] only those that need no record; the others get theirs when Kafka has acknowledged it.
    pub fn accept(&self, batch: Vec<WaitingClaim>, decisions: &[Decision], now: Millis) {
        let wait_for_kafka = self.ack == AdmitAck::Kafka;
        for (claim, &decision) in batch.into_iter().zip(decisions) {
            let WaitingClaim { ticket, campaign, user, trace, .. } = claim;
            let held = match decision {
                Decision::Admitted(held) => Some(held),
                // Whether Kafka has this record is unknown. Producing it again is harmless (I6).
                Decision::Already(held) if wait_for_kafka && held.entry.status == ClaimStatus::Admitted => Some(held),
                _ => None,
            };
            let Some(HeldClaim { entry, code_key }) = held else {
                ticket.resolve(Ok(decision));
                continue;
            };
            let pending = wait_for_kafka.then(|| PendingResponse { ticket: Rc::clone(&ticket), decision });
            let (slot, admitted_at, code_key) = (entry.slot, entry.admitted_ms, Some(code_key));
            let record = AdmissionRecord { campaign, user, slot, admitted_at, trace, code_key };
            let fits = self.records.push(OutgoingRecord { record, accepted: now, pending });
            if !wait_for_kafka {
                ticket.resolve(Ok(decision));
            } else if !fits {
                ticket.resolve(Err(left_to_sweeper()));
            }
        }
    }

    /// Begins to forward, if records wait and a call is free.
    pub fn start<P: Platform>(self: &Rc<Self>, platform: &P) {
        if let Some(permit) = self.records.try_lead(platform.now()) {
            platform.spawn(Rc::clone(self).forward(permit, platform.clone()));
        }
    }

    /// Produces batch after batch until no record waits, or this event has done its share. What is left then waits for
    /// the next claim of this isolate, or for the sweeper.
    async fn forward<P: Platform>(self: Rc<Self>, mut permit: Permit, platform: P) {
        let began = platform.now();
        let mut calls = 0_u32;
        platform.sleep(LINGER_MS).await;
        while let Some((campaign, batch)) = self.records.next_batch(&mut permit, platform.now()) {
            let is_late = |one: &OutgoingRecord| platform.now() - one.accepted >= SCHEDULE.first_lease;
            let (late, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_late);
            for PendingResponse { ticket, .. } in late.into_iter().filter_map(|one| one.pending) {
                ticket.resolve(Err(left_to_sweeper()));
            }
            let (records, pending): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.record, one.pending)).unzip();
            if records.is_empty() {
                continue;
            }
            let produced = self.kafka.produce(&records).await;
            // Before the leases move: the requests need to know about Kafka only.
            // If Kafka did not acknowledge the record, they get the fault: they are admitted, but they must ask again to
            // learn it (I8).
            for PendingResponse { ticket, decision } in pending.into_iter().flatten() {
                ticket.resolve(produced.clone().map(|()| decision));
            }
            let result = async {
                // Without an acknowledgement the leases stay, and the sweeper takes the entries when they end.
                produced?;
                let leases = records.iter().map(|record| (SCHEDULE.acknowledged_lease.0, &record.user)).collect();
                outbox::lease(&self.redis, &campaign, leases).await?;
                self.sweeper.sweep_beside_requests(&campaign, platform.now()).await
            };
            if let Err(fault) = result.await {
                self.telemetry.record_fault(Activity::Forward, &fault, &platform);
            }
            calls = calls.saturating_add(1);
            if calls >= CALLS_LIMIT || platform.now() - began > BACKGROUND_LIMIT {
                self.records.release(permit);
                return;
            }
        }
    }
}

fn left_to_sweeper() -> Fault {
    Fault::unknown(Source::KafkaRest, labels::fault::BUFFER_FULL, "too many records wait in this isolate")
}
