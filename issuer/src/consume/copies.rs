//! Copies: records whose claim has a row already. The outbox sends a claim again while it waits behind a small budget,
//! and a new group reads everything anew. Such a record needs no write, so it waits for no budget: once one was seen, the
//! records in hand are looked up together, many at a time, and those that have a row are settled at once. What remains
//! waits for the budget as before. When a look finds none, the looks end: a new claim is read only once a copy was seen.
//!
//! Looks have a pace of their own: at most a fifth of the time of one connection, and never less than 2,000 records a
//! second where a look is short.

use super::inbox::{GivenUp, Inbox, Received};
use super::ports::{Admission, Confirmations, CouponStore, DeadLetters, RecordSource};
use super::settle::Settler;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A look is followed by a pause of so many times its length ..
const PAUSE: u32 = 4;
/// .. or of this, if that is less.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// After a look that failed. The next batch waits for the database.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// Whether copies are expected, and when the next look is due.
#[derive(Debug, Default)]
pub(super) struct Copies {
    look_at: Option<Instant>,
}

impl Copies {
    /// A batch met a row that was there before.
    pub(super) fn expect(&mut self, now: Instant) {
        self.look_at.get_or_insert(now);
    }

    /// When the records in hand should be looked up; `None`: not at all.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    fn looked(&mut self, found: usize, took: Duration, now: Instant) {
        self.look_at = (found > 0).then(|| now + (took * PAUSE).min(LONGEST_PAUSE));
    }
}

impl<S: CouponStore, D: DeadLetters, C: Confirmations> Settler<S, D, C> {
    /// Looks the records in hand up, and settles those that have a row.
    pub(super) async fn settle_copies<R: RecordSource>(
        &mut self,
        inbox: &mut Inbox<R>,
        copies: &mut Copies,
    ) -> Result<(), GivenUp> {
        let unseen = inbox.unseen();
        let begun = Instant::now();
        let admissions: Vec<&Admission> = unseen.iter().map(|(_, admission)| admission).collect();
        let answer = inbox.run_while_polling(self.store.look_up(&admissions)).await?;
        let now = Instant::now();
        let outcomes = match answer {
            Ok(outcomes) if outcomes.len() == admissions.len() => outcomes,
            other => {
                if let Err(fault) = other {
                    tracing::warn!(label = fault.label, "records cannot be looked up; they wait for a batch: {fault}");
                }
                copies.look_at = Some(now + AFTER_FAULT);
                return Ok(());
            }
        };
        let rows = unseen.iter().zip(&outcomes).map(|((place, _), outcome)| (*place, outcome.is_some())).collect();
        let found = inbox.looked_up(&rows);
        copies.looked(found.len(), now.saturating_duration_since(begun), now);
        let mut outcomes: HashMap<_, _> = unseen.iter().map(|(place, _)| *place).zip(outcomes).collect();
        let mut trace = self.traces.batch(found.len());
        let (mut settled, mut confirmations) = (Vec::new(), Vec::new());
        for Received { delivery, decoded, .. } in found {
            let outcome = outcomes.remove(&(delivery.partition, delivery.offset)).flatten();
            if let (Ok(admission), Some(outcome)) = (decoded, outcome) {
                // A coupon or a refusal: it never goes to the dead-letter topic.
                self.note(admission, outcome, &delivery, &mut trace, &mut confirmations);
                settled.push(delivery);
            }
        }
        if settled.is_empty() {
            return Ok(());
        }
        self.dead_letters_in_a_row = 0;
        self.counts.records += settled.len() as u64;
        self.metrics.records.inc_by(settled.len() as u64);
        if let Err(fault) = inbox.settled(&settled) {
            tracing::warn!(label = fault.label, "{fault}");
        }
        self.confirmations.offer(confirmations);
        trace.end();
        Ok(())
    }
}
