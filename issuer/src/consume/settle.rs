//! One batch: every record of it becomes a row, a refusal or an acknowledged dead letter, and only then do the offsets
//! move (I7).
//!
//! | a step fails | meanwhile | then |
//! |---|---|---|
//! | rows cannot be written | wait 25 ms to 5 s, poll the source, paused | the same batch again (I6) |
//! | dead letters are not acknowledged | the same | those that were not acknowledged again |
//! | offsets cannot be stored | nothing | the records come again (I6) |
//! | too many records in a row can never become rows | hold: paused, polled, unready | the same batch again every 30 s |
//! | a record needs a secret that this process does not have | the same | the same |
//! | the confirmation queue is full | nothing | the outbox sends the claims again |
//! | a stop is requested | the write under way gets 15 s | no offset moves: another member takes the batch |

use super::budget::{Budget, Change, Written};
use super::inbox::{GivenUp, Inbox, Received};
use super::ports::{
    Admission, ClaimOutcome, Confirmation, Confirmations, CouponStore, DeadLetters, Delivery, Hold, RecordSource,
    RejectReason,
};
use super::traces::{BatchTrace, Traces};
use crate::backoff::{Backoff, Jitter, OutageLog};
use crate::health::Health;
use crate::labels;
use crate::metrics::{Metrics, ReasonLabel};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

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
    /// Records whose claim waits, since another user holds its slot.
    pub waiting: u64,
    /// Records sent to the dead-letter topic.
    pub dead_letters: u64,
}

/// How often a batch is tried again that is held for its many dead letters.
const HOLD_RETRY: Duration = Duration::from_secs(30);

/// Settles batches. It owns the ports behind the inbox. Whatever it waits for, it waits for at the inbox, so that the
/// source is polled.
pub(super) struct Settler<S, D, C> {
    pub(super) store: S,
    pub(super) dead_letters: D,
    pub(super) confirmations: C,
    pub(super) dead_letter_limit: u32,
    pub(super) dead_letters_in_a_row: u32,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) traces: Traces,
    pub(super) jitter: Jitter,
    pub(super) counts: Counts,
    /// A record of a batch had a row already, or may have had one.
    pub(super) saw_copies: bool,
}

/// A record of the batch in hand whose admission, if it holds one, is committed.
struct InHand {
    delivery: Delivery,
    /// Why it goes to the dead-letter topic, if it does.
    rejected: Option<RejectReason>,
}

impl<S: CouponStore, D: DeadLetters, C: Confirmations> Settler<S, D, C> {
    /// Sees to it that every record of the batch is a row, a refusal or an acknowledged dead letter, however long that
    /// takes; then moves the offsets and confirms to Redis. The order is what the promises rest on: rows before dead
    /// letters, since the database may reject what could be decoded; both before the offsets (I7); Redis last, since
    /// nothing depends on it (what it misses is sent again).
    pub(super) async fn settle<R: RecordSource>(
        &mut self,
        inbox: &mut Inbox<R>,
        budget: &mut Budget,
        mut batch: Vec<Received>,
    ) -> Result<(), GivenUp> {
        self.metrics.batch_records.observe(f64::from(u32::try_from(batch.len()).unwrap_or(u32::MAX)));
        let mut trace = self.traces.batch(batch.len());
        let outcomes = loop {
            let admissions: Vec<&Admission> =
                batch.iter().filter_map(|received| received.decoded.as_ref().ok()).collect();
            let mut hold = self.store.must_hold(&admissions);
            if hold.is_none() {
                let mut outcomes = Vec::new();
                if !admissions.is_empty() {
                    trace.write_begins();
                    outcomes = self.persist(inbox, budget, &admissions).await?;
                    trace.write_ended();
                }
                hold = self.count_in_a_row(&batch, &outcomes);
                if hold.is_none() {
                    break outcomes;
                }
            }
            if let Some(Hold { label, text }) = &hold {
                tracing::warn!(label, "holding, nothing is lost: {text}");
            }
            self.health.hold(hold);
            inbox.wait(HOLD_RETRY).await?;
            // Another member settles, or holds, what is not ours any more.
            inbox.retain_ours(&mut batch);
        };
        self.health.hold(None);
        let mut confirmations = self.holders(inbox, &batch, &outcomes).await?;
        let mut records = Vec::with_capacity(batch.len());
        let mut outcomes = outcomes.into_iter();
        for Received { delivery, decoded, .. } in batch {
            let rejected = match decoded {
                Ok(admission) => {
                    // `persist` returns an outcome for each admission. Without one no offset may move.
                    let outcome = outcomes.next().ok_or(GivenUp)?;
                    self.note(admission, outcome, &delivery, &mut trace, &mut confirmations)
                }
                // What it says of a user is not to be trusted, so Redis is not changed: the outbox still
                // holds the entry and sends a valid record.
                Err(reason) => Some(reason),
            };
            records.push(InHand { delivery, rejected });
        }
        self.publish_dead_letters(inbox, &records).await?;

        self.counts.records += records.len() as u64;
        self.metrics.records.inc_by(records.len() as u64);
        for reason in records.iter().filter_map(|record| record.rejected.as_ref()) {
            self.counts.dead_letters += 1;
            self.metrics.dead_letters.get_or_create(&ReasonLabel { reason: reason.label }).inc();
        }
        if let Err(fault) = inbox.settled(records.iter().map(|record| &record.delivery)) {
            tracing::warn!(label = fault.label, "{fault}");
        }
        if !confirmations.is_empty() {
            self.confirmations.offer(confirmations);
        }
        trace.end();
        Ok(())
    }

