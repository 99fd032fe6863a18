//! The forwarder: brings newly admitted claims to Kafka at once.

use crate::batching::admission_queue::{AdmissionQueues, QueueKind, Ticket, WaitingClaim};
use crate::batching::batch_queue::{BatchQueue, OfCampaign};
use crate::batching::permits::Permit;
use crate::labels::{self, Activity};
use crate::outbox::schedule::SCHEDULE;
use crate::outbox::sweeper::Sweeper;
use crate::platform::{BACKGROUND_LIMIT, Platform};
use crate::settings::AdmitAck;
use crate::telemetry::Telemetry;
use crate::upstream::admission::Decision;
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
    kind: QueueKind,
    ticket: Ticket,
    decision: Decision,
}

/// Owns the records on their way to Kafka. They may be lost with the isolate: the outbox has all of them.
pub struct Forwarder<H> {
    redis: RedisRest<H>,
    kafka: KafkaRest<H>,
    ack: AdmitAck,
    records: BatchQueue<OutgoingRecord, IN_FLIGHT>,
    /// Where requests wait for the decisions that are pending here.
    queues: Rc<AdmissionQueues>,
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
        queues: Rc<AdmissionQueues>,
        sweeper: Rc<Sweeper<H>>,
        telemetry: Rc<Telemetry>,
    ) -> Self {
        // One batch takes one call, and another where a step of the sweeper follows; that takes its entries first.
        Self { redis, kafka, ack, records: BatchQueue::new(CAPACITY, BATCH, call * 3), queues, sweeper, telemetry }
    }

    /// Takes the records of the admitted claims over. Returns the decisions that may be sent now: all of them, or with
    /// [`AdmitAck::Kafka`] those that need no record; the others are sent when Kafka has acknowledged theirs.
    pub fn accept(
        &self,
        kind: QueueKind,
        batch: Vec<WaitingClaim>,
        decisions: &[Decision],
        now: Millis,
    ) -> Vec<(Ticket, Result<Decision, Fault>)> {
        let wait_for_kafka = self.ack == AdmitAck::Kafka;
        let mut ready = Vec::with_capacity(batch.len());
        for (claim, &decision) in batch.into_iter().zip(decisions) {
            let WaitingClaim { ticket, campaign, user, trace, .. } = claim;
            let entry = match decision {
                Decision::Admitted(entry) => Some(entry),
                // Whether Kafka has this record is unknown. Producing it again is harmless (I6).
                Decision::Already(entry) if wait_for_kafka && entry.status == ClaimStatus::Admitted => Some(entry),
                _ => None,
            };
            let Some(entry) = entry else {
                ready.push((ticket, Ok(decision)));
                continue;
            };
            let pending = wait_for_kafka.then_some(PendingResponse { kind, ticket, decision });
            let record = AdmissionRecord { campaign, user, slot: entry.slot, admitted_at: entry.admitted_ms, trace };
            let fits = self.records.push(OutgoingRecord { record, accepted: now, pending });
            if !wait_for_kafka {
                ready.push((ticket, Ok(decision)));
            } else if !fits {
                ready.push((ticket, Err(left_to_sweeper())));
            }
        }
        ready
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
            let late = late.into_iter().filter_map(|one| one.pending);
            self.resolve(late, &Err(left_to_sweeper()), platform.now());
            let (records, pending): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.record, one.pending)).unzip();
            if records.is_empty() {
                continue;
            }
            let produced = self.kafka.produce(&records).await;
            // Before the leases move: the requests need to know about Kafka only.
            self.resolve(pending.into_iter().flatten(), &produced, platform.now());
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

    /// Gives the requests that wait for Kafka their decision. If Kafka did not acknowledge the record, they get the
    /// fault: they are admitted, but they must ask again to learn it (I8).
    fn resolve(&self, pending: impl Iterator<Item = PendingResponse>, produced: &Result<(), Fault>, now: Millis) {
        for PendingResponse { kind, ticket, decision } in pending {
            self.queues.of(kind).resolve(ticket, produced.clone().map(|()| decision), now);
        }
    }
}

fn left_to_sweeper() -> Fault {
    Fault::unknown(Source::KafkaRest, labels::fault::BUFFER_FULL, "too many records wait in this isolate")
}
