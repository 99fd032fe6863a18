//! The records that have been received and are not settled, and the source they came from. Whatever the service waits
//! for, it waits here, so that the membership of the group outlives any wait.
//!
//! Every `select!` is biased, so that a run is repeatable. No branch starves another: each loop looks at the stop
//! signal and at the clock before it selects again.

use super::batcher::Batcher;
use super::decode::decode;
use super::offsets::Offsets;
use super::ports::{Admission, Delivery, RecordSource, RejectReason};
use crate::health::{Health, State};
use dropgate_shared::fault::Fault;
use futures_util::FutureExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Waits up to this long are not worth pausing the flow for; nor do they keep a rebalance waiting for
/// long. So this is also how long a partition that must be given up waits for the batch in hand: far below
/// the session's time limit.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a stop was requested, work under way may take so long; with all that follows it is well within the
/// minute that a container gets.
const DRAIN: Duration = Duration::from_secs(15);
/// Records that are looked up together at most.
pub const LOOK: usize = 500;
/// Between two looks at a source that reports errors only.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A received record.
pub struct Received {
    /// As it came.
    pub delivery: Delivery,
    /// What it says.
    pub decoded: Result<Admission, RejectReason>,
    /// Whether it was looked up, and had no row.
    pub is_seen: bool,
}

/// Partition and offset.
pub type Place = (i32, i64);

impl Received {
    fn place(&self) -> Place {
        (self.delivery.partition, self.delivery.offset)
    }

    fn is_unseen(&self) -> bool {
        !self.is_seen && self.decoded.is_ok()
    }
}

/// What the service is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Settle a batch.
    Batch,
    /// Look up the records that were not looked up.
    Look,
    /// Look at the share of the budget and at the progress: it is time.
    Tick,
    /// End: a stop was requested.
    Stop,
}

/// The work was given up: a stop was requested while another system was away or slow, or the source has failed
/// for good ([`Inbox::fatal`]).
#[derive(Debug)]
pub struct GivenUp;

/// Received records that wait for their batch, and the offsets of those that are not settled.
pub struct Inbox<R> {
    source: R,
    batcher: Batcher<Received>,
    offsets: Offsets,
    stop: watch::Receiver<bool>,
    health: Arc<Health>,
    paused: bool,
    /// Why the source will never deliver again. librdkafka reports it once.
    fatal: Option<Fault>,
    linger: Duration,
    /// How many records were not looked up, and when the first of them came.
    unseen: usize,
    unseen_since: Option<Instant>,
}

impl<R: RecordSource> Inbox<R> {
    /// An inbox with room for `room` records, none of which waits longer than `linger` for others.
    pub fn new(source: R, room: usize, linger: Duration, stop: watch::Receiver<bool>, health: Arc<Health>) -> Self {
        let batcher = Batcher::new(room, linger);
        let offsets = Offsets::default();
        Self {
            source,
            batcher,
            offsets,
            stop,
            health,
            paused: false,
            fatal: None,
            linger,
            unseen: 0,
            unseen_since: None,
        }
    }

    pub fn source(&self) -> &R {
        &self.source
    }

    /// The source, to be closed.
    pub fn into_source(self) -> R {
        self.source
    }

    /// Why the source will never deliver again, if it reported that while something else was waited for.
    pub fn fatal(&mut self) -> Option<Fault> {
        self.fatal.take()
    }

    /// Takes a batch of at most `size` records.
    pub fn batch(&mut self, size: usize) -> Vec<Received> {
        self.forget_revoked();
        let batch = self.batcher.take(size);
        self.count_unseen();
        batch
    }

    /// At most [`LOOK`] records that were not looked up, oldest first. They stay here.
    pub fn unseen(&mut self) -> Vec<(Place, Admission)> {
        self.forget_revoked();
        let unseen = self.batcher.items().filter(|received| received.is_unseen());
        unseen
            .filter_map(|received| Some((received.place(), received.decoded.as_ref().ok()?.clone())))
            .take(LOOK)
            .collect()
    }

