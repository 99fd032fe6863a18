//! What has come in and is not settled, and the intake it came from. Whatever the service waits for, it
//! waits here, so that the membership of the group outlives any wait.

use crate::consume::batcher::Batcher;
use crate::consume::decode::{Admission, decode};
use crate::consume::offsets::Offsets;
use crate::consume::ports::{Cause, Delivery, Intake};
use crate::health::{Health, State};
use dropgate_shared::fault::Fault;
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Waits up to this long are not worth pausing the flow for; nor do they keep a rebalance waiting for
/// long. So this is also how long a partition that is asked for waits for the batch in hand: far below
/// the session's time limit.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a stop was asked for, work under way may take so long; with all that follows it is well within the
/// minute that a container gets.
const DRAIN: Duration = Duration::from_secs(15);
/// Between two looks at an intake that reports errors only.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A record in hand.
pub struct Taken {
    /// As it came.
    pub delivery: Delivery,
    /// What it says.
    pub decoded: Result<Admission, Cause>,
}

/// What the service is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Settle a batch.
    Batch,
    /// Look around: the time to do so has come.
    Tick,
    /// End: a stop was asked for.
    Stop,
}

/// The work was given up: a stop was asked for while another system was away or slow, or the intake has failed
/// for good ([`Desk::fatal`]).
#[derive(Debug)]
pub struct GivenUp;

/// The desk.
pub struct Desk<I> {
    intake: I,
    batcher: Batcher<Taken>,
    offsets: Offsets,
    stop: watch::Receiver<bool>,
    health: Arc<Health>,
    paused: bool,
    /// Why the intake will never deliver again. librdkafka tells it once.
    fatal: Option<Fault>,
}

impl<I: Intake> Desk<I> {
    /// A desk with room for `room` records, none of which waits longer than `linger` for others.
    pub fn new(intake: I, room: usize, linger: Duration, stop: watch::Receiver<bool>, health: Arc<Health>) -> Self {
        let batcher = Batcher::new(room, linger);
        Self { intake, batcher, offsets: Offsets::default(), stop, health, paused: false, fatal: None }
    }

    /// The intake.
    pub fn intake(&self) -> &I {
        &self.intake
    }

    /// The intake, to be closed.
    pub fn into_intake(self) -> I {
        self.intake
    }

    /// Why the intake will never deliver again, if it was told while something else was waited for.
    pub fn fatal(&mut self) -> Option<Fault> {
        self.fatal.take()
    }

    /// Takes a batch of at most `size` records.
    pub fn batch(&mut self, size: usize) -> Vec<Taken> {
        self.forget_revoked();
        self.batcher.take(size)
    }

    /// Whether records are in hand.
    pub fn has_any(&self) -> bool {
        !self.batcher.is_empty()
    }

    /// Waits until a batch of `size` is due and its time `not_before` has come; or until `tick_at`, or for
    /// the stop.
    ///
    /// # Errors
    /// [`Fault`] of an intake that will never deliver again.
    pub async fn gather(&mut self, size: usize, not_before: Instant, tick_at: Instant) -> Result<Next, Fault> {
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
                self.intake.resume();
            }
            // Whatever is there already, without a timer for each record.
            while !self.paused && !self.batcher.is_full() {
                match self.intake.recv().now_or_never() {
                    Some(received) => self.take(received)?,
                    None => break,
                }
            }
            let now = Instant::now();
            let go_at = self.batcher.due_at(size).map(|due_at| due_at.max(not_before));
            if go_at.is_some_and(|go_at| go_at <= now) {
                return Ok(Next::Batch);
            }
            if now >= tick_at {
                return Ok(Next::Tick);
            }
            let wake_at = go_at.unwrap_or(tick_at).min(tick_at);
            let full = self.batcher.is_full();
            if full && !self.paused && wake_at > now + PATIENCE {
                self.pause();
            }
            tokio::select! {
                // With a full desk a short wait is not worth a pause, and nothing more can be taken.
                received = self.intake.recv(), if !full || self.paused => {
                    self.take(received)?;
                    self.keep_paused();
                }
                () = tokio::time::sleep_until(wake_at.min(now + PATIENCE).into()) => {}
                Ok(()) = self.stop.changed() => {}
            }
        }
    }

    /// Sees `work` through. If it takes long, the flow is paused and the intake is polled meanwhile. (To read the next
    /// batch meanwhile gained nothing: on one machine the database needs the processor.)
    ///
    /// # Errors
    /// [`GivenUp`]: a stop was asked for 15 s ago. What became of the work is not known.
    pub async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, GivenUp> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(PATIENCE) => {}
        }
        self.pause();
        let mut until = None;
        loop {
            self.show_state();
            let now = tokio::time::Instant::now();
            if *self.stop.borrow() && now >= *until.get_or_insert(now + DRAIN) {
                return Err(GivenUp);
            }
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                received = self.intake.recv() => self.take_while_paused(received).await,
                Ok(()) = self.stop.changed() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
    }

    /// Waits, while another system is away, until it should be asked again. The intake is polled all the
    /// time, however many tries it takes; it is paused, so that nothing piles up.
    ///
    /// # Errors
    /// [`GivenUp`]
    pub async fn wait(&mut self, delay: Duration) -> Result<(), GivenUp> {
        self.pause();
        let until = tokio::time::Instant::now() + delay;
        loop {
            self.show_state();
            if *self.stop.borrow() || self.fatal.is_some() {
                return Err(GivenUp);
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                Ok(()) = self.stop.changed() => {}
                received = self.intake.recv() => self.take_while_paused(received).await,
            }
        }
    }

    /// These records are rows, or acknowledged dead letters: moves the offsets (I7).
    ///
    /// # Errors
    /// [`Fault`]; the records will come again, which changes nothing (I6).
    pub fn settled(&mut self, deliveries: &[Delivery]) -> Result<(), Fault> {
        // The group may have changed while they were settled.
        self.forget_revoked();
        for delivery in deliveries {
            self.offsets.settled(delivery.partition, delivery.offset);
        }
        let moved = self.offsets.moved();
        if moved.is_empty() { Ok(()) } else { self.intake.store(&moved) }
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
        self.intake.pause();
    }

    /// A partition that was assigned a moment ago flows until it is paused as well.
    fn keep_paused(&mut self) {
        if self.paused {
            self.intake.pause();
        }
    }

    /// What is in hand of a partition that was taken away comes to its new owner, who settles it.
    fn forget_revoked(&mut self) {
        let revoked = self.intake.revoked();
        if revoked.is_empty() {
            return;
        }
        for partition in &revoked {
            self.offsets.forget(*partition);
        }
        self.batcher.retain(|taken| !revoked.contains(&taken.delivery.partition));
    }

    fn show_state(&self) {
        let owned = self.intake.partitions().owned;
        self.health.enter(match (*self.stop.borrow(), owned) {
            (true, _) => State::Draining,
            (false, 0) => State::Ready,
            (false, _) => State::Consuming,
        });
    }
}
