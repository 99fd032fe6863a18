//! The loop: take a batch, settle every record of it, and only then move the offsets (I7).

use super::budget::{Budget, WriteBudget};
use super::copies::Copies;
use super::inbox::{GivenUp, Inbox, Next};
use super::ports::{Confirmations, CouponStore, DeadLetters, RecordSource};
pub use super::settle::Counts;
use super::settle::Settler;
use super::traces::Traces;
use crate::backoff::Jitter;
use crate::health::Health;
use crate::metrics::Metrics;
use dropgate_shared::fault::Fault;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the progress is logged while there is any.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How much at a time, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records in one transaction at most, and in the inbox.
    pub batch_records: usize,
    /// How long the first record of a batch waits for others.
    pub linger: Duration,
    /// How fast rows are written.
    pub budget: WriteBudget,
    /// With this many dead letters in a row the service holds; 0: never.
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

/// The service over its ports: `R` delivers records, `S` writes rows, `D` takes dead letters, `C` takes confirmations.
pub struct Service<R, S, D, C> {
    inbox: Inbox<R>,
    settler: Settler<S, D, C>,
    budget: Budget,
    copies: Copies,
    metrics: Arc<Metrics>,
    /// When the progress was last logged, and the counts at that time.
    logged: (Instant, Counts),
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
            budget: Budget::new(limits.budget, limits.batch_records, now),
            metrics: Arc::clone(&metrics),
            settler: Settler {
                store,
                dead_letters,
                confirmations,
                dead_letter_limit: limits.dead_letter_limit,
                dead_letters_in_a_row: 0,
                health,
                metrics,
                traces,
                jitter,
                counts: Counts::default(),
                saw_copies: false,
            },
            copies: Copies::default(),
            logged: (now, Counts::default()),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.settler.counts
    }

    /// Gives the ports back, to be closed in order.
    pub fn into_ports(self) -> (R, S, D, C) {
        let Settler { store, dead_letters, confirmations, .. } = self.settler;
        (self.inbox.into_source(), store, dead_letters, confirmations)
    }

    /// Waits for a batch and settles it.
    ///
    /// # Errors
    /// [`Fault`]: the source will never deliver again. What was settled before is stored.
    pub async fn step(&mut self) -> Result<Step, Fault> {
        self.update_share();
        let begun = Instant::now();
        let (size, not_before) = (self.budget.batch(begun), self.budget.next_at());
        let look_at = self.copies.look_at();
        let next = self.inbox.next_batch(size, not_before, look_at, self.logged.0 + PROGRESS_EVERY).await?;
        let now = Instant::now();
        if self.inbox.has_any() {
            Metrics::add_seconds(
                &self.metrics.budget_wait_seconds,
                now.min(not_before).saturating_duration_since(begun),
            );
        }
        // A partition may have come or gone during the wait.
        self.update_share();
        if next == Next::Look {
            if let Err(GivenUp) = self.settler.settle_copies(&mut self.inbox, &mut self.copies).await {
                return self.inbox.fatal().map_or(Ok(Step::Stopped), Err);
            }
            self.log_progress();
            return Ok(Step::Again);
        }
        // Claims that wait were admitted before most of what is in hand. They take the turn of a batch.
        if next != Next::Stop && not_before <= now && self.settler.store.can_decide() {
            let limit = self.budget.batch(now);
            match self.settler.decide(&mut self.inbox, &mut self.budget, limit).await {
                Ok(false) => {}
                Ok(true) => return Ok(Step::Again),
                Err(GivenUp) => return self.inbox.fatal().map_or(Ok(Step::Stopped), Err),
            }
        }
        // With the stop goes the last batch, if the budget allows it; the rest goes to other members.
        if next == Next::Batch || (next == Next::Stop && not_before <= now) {
            let batch = self.inbox.batch(self.budget.batch(now));
            match if batch.is_empty() {
                Ok(())
            } else {
                self.settler.settle(&mut self.inbox, &mut self.budget, batch).await
            } {
                Ok(()) => {}
                Err(GivenUp) => return self.inbox.fatal().map_or(Ok(Step::Stopped), Err),
            }
        }
        // Without a budget a batch is as large as a look.
        if std::mem::take(&mut self.settler.saw_copies) && self.budget.rows_per_second().is_some() {
            self.copies.expect(Instant::now());
        }
        self.log_progress();
        Ok(if next == Next::Stop { Step::Stopped } else { Step::Again })
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
        let ((at, before), counts) = (self.logged, self.settler.counts);
        if now.saturating_duration_since(at) < PROGRESS_EVERY {
            return;
        }
        self.logged = (now, counts);
        let records = counts.records - before.records;
        if records > 0 {
            tracing::info!(
                records,
                issued = counts.issued - before.issued,
                already = counts.already - before.already,
                refused = counts.refused - before.refused,
                waiting = counts.waiting - before.waiting,
                dead_letters = counts.dead_letters - before.dead_letters,
                lag = self.inbox.source().lags().iter().filter_map(|(_, lag)| *lag).sum::<u64>(),
                "progress of the last {} s",
                now.saturating_duration_since(at).as_secs()
            );
        }
    }
}