    /// Takes out the records of these places that have a row; of the others it is known that they have none.
    pub fn looked_up(&mut self, rows: &HashMap<Place, bool>) -> Vec<Received> {
        self.forget_revoked();
        let found = self.batcher.extract(|received| {
            let has_row = rows.get(&received.place());
            received.is_seen |= has_row.is_some();
            has_row == Some(&true)
        });
        self.count_unseen();
        found
    }

    /// When the records that were not looked up are due for that: as soon as there are many, or the first has waited.
    fn look_due_at(&self, look_at: Option<Instant>) -> Option<Instant> {
        let (look_at, since) = (look_at?, self.unseen_since?);
        Some(if self.unseen >= LOOK || self.batcher.is_full() { look_at } else { look_at.max(since + self.linger) })
    }

    fn count_unseen(&mut self) {
        self.unseen = self.batcher.items().filter(|received| received.is_unseen()).count();
        if self.unseen == 0 {
            self.unseen_since = None;
        }
    }

    /// Whether there is any record.
    pub fn has_any(&self) -> bool {
        !self.batcher.is_empty()
    }

    /// Waits until a batch of `size` is due and its time `not_before` has come; or until records that were not looked
    /// up are due for that, from `look_at` on; or until `tick_at`, or for the stop.
    ///
    /// # Errors
    /// [`Fault`] of a source that will never deliver again.
    pub async fn next_batch(
        &mut self,
        size: usize,
        not_before: Instant,
        look_at: Option<Instant>,
        tick_at: Instant,
    ) -> Result<Next, Fault> {
        loop {
            self.show_state();
            if let Some(fault) = self.fatal() {
                return Err(fault);
            }
            if *self.stop.borrow() {
                return Ok(Next::Stop);
            }
            if self.paused && self.batcher.len() < size {
                self.paused = false;
                self.source.resume();
            }
            // Whatever is there already, without a timer for each record.
            while !self.paused && !self.batcher.is_full() {
                match self.source.recv().now_or_never() {
                    Some(received) => self.take(received)?,
                    None => break,
                }
            }
            let now = Instant::now();
            let look_due_at = self.look_due_at(look_at);
            if look_due_at.is_some_and(|look_at| look_at <= now) {
                return Ok(Next::Look);
            }
            let go_at = self.batcher.due_at(size).map(|due_at| due_at.max(not_before));
            if go_at.is_some_and(|go_at| go_at <= now) {
                return Ok(Next::Batch);
            }
            if now >= tick_at {
                return Ok(Next::Tick);
            }
            let wake_at = go_at.unwrap_or(tick_at).min(look_due_at.unwrap_or(tick_at)).min(tick_at);
            let full = self.batcher.is_full();
            if full && !self.paused && wake_at > now + PATIENCE {
                self.pause();
            }
            tokio::select! {
                biased;
                // A stop waits for nothing.
                Ok(()) = self.stop.changed() => {}
                // A record before the timer: a batch that is due takes along what is there. The loop looks at the
                // time after each record, so a flood of them delays no batch. With a full inbox a short wait is not
                // worth a pause, and nothing more can be taken.
                received = self.source.recv(), if !full || self.paused => {
                    self.take(received)?;
                    self.keep_paused();
                }
                () = tokio::time::sleep_until(wake_at.min(now + PATIENCE)) => {}
            }
        }
    }

    /// Runs `work` to its end. If it takes long, the flow is paused and the source is polled meanwhile. (To read the
    /// next batch meanwhile gained nothing: on one machine the database needs the processor.)
    ///
    /// # Errors
    /// [`GivenUp`]: a stop was requested 15 s ago. What became of the work is not known.
    pub async fn run_while_polling<T>(&mut self, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            // Work that is done is never given up.
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(PATIENCE) => {}
        }
        self.pause();
        let mut until = None;
        loop {
            self.show_state();
            let now = Instant::now();
            if *self.stop.borrow() && now >= *until.get_or_insert(now + DRAIN) {
                return Err(GivenUp);
            }
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                // The loop has just looked at the stop signal, so it need not come before the records.
                received = self.source.recv() => self.take_while_paused(received).await,
                Ok(()) = self.stop.changed() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
    }

