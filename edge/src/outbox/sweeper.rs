//! The sweeper: forwards what is due in the outbox, as often as it takes.

use crate::labels::Activity;
use crate::outbox::schedule::SCHEDULE;
use crate::platform::Platform;
use crate::telemetry::Telemetry;
use crate::upstream::kafka_rest::KafkaRest;
use crate::upstream::outbox;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;

/// What a step did, or a run in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Swept {
    /// Entries in the outbox, due or not.
    waiting: u64,
    /// Entries that were due.
    taken: usize,
    /// Entries of those that are forwarded now.
    forwarded: usize,
    /// The age of the oldest of these: an old one has been forwarded many times.
    oldest: Millis,
}

/// Takes due entries, produces them, and moves their leases. Any isolate may sweep at any time: `take_due.lua` gives
/// each entry to one sweeper at a time, and a record that arrives twice changes nothing (I6).
pub struct Sweeper<H> {
    redis: RedisRest<H>,
    kafka: KafkaRest<H>,
    /// When this isolate last swept beside its requests.
    swept: Cell<Millis>,
    telemetry: Rc<Telemetry>,
}

impl<H: Http> Sweeper<H> {
    #[must_use]
    pub fn new(redis: RedisRest<H>, kafka: KafkaRest<H>, telemetry: Rc<Telemetry>) -> Self {
        Self { redis, kafka, swept: Cell::default(), telemetry }
    }

    /// One step for `campaign`, if this isolate has not swept for a while. The rest is left to the cron, or to the next
    /// requests.
    ///
    /// # Errors
    /// [`Fault`]: what was taken becomes due again when its lease ends.
    pub async fn sweep_beside_requests(&self, campaign: &CampaignId, now: Millis) -> Result<(), Fault> {
        if now - self.swept.get() < SCHEDULE.beside_requests {
            return Ok(());
        }
        self.swept.set(now);
        self.step(campaign).await.map(drop)
    }

    /// What the cron does: sweeps every campaign. A campaign that fails does not stop the others.
    pub async fn run<P: Platform>(&self, platform: &P) {
        let report = |fault: &Fault| self.telemetry.record_fault(Activity::Sweep, fault, platform);
        let campaigns = match outbox::published_campaigns(&self.redis).await {
            Ok(campaigns) => campaigns,
            Err(fault) => return report(&fault),
        };
        for campaign in campaigns {
            match self.sweep(&campaign).await {
                Ok(Swept { waiting: 0, .. }) => {}
                Ok(Swept { waiting, forwarded, oldest, .. }) => platform.log(&json!({
                    "event": "outbox",
                    "campaign": campaign,
                    "waiting": waiting,
                    "forwarded": forwarded,
                    "oldest_ms": oldest,
                })),
                Err(fault) => report(&fault),
            }
        }
    }

    async fn sweep(&self, campaign: &CampaignId) -> Result<Swept, Fault> {
        let mut total = Swept::default();
        loop {
            let step = self.step(campaign).await?;
            total.forwarded = total.forwarded.saturating_add(step.forwarded);
            total.oldest = total.oldest.max(step.oldest);
            total.waiting = step.waiting;
            if step.taken < SCHEDULE.batch {
                return Ok(total);
            }
        }
    }

    /// Takes a batch of due entries and forwards it.
    async fn step(&self, campaign: &CampaignId) -> Result<Swept, Fault> {
        let due = outbox::take_due(&self.redis, campaign, SCHEDULE.batch, SCHEDULE.attempt_lease).await?;
        let age = |record: &AdmissionRecord| due.now - Millis(record.admitted_at);
        let records: Vec<AdmissionRecord> = due
            .claims
            .into_iter()
            .map(|(user, claim)| AdmissionRecord {
                campaign: campaign.clone(),
                user,
                slot: claim.slot,
                admitted_at: claim.admitted_ms,
                trace: None,
            })
            .collect();
        if !records.is_empty() {
            self.kafka.produce(&records).await?;
            let lease = |record| (SCHEDULE.acknowledged_lease_at(age(record)), &record.user);
            outbox::lease(&self.redis, campaign, records.iter().map(lease).collect()).await?;
        }
        let oldest = records.iter().map(age).max().unwrap_or_default();
        Ok(Swept { waiting: due.waiting, taken: due.taken, forwarded: records.len(), oldest })
    }
}
