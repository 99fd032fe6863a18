//! The loop: take a batch, settle every record of it, and only then move the offsets (I7).

use crate::batch::Batcher;
use crate::decode::{Admission, decode};
use crate::offsets::Offsets;
use crate::outage::{Outage, random};
use crate::ports::{
    Cause, Confirmation, Confirmations, DeadLetters, Delivery, Intake, Ledger, Outcome, UNKNOWN_CAMPAIGN,
};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::Slot;
use futures_util::FutureExt;
use std::time::{Duration, Instant};
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

/// Whether there will be another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Yes.
    Again,
    /// No: a stop was asked for, and what could be finished is finished.
    Stopped,
}

/// The service.
pub struct Service<I, L, D, C> {
    intake: I,
    ledger: L,
    dead_letters: D,
    confirmations: C,
    stop: watch::Receiver<bool>,
    batcher: Batcher<Taken>,
    offsets: Offsets,
    counts: Counts,
    told: (Instant, Counts),
}

/// A record in hand.
struct Taken {
    delivery: Delivery,
    decoded: Result<Admission, Cause>,
}

/// The work was given up because a stop was asked for while another system was away.
struct GivenUp;

impl<I: Intake, L: Ledger, D: DeadLetters, C: Confirmations> Service<I, L, D, C> {
    /// A service over its ports. It ends when `stop` becomes true.
    pub fn new(
        (intake, ledger, dead_letters, confirmations): (I, L, D, C),
        batch_records: usize,
        linger: Duration,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            intake,
            ledger,
            dead_letters,
            confirmations,
            stop,
            batcher: Batcher::new(batch_records, linger),
            offsets: Offsets::default(),
            counts: Counts::default(),
            told: (Instant::now(), Counts::default()),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Gives the ports back, to be closed in order.
    pub fn into_ports(self) -> (I, L, D, C) {
        (self.intake, self.ledger, self.dead_letters, self.confirmations)
    }

    /// Waits for a batch and settles it.
    ///
    /// # Errors
    /// [`Fault`] of an intake that will never deliver again.
    pub async fn step(&mut self) -> Result<Step, Fault> {
        let step = self.gather().await?;
        let batch = self.batcher.take();
        if !batch.is_empty() && self.settle(batch).await.is_err() {
            return Ok(Step::Stopped);
        }
        self.tell_progress();
        Ok(step)
    }

    /// Waits until a batch is due, or for the stop; then what is in hand is the last batch.
    async fn gather(&mut self) -> Result<Step, Fault> {
        let tell_at = self.told.0 + PROGRESS_EVERY;
        loop {
            if *self.stop.borrow() {
                return Ok(Step::Stopped);
            }
            // Whatever is there already, without a timer for each record.
            while !self.batcher.is_full() {
                match self.intake.recv().now_or_never() {
                    Some(received) => self.take(received)?,
                    None => break,
                }
            }
            let now = Instant::now();
            if self.batcher.is_due(now) || now >= tell_at {
                return Ok(Step::Again);
            }
            let wake_at = self.batcher.deadline().unwrap_or(tell_at).min(tell_at);
            tokio::select! {
                received = self.intake.recv() => self.take(received)?,
                () = tokio::time::sleep_until(wake_at.into()) => {}
                Ok(()) = self.stop.changed() => {}
            }
        }
    }

    fn take(&mut self, received: Result<Delivery, Fault>) -> Result<(), Fault> {
        self.forget_revoked();
        match received {
            Ok(delivery) => {
                self.offsets.taken(delivery.partition, delivery.offset);
                let decoded = decode(&delivery.payload);
                self.batcher.push(Taken { delivery, decoded }, Instant::now());
                Ok(())
            }
            // librdkafka goes on by itself; it reports each trouble once.
            Err(fault) if fault.retry => {
                tracing::warn!(label = fault.label, "{fault}");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    fn forget_revoked(&mut self) {
        for partition in self.intake.revoked() {
            self.offsets.forget(partition);
        }
    }

    /// Sees to it that every record of the batch is a row, a refusal or an acknowledged dead letter,
    /// however long that takes; then moves the offsets and tells Redis.
    async fn settle(&mut self, batch: Vec<Taken>) -> Result<(), GivenUp> {
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

        let outcomes = if admissions.is_empty() { Vec::new() } else { self.persist(&admissions).await? };
        let mut confirmations = Vec::with_capacity(outcomes.len());
        for ((admission, index), outcome) in admissions.into_iter().zip(owners).zip(outcomes) {
            let (slot, status) = match outcome {
                Outcome::Issued { slot } => {
                    self.counts.issued += 1;
                    (slot, ClaimStatus::Issued)
                }
                Outcome::Already { slot } => {
                    self.counts.already += 1;
                    (slot, ClaimStatus::Issued)
                }
                Outcome::Refused { slot } => {
                    self.counts.refused += 1;
                    (slot, ClaimStatus::Refused)
                }
                Outcome::Poison(cause) => {
                    let heals = cause.label == UNKNOWN_CAMPAIGN;
                    poison.push((index, cause));
                    if heals {
                        continue;
                    }
                    (admission.record.slot, ClaimStatus::DeadLettered)
                }
            };
            confirmations.push(confirmation(admission, slot, status));
        }
        self.bury(&deliveries, &poison).await?;

        // The group may have changed during any wait above.
        self.forget_revoked();
        self.counts.records += deliveries.len() as u64;
        self.counts.dead_letters += poison.len() as u64;
        for delivery in &deliveries {
            self.offsets.settled(delivery.partition, delivery.offset);
        }
        let moved = self.offsets.moved();
        if !moved.is_empty()
            && let Err(fault) = self.intake.store(&moved)
        {
            tracing::warn!(label = fault.label, "{fault}");
        }
        if !confirmations.is_empty() {
            self.confirmations.offer(confirmations);
        }
        Ok(())
    }

    async fn persist(&mut self, admissions: &[Admission]) -> Result<Vec<Outcome>, GivenUp> {
        let mut outage = Outage::default();
        loop {
            let fault = match self.ledger.persist(admissions).await {
                Ok(outcomes) if outcomes.len() == admissions.len() => {
                    self.over(&mut outage, "the database is back");
                    return Ok(outcomes);
                }
                Ok(_) => Fault::unknown(dropgate_shared::fault::Source::MySql, "incomplete", "outcomes are missing"),
                Err(fault) => fault,
            };
            if outage.failed(fault.label, Instant::now()) {
                tracing::warn!(
                    label = fault.label,
                    records = admissions.len(),
                    "no rows can be written; waiting, nothing is lost: {fault}"
                );
            }
            self.wait(outage.delay(random())).await?;
        }
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
            let results = self.dead_letters.bury(&letters).await;
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
            if letters.is_empty() {
                break;
            }
            let label = fault.as_ref().map_or("incomplete", |fault| fault.label);
            if outage.failed(label, Instant::now()) {
                let detail = fault.map_or_else(String::new, |fault| fault.to_string());
                tracing::warn!(label, records = letters.len(), "dead letters are not acknowledged; waiting: {detail}");
            }
            self.wait(outage.delay(random())).await?;
        }
        self.over(&mut outage, "the dead-letter topic is back");
        Ok(())
    }

    /// Waits while another system is away. Membership of the group must outlive the wait, however many
    /// tries it takes, so the intake is polled all the time; it is paused, so that nothing piles up.
    async fn wait(&mut self, delay: Duration) -> Result<(), GivenUp> {
        self.intake.pause();
        let until = tokio::time::Instant::now() + delay;
        loop {
            if *self.stop.borrow() {
                return Err(GivenUp);
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                Ok(()) = self.stop.changed() => {}
                received = self.intake.recv() => {
                    // A partition that was assigned a moment ago flows until it is paused as well. A
                    // fault for good comes again on the next receive.
                    let _ = self.take(received);
                    self.intake.pause();
                }
            }
        }
    }

    fn over(&self, outage: &mut Outage, what: &str) {
        if let Some(lasted) = outage.answered(Instant::now()) {
            tracing::info!(after_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX), "{what}");
            self.intake.resume();
        }
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
                lag = self.intake.lag(),
                "progress of the last {} s",
                now.saturating_duration_since(at).as_secs()
            );
        }
    }
}

fn confirmation(admission: Admission, slot: Slot, status: ClaimStatus) -> Confirmation {
    let record = admission.record;
    let entry = ClaimEntry { slot, admitted_ms: record.admitted_at, status };
    Confirmation { campaign: record.campaign, user: record.user, entry }
}
