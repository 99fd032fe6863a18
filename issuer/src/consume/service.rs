//! The loop: take a batch, settle every record of it, and only then move the offsets (I7).

use crate::backoff::{Outage, random};
use crate::consume::budget::{Budget, Change, WriteBudget, Written};
use crate::consume::decode::Admission;
use crate::consume::inbox::{Desk, GivenUp, Next, Taken};
use crate::consume::ports::{
    Cause, Confirmation, Confirmations, DeadLetters, Delivery, Intake, Ledger, Outcome, UNKNOWN_CAMPAIGN,
};
use crate::consume::traces::Traces;
use crate::health::Health;
use crate::metrics::{Metrics, Reason};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::Slot;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often the progress is told while there is any.
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
pub struct Pace {
    /// Records in one transaction at most, and in hand.
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
    /// No: a stop was asked for, and what could be finished is finished.
    Stopped,
}

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The intake will never deliver again.
    #[error(transparent)]
    Intake(#[from] Fault),
    /// Too many records in a row can never become rows.
    #[error(
        "{limit} records in a row can never become rows, the last one for \"{label}\" (partition {partition}, \
         offset {offset}). That is no bad record but a wrong topic, database or version: mend it and start again. \
         Nothing is lost: fewer than {limit} of them are in the dead-letter topic, from where `issuer dlq replay` sends \
         them again, and the others are still in their own. To send all of them there, start with \
         --dead-letter-limit 0"
    )]
    DeadLetters {
        /// How many were allowed.
        limit: u32,
        /// The last one's cause.
        label: &'static str,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
}

/// The service.
pub struct Service<I, L, D, C> {
    desk: Desk<I>,
    ledger: L,
    dead_letters: D,
    confirmations: C,
    budget: Budget,
    dead_letter_limit: u32,
    dead_letters_in_a_row: u32,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    traces: Traces,
    counts: Counts,
    told: (Instant, Counts),
}

enum Unsettled {
    GivenUp,
    Failed(ServiceError),
}

impl From<GivenUp> for Unsettled {
    fn from(_: GivenUp) -> Self {
        Self::GivenUp
    }
}

