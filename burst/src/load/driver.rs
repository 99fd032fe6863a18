//! Sends every claim when it is due, and retries it while it is undecided.
//!
//! The scheduler queues attempts when they are due; each connection takes the next attempt when it is
//! free. A late response delays no arrival: it only keeps one connection busy.

use super::client::{Connection, Endpoint};
use super::identity::Crowd;
use super::ledger::{Attempt, Ledger};
use super::outcome::ClaimOutcome;
use super::progress::LiveCounters;
use super::random::Random;
use super::schedule::Arrival;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How users retry a claim that is undecided.
#[derive(Debug, Clone, Copy)]
pub struct RetryBehavior {
    pub max_attempts: u16,
    /// The pause if the response has no `Retry-After`.
    pub default_pause: Duration,
    /// Upper bound on `Retry-After`.
    pub retry_after_cap: Duration,
    /// Each pause is longer by a random part of this.
    pub jitter: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Between the opening of the connections and the first arrival.
const LEAD: Duration = Duration::from_millis(100);

/// Not even one connection could be opened.
#[derive(Debug, thiserror::Error)]
#[error("no connection can be opened: {0}")]
pub struct ConnectError(#[from] std::io::Error);

#[derive(Clone, Copy)]
struct DueAttempt {
    claim: u32,
    number: u16,
}

/// Attempts that are due, in their order. The semaphore counts them, so a free connection waits for the
/// next one and no wake-up is lost.
struct DueQueue {
    attempts: Mutex<VecDeque<DueAttempt>>,
    waiting: Semaphore,
}

impl DueQueue {
    fn attempts(&self) -> MutexGuard<'_, VecDeque<DueAttempt>> {
        // No code panics while it holds the lock, and the queue is consistent between any two calls.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, attempt: DueAttempt) {
        self.attempts().push_back(attempt);
        self.waiting.add_permits(1);
    }

    async fn next(&self) -> Option<DueAttempt> {
        self.waiting.acquire().await.ok()?.forget();
        self.attempts().pop_front()
    }
}

/// What a sender reports to the scheduler after an attempt.
enum Followup {
    ClaimDone,
    Retry(Instant, DueAttempt),
}

/// Opens the connections before the clock starts.
///
/// # Errors
/// If not even the first can be opened. Others that fail are opened when they are needed.
pub async fn open(endpoint: &Endpoint, connections: usize, timeout: Duration) -> Result<Vec<Connection>, ConnectError> {
    let deadline = Instant::now() + timeout;
    let mut first = Connection::default();
    first.open(endpoint, deadline).await?;
    let mut opened = vec![first];
    for _ in 1..connections {
        let mut connection = Connection::default();
        let _ = connection.open(endpoint, deadline).await;
        opened.push(connection);
    }
    Ok(opened)
}

/// Sends the crowd. Returns when every claim is decided or given up.
pub async fn send(
    endpoint: Arc<Endpoint>,
    crowd: Crowd,
    arrivals: Vec<Arrival>,
    retry: RetryBehavior,
    connections: Vec<Connection>,
    live: Arc<LiveCounters>,
) -> Ledger {
    let start = Instant::now() + LEAD;
    let started_ms = epoch_ms(SystemTime::now() + LEAD);
    let arrivals = Arc::new(arrivals);
    let queue = Arc::new(DueQueue { attempts: Mutex::default(), waiting: Semaphore::new(0) });
    let (followup, followups) = unbounded_channel();

    let mut senders = JoinSet::new();
    for (i, connection) in connections.into_iter().enumerate() {
        let sender = Sender {
            connection,
            endpoint: endpoint.clone(),
            crowd: crowd.clone(),
            arrivals: arrivals.clone(),
            retry,
            random: Random::new(retry.seed ^ (i as u64).rotate_left(32)),
            start,
            live: live.clone(),
        };
        senders.spawn(sender.run(queue.clone(), followup.clone()));
    }
    drop(followup);
    live.start(start);
    scheduler(&arrivals, start, &queue, followups).await;
    queue.waiting.close();

    let mut attempts: Vec<Attempt> = senders.join_all().await.into_iter().flatten().collect();
    attempts.sort_by_key(|attempt| attempt.answered_us);
    let arrivals = Arc::try_unwrap(arrivals).unwrap_or_else(|shared| shared.to_vec());
    Ledger { crowd, arrivals, attempts, started_ms }
}

/// Queues every claim, and every retry, when it is due, until all claims are done.
async fn scheduler(arrivals: &[Arrival], start: Instant, queue: &DueQueue, mut followups: UnboundedReceiver<Followup>) {
    let mut coming = arrivals.iter().enumerate().peekable();
    let mut retries: BinaryHeap<Reverse<(Instant, u32, u16)>> = BinaryHeap::new();
    let mut left = arrivals.len();
    let due_at = |arrival: &Arrival| start + Duration::from_micros(arrival.due_us);
    while left > 0 {
        let now = Instant::now();
        while let Some((claim, _)) = coming.next_if(|(_, arrival)| due_at(arrival) <= now) {
            queue.push(DueAttempt { claim: u32::try_from(claim).unwrap_or(u32::MAX), number: 1 });
        }
        while let Some(Reverse((due, claim, number))) = retries.peek().copied()
            && due <= now
        {
            retries.pop();
            queue.push(DueAttempt { claim, number });
        }
        let next_arrival = coming.peek().map(|(_, arrival)| due_at(arrival));
        let next_retry = retries.peek().map(|Reverse((due, ..))| *due);
        let next = [next_arrival, next_retry].into_iter().flatten().min();
        let until_next = async {
            match next {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until_next => {}
            followup = followups.recv() => {
                let Some(mut followup) = followup else { return };
                loop {
                    match followup {
                        Followup::ClaimDone => left -= 1,
                        Followup::Retry(due, attempt) => retries.push(Reverse((due, attempt.claim, attempt.number))),
                    }
                    match followups.try_recv() {
                        Ok(next) => followup = next,
                        Err(_) => break,
                    }
                }
            }
        }
    }
}

/// Owns one connection.
struct Sender {
    connection: Connection,
    endpoint: Arc<Endpoint>,
    crowd: Crowd,
    arrivals: Arc<Vec<Arrival>>,
    retry: RetryBehavior,
    random: Random,
    start: Instant,
    live: Arc<LiveCounters>,
}

impl Sender {
    async fn run(mut self, queue: Arc<DueQueue>, followups: UnboundedSender<Followup>) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        while let Some(due) = queue.next().await {
            let Some(arrival) = self.arrivals.get(due.claim as usize).copied() else {
                continue;
            };
            let user = self.crowd.name(arrival.user);
            let sent = Instant::now();
            self.live.sent();
            let outcome = self.connection.claim(&self.endpoint, &user).await;
            let answered = Instant::now();

            let pause = self.pause(&outcome).filter(|_| due.number < self.retry.max_attempts);
            self.live.answered(&outcome, pause.is_none());
            // The scheduler outlives the senders.
            let _ = followups.send(match pause {
                Some(pause) => Followup::Retry(answered + pause, DueAttempt { number: due.number + 1, ..due }),
                None => Followup::ClaimDone,
            });
            attempts.push(Attempt {
                claim: due.claim,
                number: due.number,
                sent_us: self.since_start_us(sent),
                answered_us: self.since_start_us(answered),
                outcome,
            });
        }
        attempts
    }

    /// How long the user waits before the next attempt; none if the claim is decided.
    fn pause(&mut self, outcome: &ClaimOutcome) -> Option<Duration> {
        let ClaimOutcome::Undecided { retry_after, .. } = outcome else {
            return None;
        };
        let pause = retry_after.unwrap_or(self.retry.default_pause).min(self.retry.retry_after_cap);
        let jitter_us = u64::try_from(self.retry.jitter.as_micros()).unwrap_or(u64::MAX);
        Some(pause + Duration::from_micros(self.random.below(jitter_us)))
    }

    fn since_start_us(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds since the epoch.
#[must_use]
pub fn epoch_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