    /// Waits, while another system is away, until it should be tried again. The source is polled all the
    /// time, however many tries it takes; it is paused, so that nothing piles up.
    pub async fn wait(&mut self, delay: Duration) -> Result<(), GivenUp> {
        self.pause();
        let until = Instant::now() + delay;
        loop {
            self.show_state();
            if *self.stop.borrow() || self.fatal.is_some() {
                return Err(GivenUp);
            }
            tokio::select! {
                biased;
                // The timer comes first: records must not prolong the wait.
                () = tokio::time::sleep_until(until) => return Ok(()),
                Ok(()) = self.stop.changed() => {}
                received = self.source.recv() => self.take_while_paused(received).await,
            }
        }
    }

    /// Drops the records whose partitions were revoked in the meantime.
    pub fn retain_ours(&mut self, batch: &mut Vec<Received>) {
        self.forget_revoked();
        batch.retain(|Received { delivery, .. }| self.offsets.has(delivery.partition, delivery.offset));
    }

    /// These records are rows, or acknowledged dead letters: moves the offsets (I7).
    ///
    /// # Errors
    /// [`Fault`]; the records will come again, which changes nothing (I6).
    pub fn settled<'a>(&mut self, deliveries: impl IntoIterator<Item = &'a Delivery>) -> Result<(), Fault> {
        // The group may have changed while they were settled.
        self.forget_revoked();
        for delivery in deliveries {
            self.offsets.settled(delivery.partition, delivery.offset);
        }
        let moved = self.offsets.moved();
        if moved.is_empty() { Ok(()) } else { self.source.store(&moved) }
    }

    fn take(&mut self, received: Result<Delivery, Fault>) -> Result<(), Fault> {
        self.forget_revoked();
        match received {
            Ok(delivery) => {
                self.offsets.taken(delivery.partition, delivery.offset);
                let decoded = decode(&delivery.payload);
                let now = Instant::now();
                let received = Received { delivery, decoded, is_seen: false };
                if received.is_unseen() {
                    self.unseen += 1;
                    self.unseen_since.get_or_insert(now);
                }
                self.batcher.push(received, now);
                Ok(())
            }
            // librdkafka recovers by itself; it reports each error once.
            Err(fault) if fault.retry => {
                tracing::warn!(label = fault.label, "{fault}");
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    async fn take_while_paused(&mut self, received: Result<Delivery, Fault>) {
        if received.is_err() {
            tokio::time::sleep(AFTER_ERROR).await;
        }
        if let Err(fault) = self.take(received) {
            self.fatal.get_or_insert(fault);
        }
        self.keep_paused();
    }

    fn pause(&mut self) {
        self.paused = true;
        self.source.pause();
    }

    /// A partition that was just assigned flows until it is paused as well.
    fn keep_paused(&mut self) {
        if self.paused {
            self.source.pause();
        }
    }

    /// The records of a partition that was revoked go to its new owner, who settles them.
    fn forget_revoked(&mut self) {
        let revoked = self.source.revoked();
        if revoked.is_empty() {
            return;
        }
        for partition in &revoked {
            self.offsets.forget(*partition);
        }
        self.batcher.retain(|received| !revoked.contains(&received.delivery.partition));
        self.count_unseen();
    }

    fn show_state(&self) {
        self.health.kafka_silent_for(self.source.silent_for());
        self.health.check();
        let owned = self.source.partitions().owned;
        self.health.enter(match (*self.stop.borrow(), owned) {
            (true, _) => State::Draining,
            (false, 0) => State::Ready,
            (false, _) => State::Consuming,
        });
    }
}
