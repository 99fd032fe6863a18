//! The health of the service: its state, whether its loop makes progress, whether the database answers.

use crate::metrics::{Metrics, StateLabel};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The loop beats at least once a second; after this time without a beat, it hangs.
const ALIVE_WITHIN: Duration = Duration::from_secs(60);

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

#[cfg(test)]
mod tests {
    use super::*;

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
