//! The health of the service: its state, whether its loop makes progress, whether the database answers.

use crate::consume::ports::Hold;
use crate::metrics::{Metrics, ReasonLabel, StateLabel};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The loop beats at least once a second; after this time without a beat, it hangs.
const ALIVE_WITHIN: Duration = Duration::from_secs(60);
/// A write that takes longer is reported.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// So is a Kafka that answers nothing, no heartbeat either, for longer.
const KAFKA_WITHIN: Duration = Duration::from_secs(30);

/// What the service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It looks for the database and Kafka.
    Starting,
    /// A member of the group, without any partition.
    Ready,
    /// It has partitions.
    Consuming,
    /// A stop was requested: the current batch is finished.
    Draining,
    /// It has left the group.
    Stopped,
}

const STATES: [State; 5] = [State::Starting, State::Ready, State::Consuming, State::Draining, State::Stopped];

impl State {
    /// Stable label for metrics and the log.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Consuming => "consuming",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// Shared by the loop, which writes it, and the health endpoints, which read it.
#[derive(Debug)]
pub struct Health {
    metrics: Arc<Metrics>,
    began: Instant,
    state: AtomicU8,
    beat_ms: AtomicU64,
    database: AtomicBool,
    dead_letters: AtomicBool,
    /// Why the batch in hand is held.
    held: Mutex<Option<Hold>>,
    /// When the write under way began.
    writing_since: Mutex<Option<Instant>>,
    /// How long Kafka has been silent, as of the last beat.
    kafka_silent: Mutex<Duration>,
    /// The stalls that are logged and not over.
    logged: Mutex<BTreeSet<&'static str>>,
}

impl Health {
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let health = Self {
            metrics,
            began: Instant::now(),
            state: AtomicU8::new(State::Starting as u8),
            beat_ms: AtomicU64::new(0),
            database: AtomicBool::new(true),
            dead_letters: AtomicBool::new(true),
            held: Mutex::default(),
            writing_since: Mutex::default(),
            kafka_silent: Mutex::default(),
            logged: Mutex::default(),
        };
        health.publish(State::Starting);
        health
    }

    /// The loop makes progress.
    pub fn beat(&self) {
        self.beat_ms.store(self.age_ms(), Ordering::Relaxed);
    }