    /// Those who hold a slot that Redis has proposed to another user: Redis has lost their claims, so they are confirmed
    /// again (I5).
    async fn holders<R: RecordSource>(
        &self,
        inbox: &mut Inbox<R>,
        batch: &[Received],
        outcomes: &[ClaimOutcome],
    ) -> Result<Vec<Confirmation>, GivenUp> {
        let admissions = batch.iter().filter_map(|received| received.decoded.as_ref().ok());
        let slots: BTreeSet<(&CampaignId, Slot)> = admissions
            .zip(outcomes)
            .filter(|(_, outcome)| matches!(outcome, ClaimOutcome::Waiting | ClaimOutcome::Refused { .. }))
            .map(|(admission, _)| (&admission.record.campaign, admission.record.slot))
            .collect();
        if slots.is_empty() {
            return Ok(Vec::with_capacity(outcomes.len()));
        }
        let found = inbox.run_while_polling(self.store.holders(&slots)).await?;
        // They come again with the next record of such a slot.
        Ok(found.inspect_err(|fault| tracing::warn!(label = fault.label, "{fault}")).unwrap_or_default())
    }

    /// Decides claims that wait, as the budget allows. Returns whether any was decided.
    pub(super) async fn decide<R: RecordSource>(
        &mut self,
        inbox: &mut Inbox<R>,
        budget: &mut Budget,
        limit: usize,
    ) -> Result<bool, GivenUp> {
        let begun = Instant::now();
        self.health.writing(true);
        let answer = inbox.run_while_polling(self.store.decide(limit)).await;
        self.health.writing(false);
        let decided = match answer? {
            Ok(decided) => decided,
            Err(fault) => {
                tracing::warn!(label = fault.label, "claims wait on, nothing is lost: {fault}");
                return Ok(false);
            }
        };
        let now = Instant::now();
        if decided.is_empty() {
            return Ok(false);
        }
        let refused = decided.iter().filter(|claim| claim.entry.status == ClaimStatus::Refused).count() as u64;
        let issued = decided.len() as u64 - refused;
        tracing::info!(issued, refused, "claims whose slot another user holds are decided");
        self.counts.issued += issued;
        self.counts.refused += refused;
        self.metrics.issued.inc_by(issued);
        self.metrics.moved.inc_by(issued);
        self.metrics.refused.inc_by(refused);
        let took = now.saturating_duration_since(begun);
        budget.wrote(Written { rows: decided.len(), looked_up: 0, took, clean: false }, now);
        self.confirmations.offer(decided);
        Ok(true)
    }

