//! The loop: take a batch, settle every record of it, and only then move the offsets (I7).

use super::budget::{Budget, Change, WriteBudget, Written};
use super::decode::Admission;
use super::inbox::{GivenUp, Inbox, Next, Received};
use super::ports::{
    ClaimOutcome, Confirmation, Confirmations, CouponStore, DeadLetters, Delivery, RecordSource, RejectReason,
};
use super::traces::{BatchTrace, Traces};
use crate::backoff::{Backoff, Jitter, OutageLog};
use crate::health::Health;
use crate::metrics::{Metrics, ReasonLabel};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::Slot;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the progress is logged while there is any.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What the service has done since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records settled, of every kind.
    pub records: u64,
    /// Coupon rows written.
    pub issued: u64,
    /// Records whose row existed before.
    pub already: u64,
    /// Records whose claim is refused.
    pub refused: u64,
    /// Records sent to the dead-letter topic.
    pub dead_letters: u64,
}

/// How much at a time, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records in one transaction at most, and in the inbox.
    pub batch_records: usize,
    /// How long the first record of a batch waits for others.
    pub linger: Duration,
    /// How fast rows are written.
    pub budget: WriteBudget,
    /// After this many dead letters in a row the service ends; 0: never.
    pub dead_letter_limit: u32,
}

/// Whether there will be another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Yes.
    Again,
    /// No: a stop was requested, and what could be finished is finished.
    Stopped,
}

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The source will never deliver again.
    #[error(transparent)]
    Source(#[from] Fault),
    /// Too many records in a row can never become rows.
    #[error(
        "{limit} records in a row can never become rows, the last one for \"{label}\" (partition {partition}, \
         offset {offset}). The cause is not a bad record but a wrong topic, database or version: correct it and start \
         again. Nothing is lost: fewer than {limit} of them are in the dead-letter topic, from where \
         `issuer dlq replay` sends them again, and the others are still in their own topic. To send all of them to the \
         dead-letter topic, start with --dead-letter-limit 0"
    )]
    DeadLetters { limit: u32, label: &'static str, partition: i32, offset: i64 },
}

/// The service over its ports: `R` delivers records, `S` writes rows, `D` takes dead letters, `C` takes confirmations.
pub struct Service<R, S, D, C> {
    inbox: Inbox<R>,
    store: S,
    dead_letters: D,
    confirmations: C,
    budget: Budget,
    dead_letter_limit: u32,
    dead_letters_in_a_row: u32,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    traces: Traces,
    jitter: Jitter,
    counts: Counts,
    /// When the progress was last logged, and the counts at that time.
    logged: (Instant, Counts),
}

/// Why a batch is not settled.
enum Unsettled {
    GivenUp,
    Failed(ServiceError),
}

impl From<GivenUp> for Unsettled {
    fn from(_: GivenUp) -> Self {
        Self::GivenUp
    }
}

/// A record of the batch in hand whose admission, if it holds one, is committed.
struct InHand {
    delivery: Delivery,
    /// Why it goes to the dead-letter topic, if it does.
    rejected: Option<RejectReason>,
}