    /// The service is in `state` now. A change is logged.
    pub fn enter(&self, state: State) {
        self.beat();
        if self.state.swap(state as u8, Ordering::Relaxed) != state as u8 {
            tracing::info!(state = state.label(), "state");
            self.publish(state);
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        let current = self.state.load(Ordering::Relaxed);
        STATES.into_iter().find(|state| *state as u8 == current).unwrap_or(State::Starting)
    }

    /// Whether the last try to write reached the database.
    pub fn database(&self, answers: bool) {
        self.database.store(answers, Ordering::Relaxed);
    }

    /// Whether the last try to send dead letters succeeded.
    pub fn dead_letters(&self, acknowledged: bool) {
        self.dead_letters.store(acknowledged, Ordering::Relaxed);
    }

    /// The batch in hand is held, for this reason; `None`: no longer.
    pub fn hold(&self, cause: Option<Hold>) {
        self.metrics.held.set(i64::from(cause.is_some()));
        let mut held = lock(&self.held);
        for (hold, is_held) in [(&*held, false), (&cause, true)] {
            if let Some(Hold { label, .. }) = hold {
                self.metrics.held_reason.get_or_create(&ReasonLabel { reason: label }).set(i64::from(is_held));
            }
        }
        *held = cause;
    }

    /// A write begins, or has ended.
    pub fn writing(&self, is_begun: bool) {
        *lock(&self.writing_since) = is_begun.then(Instant::now);
    }

    /// Kafka has not answered for so long.
    pub fn kafka_silent_for(&self, time: Duration) {
        *lock(&self.kafka_silent) = time;
    }

    /// Each kind of stall, and in words where it lasts too long.
    fn stalls(&self) -> [(&'static str, Option<String>); 2] {
        let write = lock(&self.writing_since).map_or(Duration::ZERO, |since| since.elapsed());
        let write = (write >= WRITE_WITHIN).then(|| {
            format!("a write has been under way for {} s: the database is slow, or a lock is held", write.as_secs())
        });
        let silent = *lock(&self.kafka_silent);
        let silent = (silent >= KAFKA_WITHIN).then(|| format!("Kafka has not answered for {} s", silent.as_secs()));
        [("write", write), ("kafka", silent)]
    }

    /// Logs each stall once, and when it is over.
    pub fn check(&self) {
        let mut logged = lock(&self.logged);
        for (kind, stall) in self.stalls() {
            self.metrics.stalled.get_or_create(&ReasonLabel { reason: kind }).set(i64::from(stall.is_some()));
            match stall {
                Some(text) if logged.insert(kind) => tracing::warn!(stall = kind, "{text}"),
                None if logged.remove(kind) => tracing::info!(stall = kind, "the stall is over"),
                _ => {}
            }
        }
    }

    /// Why the process should be restarted; `None` while it is alive.
    #[must_use]
    pub fn dead(&self) -> Option<String> {
        let still_ms = self.age_ms().saturating_sub(self.beat_ms.load(Ordering::Relaxed));
        // While it starts it waits for other systems, which no restart would change.
        let hangs = self.state() != State::Starting && Duration::from_millis(still_ms) > ALIVE_WITHIN;
        hangs.then(|| format!("the loop has made no progress for {} s", still_ms / 1000))
    }

    /// Why the service does no work; empty if it does. A member without a partition stands by for the others:
    /// that is its purpose, so it is ready.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match self.state() {
            State::Consuming | State::Ready => {}
            other => reasons.push(format!("the service is {}", other.label())),
        }
        if !self.dead_letters.load(Ordering::Relaxed) {
            reasons.push("Kafka does not accept dead letters; see the log".to_owned());
        }
        if !self.database.load(Ordering::Relaxed) {
            reasons.push("the database does not accept rows; see the log".to_owned());
        }
        reasons.extend(lock(&self.held).iter().map(|hold| format!("the service holds: {}", hold.text)));
        reasons.extend(self.stalls().into_iter().filter_map(|(_, stall)| stall));
        reasons
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn publish(&self, current: State) {
        for state in STATES {
            self.metrics.state.get_or_create(&StateLabel { state: state.label() }).set(i64::from(state == current));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_visible_in_readiness_and_metrics() {
        let metrics = Arc::new(Metrics::default());
        let health = Health::new(Arc::clone(&metrics));
        let is_shown = |line: &str| {
            health.check();
            metrics.encode().contains(line)
        };
        health.enter(State::Consuming);
        health.writing(true);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(health.unready().is_empty() && is_shown("stalled{reason=\"write\"} 0\n"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.unready()[0].contains("under way for 10 s") && is_shown("stalled{reason=\"write\"} 1\n"));
        health.writing(false);
        assert!(health.unready().is_empty() && is_shown("stalled{reason=\"write\"} 0\n"));
        health.kafka_silent_for(Duration::from_secs(30));
        assert_eq!(health.unready(), ["Kafka has not answered for 30 s"]);
        assert!(is_shown("stalled{reason=\"kafka\"} 1\n"));
        health.kafka_silent_for(Duration::ZERO);
        health.hold(Some(Hold { label: "why", text: "the cause".to_owned() }));
        assert_eq!(health.unready(), ["the service holds: the cause"]);
        assert!(is_shown("dropgate_issuer_held 1\n") && is_shown("held_reason{reason=\"why\"} 1\n"));
        health.hold(None);
        assert!(health.unready().is_empty() && is_shown("dropgate_issuer_held 0\n"));
        assert!(is_shown("held_reason{reason=\"why\"} 0\n"));
    }

    #[test]
    fn ready_only_with_a_database_and_dead_letters() {
        let metrics = Arc::new(Metrics::default());
        let health = Health::new(Arc::clone(&metrics));
        assert_eq!(health.unready(), ["the service is starting"]);
        health.enter(State::Consuming);
        assert_eq!((health.unready(), health.dead()), (vec![], None));
        health.dead_letters(false);
        assert_eq!(health.unready().len(), 1);
        health.dead_letters(true);
        health.database(false);
        health.enter(State::Draining);
        assert_eq!(health.unready().len(), 2);
        let page = metrics.encode();
        assert!(page.contains("state{state=\"draining\"} 1\n") && page.contains("state{state=\"consuming\"} 0\n"));
    }
}