    /// Counts what became of an admission, and adds what Redis is to know. Returns why it goes to the dead-letter
    /// topic, if it does.
    pub(super) fn note(
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
                (slot, ClaimStatus::Issued, labels::ISSUED, None)
            }
            ClaimOutcome::Already { slot } => {
                self.counts.already += 1;
                self.metrics.already.inc();
                (slot, ClaimStatus::Issued, labels::ALREADY, None)
            }
            ClaimOutcome::Refused { slot } => {
                self.counts.refused += 1;
                self.metrics.refused.inc();
                (slot, ClaimStatus::Refused, labels::REFUSED_CLAIM, None)
            }
            // Redis has it as admitted, which it is: the outbox entry stays until it is decided.
            ClaimOutcome::Waiting => {
                self.counts.waiting += 1;
                trace.record(&admission.record, delivery, admission.record.slot, labels::WAITING);
                return None;
            }
            ClaimOutcome::Rejected(reason) => {
                (admission.record.slot, ClaimStatus::DeadLettered, labels::DEAD_LETTERED, Some(reason))
            }
        };
        trace.record(&admission.record, delivery, slot, label);
        // Of an unknown campaign the outbox entry stays: see there.
        if rejected.as_ref().is_none_or(|reason| reason.label != labels::UNKNOWN_CAMPAIGN) {
            confirmations.push(confirmation(admission, slot, status));
        }
        rejected
    }

    async fn persist<R: RecordSource>(
        &mut self,
        inbox: &mut Inbox<R>,
        budget: &mut Budget,
        admissions: &[&Admission],
    ) -> Result<Vec<ClaimOutcome>, GivenUp> {
        let (mut backoff, mut outage) = (Backoff::default(), OutageLog::default());
        let mut counted_to = Instant::now();
        loop {
            let begun = Instant::now();
            self.health.writing(true);
            let answer = inbox.run_while_polling(self.store.persist(admissions)).await;
            self.health.writing(false);
            let answer = answer?;
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
                    let took = now.saturating_duration_since(begun);
                    self.saw_copies |= outcomes
                        .iter()
                        .any(|outcome| matches!(outcome, ClaimOutcome::Already { .. } | ClaimOutcome::Refused { .. }));
                    self.count_written(budget, admissions, &outcomes, took, now);
                    return Ok(outcomes);
                }
                Ok(_) => Fault::unknown(Source::MySql, labels::INCOMPLETE, "outcomes are missing"),
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
            inbox.wait(backoff.next_delay(self.jitter.next())).await?;
        }
    }

    fn count_written(
        &self,
        budget: &mut Budget,
        admissions: &[&Admission],
        outcomes: &[ClaimOutcome],
        took: Duration,
        now: Instant,
    ) {
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        let clean = admissions.iter().zip(outcomes).all(
            |(admission, outcome)| matches!(outcome, ClaimOutcome::Issued { slot } if *slot == admission.record.slot),
        );
        let count = |is: fn(&ClaimOutcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
        let is_row = |outcome: &ClaimOutcome| {
            matches!(outcome, ClaimOutcome::Issued { .. } | ClaimOutcome::Refused { .. } | ClaimOutcome::Waiting)
        };
        let rows = count(is_row);
        let looked_up = count(|outcome| matches!(outcome, ClaimOutcome::Already { .. }));
        match budget.wrote(Written { rows, looked_up, took, clean }, now) {
            Some(Change::Slowed) => {
                tracing::info!("the database is busy with other work: writing more slowly (WRITE_BUDGET=auto)");
            }
            Some(Change::Recovered) => tracing::info!("the database is quiet: writing at full pace again"),
            None => {}
        }
        self.metrics.budget_rows_per_second.set(budget.rows_per_second().unwrap_or(f64::INFINITY));
        self.metrics.budget_duty.set(budget.duty().unwrap_or(1.0));
    }

    /// One bad record is a bad record; a long row of them is a wrong topic, database or version, and nothing that the
    /// dead-letter topic should be filled with. Returns why the batch must be held, if it must; nothing is counted then.
    fn count_in_a_row(&mut self, batch: &[Received], outcomes: &[ClaimOutcome]) -> Option<Hold> {
        let (limit, mut in_a_row) = (self.dead_letter_limit, self.dead_letters_in_a_row);
        let mut outcomes = outcomes.iter();
        for Received { delivery, decoded, .. } in batch {
            let reason = match decoded {
                Err(reason) => reason,
                Ok(_) => match outcomes.next() {
                    Some(ClaimOutcome::Rejected(reason)) => reason,
                    _ => {
                        in_a_row = 0;
                        continue;
                    }
                },
            };
            // An operator tries whether the cause is gone: no news about the topic.
            if delivery.replayed {
                continue;
            }
            in_a_row = in_a_row.saturating_add(1);
            if limit > 0 && in_a_row >= limit {
                let Delivery { partition, offset, .. } = delivery;
                let text = format!(
                    "{limit} records in a row can never become rows, the last one for \"{}\" (partition {partition}, \
                     offset {offset}). The cause is not a bad record but a wrong topic, database, campaign or version: \
                     correct it, and the service continues by itself within {} s. Fewer than {limit} of them are in \
                     the dead-letter topic, from where `issuer dlq replay` sends them again. To send all of them to \
                     the dead-letter topic, start again with --dead-letter-limit 0",
                    reason.label,
                    HOLD_RETRY.as_secs()
                );
                return Some(Hold { label: labels::DEAD_LETTERS, text });
            }
        }
        self.dead_letters_in_a_row = in_a_row;
        None
    }

    async fn publish_dead_letters<R: RecordSource>(
        &mut self,
        inbox: &mut Inbox<R>,
        records: &[InHand],
    ) -> Result<(), GivenUp> {
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
            let results = inbox.run_while_polling(self.dead_letters.publish(&letters)).await?;
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
            let label = fault.as_ref().map_or(labels::INCOMPLETE, |fault| fault.label);
            self.metrics.kafka_faults.get_or_create(&ReasonLabel { reason: label }).inc();
            if outage.failed(label, Instant::now()) {
                let detail = fault.map_or_else(String::new, |fault| fault.to_string());
                tracing::warn!(label, records = letters.len(), "dead letters are not acknowledged; waiting: {detail}");
            }
            inbox.wait(backoff.next_delay(self.jitter.next())).await?;
        }
        if let Some(lasted) = outage.succeeded(Instant::now()) {
            log_end("the dead-letter topic is back", lasted);
        }
        Ok(())
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