impl<R: RecordSource, S: CouponStore, D: DeadLetters, C: Confirmations> Service<R, S, D, C> {
    /// A service over its ports. It ends when `stop` becomes true.
    pub fn new(
        (source, store, dead_letters, confirmations): (R, S, D, C),
        limits: Limits,
        (health, metrics, traces): (Arc<Health>, Arc<Metrics>, Traces),
        jitter: Jitter,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            inbox: Inbox::new(source, limits.batch_records, limits.linger, stop, Arc::clone(&health)),
            store,
            dead_letters,
            confirmations,
            budget: Budget::new(limits.budget, limits.batch_records, now),
            dead_letter_limit: limits.dead_letter_limit,
            dead_letters_in_a_row: 0,
            health,
            metrics,
            traces,
            jitter,
            counts: Counts::default(),
            logged: (now, Counts::default()),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Gives the ports back, to be closed in order.
    pub fn into_ports(self) -> (R, S, D, C) {
        (self.inbox.into_source(), self.store, self.dead_letters, self.confirmations)
    }

    /// Waits for a batch and settles it.
    ///
    /// # Errors
    /// [`ServiceError`]; what was settled before is stored.
    pub async fn step(&mut self) -> Result<Step, ServiceError> {
        self.update_share();
        let begun = Instant::now();
        let (size, not_before) = (self.budget.batch(begun), self.budget.next_at());
        let next = self.inbox.next_batch(size, not_before, self.logged.0 + PROGRESS_EVERY).await?;
        let now = Instant::now();
        if self.inbox.has_any() {
            Metrics::add_seconds(
                &self.metrics.budget_wait_seconds,
                now.min(not_before).saturating_duration_since(begun),
            );
        }
        // A partition may have come or gone during the wait.
        self.update_share();
        // With the stop goes the last batch, if the budget allows it; the rest goes to other members.
        if next == Next::Batch || (next == Next::Stop && not_before <= now) {
            let batch = self.inbox.batch(self.budget.batch(now));
            match if batch.is_empty() { Ok(()) } else { self.settle(batch).await } {
                Ok(()) => {}
                Err(Unsettled::GivenUp) => {
                    return self.inbox.fatal().map_or(Ok(Step::Stopped), |fault| Err(fault.into()));
                }
                Err(Unsettled::Failed(error)) => return Err(error),
            }
        }
        self.log_progress();
        Ok(if next == Next::Stop { Step::Stopped } else { Step::Again })
    }

    /// Sees to it that every record of the batch is a row, a refusal or an acknowledged dead letter, however long that
    /// takes; then moves the offsets and confirms to Redis. The order is what the promises rest on: rows before dead
    /// letters, since the database may reject what could be decoded; both before the offsets (I7); Redis last, since
    /// nothing depends on it (what it misses is sent again).
    async fn settle(&mut self, batch: Vec<Received>) -> Result<(), Unsettled> {
        self.metrics.batch_records.observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let mut trace = self.traces.batch(batch.len());
        let admissions: Vec<&Admission> = batch.iter().filter_map(|received| received.decoded.as_ref().ok()).collect();
        let mut outcomes = Vec::new();
        if !admissions.is_empty() {
            trace.write_begins();
            outcomes = self.persist(&admissions).await?;
            trace.write_ended();
        }
        let mut confirmations = Vec::with_capacity(outcomes.len());
        let mut records = Vec::with_capacity(batch.len());
        let mut outcomes = outcomes.into_iter();
        for Received { delivery, decoded } in batch {
            let rejected = match decoded {
                Ok(admission) => {
                    // `persist` returns an outcome for each admission. Without one no offset may move.
                    let outcome = outcomes.next().ok_or(Unsettled::GivenUp)?;
                    self.note(admission, outcome, &delivery, &mut trace, &mut confirmations)
                }
                // What it says of a user is not to be trusted, so Redis is not changed: the outbox still
                // holds the entry and sends a valid record.
                Err(reason) => Some(reason),
            };
            records.push(InHand { delivery, rejected });
        }
        self.count_in_a_row(&records).map_err(Unsettled::Failed)?;
        self.publish_dead_letters(&records).await?;

        self.counts.records += records.len() as u64;
        self.metrics.records.inc_by(records.len() as u64);
        for reason in records.iter().filter_map(|record| record.rejected.as_ref()) {
            self.counts.dead_letters += 1;
            self.metrics.dead_letters.get_or_create(&ReasonLabel { reason: reason.label }).inc();
        }
        if let Err(fault) = self.inbox.settled(records.iter().map(|record| &record.delivery)) {
            tracing::warn!(label = fault.label, "{fault}");
        }
        if !confirmations.is_empty() {
            self.confirmations.offer(confirmations);
        }
        trace.end();
        Ok(())
    }

    /// Counts what became of an admission, and adds what Redis is to know. Returns why it goes to the dead-letter
    /// topic, if it does.
    fn note(
        &mut self,
        admission: Admission,
        outcome: ClaimOutcome,
        delivery: &Delivery,
        trace: &mut BatchTrace,
        confirmations: &mut Vec<Confirmation>,
    ) -> Option<RejectReason> {
        let (slot, status, label, rejected) = match outcome {
            ClaimOutcome::Issued { slot } => {
                self.counts.issued += 1;
                self.metrics.issued.inc();
                if slot != admission.record.slot {
                    self.metrics.moved.inc();
                }
                (slot, ClaimStatus::Issued, "issued", None)
            }
            ClaimOutcome::Already { slot } => {
                self.counts.already += 1;
                self.metrics.already.inc();
                (slot, ClaimStatus::Issued, "already", None)
            }
            ClaimOutcome::Refused { slot } => {
                self.counts.refused += 1;
                self.metrics.refused.inc();
                (slot, ClaimStatus::Refused, "refused", None)
            }
            ClaimOutcome::Rejected(reason) => {
                (admission.record.slot, ClaimStatus::DeadLettered, "dead_lettered", Some(reason))
            }
        };
        trace.record(&admission.record, delivery, slot, label);
        // Of an unknown campaign the outbox entry stays: see there.
        if rejected.as_ref().is_none_or(|reason| reason.label != RejectReason::UNKNOWN_CAMPAIGN) {
            confirmations.push(confirmation(admission, slot, status));
        }
        rejected
    }

    async fn persist(&mut self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, GivenUp> {
        let (mut backoff, mut outage) = (Backoff::default(), OutageLog::default());
        let mut counted_to = Instant::now();
        loop {
            let begun = Instant::now();
            let answer = self.inbox.run_while_polling(self.store.persist(admissions)).await?;
            let now = Instant::now();
            let fault = match answer {
                Ok(outcomes) if outcomes.len() == admissions.len() => {
                    self.health.database(true);
                    if let Some(lasted) = outage.succeeded(now) {
                        Metrics::add_seconds(
                            &self.metrics.database_outage_seconds,
                            now.saturating_duration_since(counted_to),
                        );
                        log_end("the database is back", lasted);
                    }
                    self.count_written(admissions, &outcomes, now.saturating_duration_since(begun), now);
                    return Ok(outcomes);
                }
                Ok(_) => Fault::unknown(Source::MySql, "incomplete", "outcomes are missing"),
                Err(fault) => fault,
            };
            self.health.database(false);
            self.metrics.database_faults.get_or_create(&ReasonLabel { reason: fault.label }).inc();
            Metrics::add_seconds(&self.metrics.database_outage_seconds, now.saturating_duration_since(counted_to));
            counted_to = now;
            if outage.failed(fault.label, now) {
                tracing::warn!(
                    label = fault.label,
                    records = admissions.len(),
                    "no rows can be written; waiting, nothing is lost: {fault}"
                );
            }
            self.inbox.wait(backoff.next_delay(self.jitter.next())).await?;
        }
    }

    fn count_written(&mut self, admissions: &[&Admission], outcomes: &[ClaimOutcome], took: Duration, now: Instant) {
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        let as_proposed = |(admission, outcome): (&&Admission, &ClaimOutcome)| matches!(outcome, ClaimOutcome::Issued { slot } if *slot == admission.record.slot);
        let clean = admissions.iter().zip(outcomes).all(as_proposed);
        let count = |is: fn(&ClaimOutcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
        let rows = count(|outcome| matches!(outcome, ClaimOutcome::Issued { .. } | ClaimOutcome::Refused { .. }));
        let looked_up = count(|outcome| matches!(outcome, ClaimOutcome::Already { .. }));
        match self.budget.wrote(Written { rows, looked_up, took, clean }, now) {
            Some(Change::Slowed) => {
                tracing::info!("the database is busy with other work: writing more slowly (WRITE_BUDGET=auto)");
            }
            Some(Change::Recovered) => tracing::info!("the database is quiet: writing at full pace again"),
            None => {}
        }
        self.metrics.budget_rows_per_second.set(self.budget.rows_per_second().unwrap_or(f64::INFINITY));
        self.metrics.budget_duty.set(self.budget.duty().unwrap_or(1.0));
    }

    /// One bad record is a bad record; a long row of them is a wrong topic, database or version, and
    /// nothing that the dead-letter topic should be filled with.
    fn count_in_a_row(&mut self, records: &[InHand]) -> Result<(), ServiceError> {
        for InHand { delivery, rejected } in records {
            let Some(reason) = rejected else {
                self.dead_letters_in_a_row = 0;
                continue;
            };
            // An operator tries whether the cause is gone: no news about the topic.
            if delivery.replayed {
                continue;
            }
            self.dead_letters_in_a_row = self.dead_letters_in_a_row.saturating_add(1);
            if self.dead_letter_limit > 0 && self.dead_letters_in_a_row >= self.dead_letter_limit {
                return Err(ServiceError::DeadLetters {
                    limit: self.dead_letter_limit,
                    label: reason.label,
                    partition: delivery.partition,
                    offset: delivery.offset,
                });
            }
        }
        Ok(())
    }

    async fn publish_dead_letters(&mut self, records: &[InHand]) -> Result<(), GivenUp> {
        let mut letters: Vec<(&Delivery, &RejectReason)> =
            records.iter().filter_map(|record| Some((&record.delivery, record.rejected.as_ref()?))).collect();
        for (delivery, reason) in &letters {
            tracing::warn!(
                partition = delivery.partition,
                offset = delivery.offset,
                cause = reason.label,
                "a record can never become a row; it goes to the dead-letter topic"
            );
        }
        let (mut backoff, mut outage) = (Backoff::default(), OutageLog::default());
        while !letters.is_empty() {
            let results = self.inbox.run_while_polling(self.dead_letters.publish(&letters)).await?;
            let mut fault = None;
            let mut results = results.into_iter();
            letters.retain(|_| match results.next() {
                Some(Ok(())) => false,
                Some(Err(error)) => {
                    fault = Some(error);
                    true
                }
                None => true,
            });
            self.health.dead_letters(letters.is_empty());
            if letters.is_empty() {
                break;
            }
            let label = fault.as_ref().map_or("incomplete", |fault| fault.label);
            if outage.failed(label, Instant::now()) {
                let detail = fault.map_or_else(String::new, |fault| fault.to_string());
                tracing::warn!(label, records = letters.len(), "dead letters are not acknowledged; waiting: {detail}");
            }
            self.inbox.wait(backoff.next_delay(self.jitter.next())).await?;
        }
        if let Some(lasted) = outage.succeeded(Instant::now()) {
            log_end("the dead-letter topic is back", lasted);
        }
        Ok(())
    }

    fn update_share(&mut self) {
        let partitions = self.inbox.source().partitions();
        self.budget.share(partitions.owned, partitions.all);
        self.metrics.partitions.set(i64::try_from(partitions.owned).unwrap_or(i64::MAX));
        self.metrics.budget_share.set(self.budget.part());
        self.metrics.budget_rows_per_second.set(self.budget.rows_per_second().unwrap_or(f64::INFINITY));
    }

    fn log_progress(&mut self) {
        let now = Instant::now();
        let (at, before) = self.logged;
        if now.saturating_duration_since(at) < PROGRESS_EVERY {
            return;
        }
        self.logged = (now, self.counts);
        let records = self.counts.records - before.records;
        if records > 0 {
            tracing::info!(
                records,
                issued = self.counts.issued - before.issued,
                already = self.counts.already - before.already,
                refused = self.counts.refused - before.refused,
                dead_letters = self.counts.dead_letters - before.dead_letters,
                lag = self.inbox.source().lag(),
                "progress of the last {} s",
                now.saturating_duration_since(at).as_secs()
            );
        }
    }
}

fn log_end(what: &str, lasted: Duration) {
    tracing::info!(after_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX), "{what}");
}

fn confirmation(admission: Admission, slot: Slot, status: ClaimStatus) -> Confirmation {
    let record = admission.record;
    let entry = ClaimEntry { slot, admitted_ms: record.admitted_at, status };
    Confirmation { campaign: record.campaign, user: record.user, entry }
}
