//! The sweeper: forwards what is due in the outbox, as often as it takes.

use crate::labels::Activity;
use crate::outbox::schedule::SCHEDULE;
use crate::platform::Platform;
use crate::telemetry::Telemetry;
use crate::upstream::admission;
use crate::upstream::kafka_rest::KafkaRest;
use crate::upstream::outbox::{self, Waiting};
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use serde_json::json;
use std::cell::Cell;
use std::collections::VecDeque;
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

/// The calls that this event may still make.
struct Calls {
    left: u32,
}

impl Calls {
    /// Takes entries, produces them, moves their leases.
    const STEP: u32 = 3;

    fn take_step(&mut self) -> bool {
        let left = self.left.checked_sub(Self::STEP);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

/// A campaign's part of a run.
struct Turn {
    campaign: CampaignId,
    /// Entries that were in the outbox when the run began. No more are taken: an entry whose claim is gone becomes due
    /// again, and would be taken again and again.
    entries: u64,
    swept: Swept,
}

impl Turn {
    fn new(Waiting { campaign, entries, .. }: Waiting) -> Self {
        Self { campaign, entries, swept: Swept { waiting: entries, ..Swept::default() } }
    }

    /// Returns whether another step may find more.
    fn add(&mut self, step: Swept) -> bool {
        let total = &mut self.swept;
        total.taken = total.taken.saturating_add(step.taken);
        total.forwarded = total.forwarded.saturating_add(step.forwarded);
        total.oldest = total.oldest.max(step.oldest);
        total.waiting = step.waiting;
        step.taken >= SCHEDULE.batch && u64::try_from(total.taken).is_ok_and(|taken| taken < self.entries)
    }
}

/// Takes due entries, produces them, and moves their leases. Any isolate may sweep at any time: `take_due.lua` gives
/// each entry to one sweeper at a time, and a record that arrives twice changes nothing (I6).
pub struct Sweeper<H> {
    redis: RedisRest<H>,
    kafka: KafkaRest<H>,
    /// Calls that a run of the cron makes at most.
    calls: u32,
    /// When this isolate last swept beside its requests.
    swept: Cell<Millis>,
    telemetry: Rc<Telemetry>,
}

impl<H: Http> Sweeper<H> {
    #[must_use]
    pub fn new(redis: RedisRest<H>, kafka: KafkaRest<H>, calls: u32, telemetry: Rc<Telemetry>) -> Self {
        Self { redis, kafka, calls, swept: Cell::default(), telemetry }
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

    /// What the cron does: sweeps the campaigns in which something is due, each for a bounded share of this event's
    /// calls, round after round. What a run does not reach is due earlier than the rest at the next. A campaign that
    /// fails does not stop the others.
    pub async fn run<P: Platform>(&self, platform: &P) {
        let report = |fault: &Fault| self.telemetry.record_fault(Activity::Sweep, fault, platform);
        let began = platform.now();
        let mut calls = Calls { left: self.calls };
        let (now, mut waiting) = match self.waiting(&mut calls).await {
            Ok(found) => found,
            Err(fault) => return report(&fault),
        };
        waiting.sort_by_key(|one| one.due);
        let is_due = waiting.iter().take_while(|one| one.due <= now).count();
        let mut turns: VecDeque<Turn> = waiting.into_iter().map(Turn::new).collect();
        let mut done: Vec<Turn> = turns.split_off(is_due).into();
        // Where this event cannot reach all, half of its turns go to the most overdue campaigns, and half to any of the
        // others: however many are overdue for however long, each gets its turn.
        let first = usize::try_from(calls.left / Calls::STEP / SCHEDULE.share / 2).unwrap_or(usize::MAX);
        let mut others = turns.split_off(first.min(turns.len()));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let start = (platform.random() * others.len() as f64) as usize;
        others.rotate_left(start.min(others.len()));
        turns.append(&mut others);
        while let Some(mut turn) = turns.pop_front() {
            let mut goes_on = true;
            for _ in 0..SCHEDULE.share {
                if !goes_on || !calls.take_step() || platform.now() - began >= SCHEDULE.cron {
                    break;
                }
                match self.step(&turn.campaign).await {
                    Ok(step) => goes_on = turn.add(step),
                    Err(fault) => {
                        report(&fault);
                        goes_on = false;
                    }
                }
            }
            if goes_on && calls.left >= Calls::STEP && platform.now() - began < SCHEDULE.cron {
                turns.push_back(turn);
            } else {
                done.push(turn);
            }
        }
        for Turn { campaign, swept: Swept { waiting, forwarded, oldest, .. }, .. } in done {
            if waiting > 0 {
                platform.log(&json!({
                    "event": "outbox",
                    "campaign": campaign,
                    "waiting": waiting,
                    "forwarded": forwarded,
                    "oldest_ms": oldest,
                }));
            }
        }
    }

    async fn waiting(&self, calls: &mut Calls) -> Result<(Millis, Vec<Waiting>), Fault> {
        let campaigns = admission::published_campaigns(&self.redis).await?;
        let pages = u32::try_from(campaigns.len().div_ceil(outbox::PAGE)).unwrap_or(u32::MAX);
        calls.left = calls.left.saturating_sub(pages.saturating_add(1));
        outbox::waiting(&self.redis, &campaigns).await
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
                code_key: due.code_key,
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