impl<I: Intake, L: Ledger, D: DeadLetters, C: Confirmations> Service<I, L, D, C> {
    /// A service over its ports. It ends when `stop` becomes true.
    pub fn new(
        (intake, ledger, dead_letters, confirmations): (I, L, D, C),
        pace: Pace,
        (health, metrics, traces): (Arc<Health>, Arc<Metrics>, Traces),
        stop: watch::Receiver<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            desk: Desk::new(intake, pace.batch_records, pace.linger, stop, Arc::clone(&health)),
            ledger,
            dead_letters,
            confirmations,
            budget: Budget::new(pace.budget, pace.batch_records, now),
            dead_letter_limit: pace.dead_letter_limit,
            dead_letters_in_a_row: 0,
            health,
            metrics,
            traces,
            counts: Counts::default(),
            told: (now, Counts::default()),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Gives the ports back, to be closed in order.
    pub fn into_ports(self) -> (I, L, D, C) {
        (self.desk.into_intake(), self.ledger, self.dead_letters, self.confirmations)
    }

    /// Waits for a batch and settles it.
    ///
    /// # Errors
    /// [`ServiceError`]; what was settled before is stored.
    pub async fn step(&mut self) -> Result<Step, ServiceError> {
        self.look_at_share();
        let begun = Instant::now();
        let (size, not_before) = (self.budget.batch(begun), self.budget.next_at());
        let next = self.desk.gather(size, not_before, self.told.0 + PROGRESS_EVERY).await?;
        let now = Instant::now();
        if self.desk.has_any() {
            Metrics::add_seconds(
                &self.metrics.budget_wait_seconds,
                now.min(not_before).saturating_duration_since(begun),
            );
        }
        // A partition may have come or gone during the wait.
        self.look_at_share();
        // With the stop goes the last batch, if the budget allows it; the rest comes to somebody else.
        if next == Next::Batch || (next == Next::Stop && not_before <= now) {
            let batch = self.desk.batch(self.budget.batch(now));
            match if batch.is_empty() { Ok(()) } else { self.settle(batch).await } {
                Ok(()) => {}
                Err(Unsettled::GivenUp) => {
                    return self.desk.fatal().map_or(Ok(Step::Stopped), |fault| Err(fault.into()));
                }
                Err(Unsettled::Failed(error)) => return Err(error),
            }
        }
        self.tell_progress();
        Ok(if next == Next::Stop { Step::Stopped } else { Step::Again })
    }

    /// Sees to it that every record of the batch is a row, a refusal or an acknowledged dead letter,
    /// however long that takes; then moves the offsets and tells Redis.
    async fn settle(&mut self, batch: Vec<Taken>) -> Result<(), Unsettled> {
        self.metrics.batch_records.observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let mut traced = self.traces.batch(batch.len());
        let mut deliveries = Vec::with_capacity(batch.len());
        let mut admissions = Vec::with_capacity(batch.len());
        let mut owners = Vec::with_capacity(batch.len());
        let mut poison = Vec::new();
        for (index, Taken { delivery, decoded }) in batch.into_iter().enumerate() {
            deliveries.push(delivery);
            match decoded {
                Ok(admission) => {
                    admissions.push(admission);
                    owners.push(index);
                }
                // What it says of a user is not to be trusted, so Redis hears nothing: the outbox still
                // holds the obligation and sends a sound record.
                Err(cause) => poison.push((index, cause)),
            }
        }

        let mut outcomes = Vec::new();
        if !admissions.is_empty() {
            let begun = SystemTime::now();
            outcomes = self.persist(&admissions).await?;
            traced.written(begun);
        }
        let mut confirmations = Vec::with_capacity(outcomes.len());
        for ((admission, index), outcome) in admissions.into_iter().zip(owners).zip(outcomes) {
            let mut heals = false;
            let (slot, status, told) = match outcome {
                Outcome::Issued { slot } => {
                    self.counts.issued += 1;
                    self.metrics.issued.inc();
                    if slot != admission.record.slot {
                        self.metrics.moved.inc();
                    }
                    (slot, ClaimStatus::Issued, "issued")
                }
                Outcome::Already { slot } => {
                    self.counts.already += 1;
                    self.metrics.already.inc();
                    (slot, ClaimStatus::Issued, "already")
                }
                Outcome::Refused { slot } => {
                    self.counts.refused += 1;
                    self.metrics.refused.inc();
                    (slot, ClaimStatus::Refused, "refused")
                }
                Outcome::Poison(cause) => {
                    heals = cause.label == UNKNOWN_CAMPAIGN;
                    poison.push((index, cause));
                    (admission.record.slot, ClaimStatus::DeadLettered, "dead_lettered")
                }
            };
            if let Some(delivery) = deliveries.get(index) {
                traced.record(&admission.record, delivery, slot, told);
            }
            if !heals {
                confirmations.push(confirmation(admission, slot, status));
            }
        }
        poison.sort_unstable_by_key(|(index, _)| *index);
        self.count_in_a_row(&deliveries, &poison).map_err(Unsettled::Failed)?;
        self.bury(&deliveries, &poison).await?;

        let records = deliveries.len() as u64;
        self.counts.records += records;
        self.metrics.records.inc_by(records);
        self.counts.dead_letters += poison.len() as u64;
        for (_, cause) in &poison {
            self.metrics.dead_letters.get_or_create(&Reason { reason: cause.label }).inc();
        }
        if let Err(fault) = self.desk.settled(&deliveries) {
            tracing::warn!(label = fault.label, "{fault}");
        }
        if !confirmations.is_empty() {
            self.confirmations.offer(confirmations);
        }
        traced.end();
        Ok(())
    }

    async fn persist(&mut self, admissions: &[Admission]) -> Result<Vec<Outcome>, GivenUp> {
        let mut outage = Outage::default();
        let mut counted_to = Instant::now();
        loop {
            let begun = Instant::now();
            let answer = self.desk.attend(self.ledger.persist(admissions)).await?;
            let now = Instant::now();
            let fault = match answer {
                Ok(outcomes) if outcomes.len() == admissions.len() => {
                    self.health.database(true);
                    if let Some(lasted) = outage.answered(now) {
                        Metrics::add_seconds(
                            &self.metrics.database_outage_seconds,
                            now.saturating_duration_since(counted_to),
                        );
                        tell_over("the database is back", lasted);
                    }
                    self.count_written(admissions, &outcomes, now.saturating_duration_since(begun), now);
                    return Ok(outcomes);
                }
                Ok(_) => Fault::unknown(dropgate_shared::fault::Source::MySql, "incomplete", "outcomes are missing"),
                Err(fault) => fault,
            };
            self.health.database(false);
            self.metrics.database_faults.get_or_create(&Reason { reason: fault.label }).inc();
            Metrics::add_seconds(&self.metrics.database_outage_seconds, now.saturating_duration_since(counted_to));
            counted_to = now;
            if outage.failed(fault.label, now) {
                tracing::warn!(
                    label = fault.label,
                    records = admissions.len(),
                    "no rows can be written; waiting, nothing is lost: {fault}"
                );
            }
            self.desk.wait(outage.delay(random())).await?;
        }
    }

    fn count_written(&mut self, admissions: &[Admission], outcomes: &[Outcome], took: Duration, now: Instant) {
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        let as_proposed = |(admission, outcome): (&Admission, &Outcome)| matches!(outcome, Outcome::Issued { slot } if *slot == admission.record.slot);
        let clean = admissions.iter().zip(outcomes).all(as_proposed);
        let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
        let rows = count(|outcome| matches!(outcome, Outcome::Issued { .. } | Outcome::Refused { .. }));
        let looked_up = count(|outcome| matches!(outcome, Outcome::Already { .. }));
        match self.budget.wrote(Written { rows, looked_up, took, clean }, now) {
            Some(Change::Slowed) => {
                tracing::info!("the database is busy with others: writing more slowly (WRITE_BUDGET=auto)");
            }
            Some(Change::Recovered) => tracing::info!("the database is quiet: writing at full pace again"),
            None => {}
        }
        self.metrics.budget_rows_per_second.set(self.budget.rows_per_second().unwrap_or(f64::INFINITY));
        self.metrics.budget_duty.set(self.budget.duty().unwrap_or(1.0));
    }

    /// One bad record is a bad record; a long row of them is a wrong topic, database or version, and
    /// nothing that the dead-letter topic should be filled with.
    fn count_in_a_row(&mut self, deliveries: &[Delivery], poison: &[(usize, Cause)]) -> Result<(), ServiceError> {
        let mut poison = poison.iter().peekable();
        for (index, delivery) in deliveries.iter().enumerate() {
            let Some((_, cause)) = poison.next_if(|(at, _)| *at == index) else {
                self.dead_letters_in_a_row = 0;
                continue;
            };
            // Somebody tries whether they are mended: no news about the topic.
            if delivery.replayed {
                continue;
            }
            self.dead_letters_in_a_row = self.dead_letters_in_a_row.saturating_add(1);
            if self.dead_letter_limit > 0 && self.dead_letters_in_a_row >= self.dead_letter_limit {
                return Err(ServiceError::DeadLetters {
                    limit: self.dead_letter_limit,
                    label: cause.label,
                    partition: delivery.partition,
                    offset: delivery.offset,
                });
            }
        }
        Ok(())
    }

    async fn bury(&mut self, deliveries: &[Delivery], poison: &[(usize, Cause)]) -> Result<(), GivenUp> {
        let mut letters: Vec<(&Delivery, &Cause)> =
            poison.iter().filter_map(|(index, cause)| Some((deliveries.get(*index)?, cause))).collect();
        for (delivery, cause) in &letters {
            tracing::warn!(
                partition = delivery.partition,
                offset = delivery.offset,
                cause = cause.label,
                "a record can never become a row; it goes to the dead-letter topic"
            );
        }
        let mut outage = Outage::default();
        while !letters.is_empty() {
            let results = self.desk.attend(self.dead_letters.bury(&letters)).await?;
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
            self.desk.wait(outage.delay(random())).await?;
        }
        if let Some(lasted) = outage.answered(Instant::now()) {
            tell_over("the dead-letter topic is back", lasted);
        }
        Ok(())
    }

    fn look_at_share(&mut self) {
        let partitions = self.desk.intake().partitions();
        self.budget.share(partitions.owned, partitions.all);
        self.metrics.partitions.set(i64::try_from(partitions.owned).unwrap_or(i64::MAX));
        self.metrics.budget_share.set(self.budget.part());
        self.metrics.budget_rows_per_second.set(self.budget.rows_per_second().unwrap_or(f64::INFINITY));
    }

    fn tell_progress(&mut self) {
        let now = Instant::now();
        let (at, before) = self.told;
        if now.saturating_duration_since(at) < PROGRESS_EVERY {
            return;
        }
        self.told = (now, self.counts);
        let records = self.counts.records - before.records;
        if records > 0 {
            tracing::info!(
                records,
                issued = self.counts.issued - before.issued,
                already = self.counts.already - before.already,
                refused = self.counts.refused - before.refused,
                dead_letters = self.counts.dead_letters - before.dead_letters,
                lag = self.desk.intake().lag(),
                "progress of the last {} s",
                now.saturating_duration_since(at).as_secs()
            );
        }
    }
}

fn tell_over(what: &str, lasted: Duration) {
    tracing::info!(after_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX), "{what}");
}

fn confirmation(admission: Admission, slot: Slot, status: ClaimStatus) -> Confirmation {
    let record = admission.record;
    let entry = ClaimEntry { slot, admitted_ms: record.admitted_at, status };
    Confirmation { campaign: record.campaign, user: record.user, entry }
}
