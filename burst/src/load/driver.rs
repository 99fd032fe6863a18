//! Sends every claim at its moment, and again while nothing is decided.
//!
//! A metronome puts claims into a line when they are due; each connection takes the next of the line
//! when it is free. An answer that is late delays no arrival: it only keeps one connection from others.

use crate::load::client::{Connection, Target};
use crate::load::identity::Crowd;
use crate::load::ledger::{Ledger, Try};
use crate::load::outcome::Outcome;
use crate::load::progress::Live;
use crate::load::random::Random;
use crate::load::schedule::Arrival;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How the crowd behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How often a visitor presses the button before he gives up.
    pub tries: u16,
    /// How long a visitor waits who was not told when to ask again.
    pub retry_unasked: Duration,
    /// The longest that he waits, whatever `Retry-After` says.
    pub retry_cap: Duration,
    /// Nobody presses at the exact moment: up to this much later.
    pub jitter: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Between the opened connections and the first moment.
const LEAD: Duration = Duration::from_millis(100);

/// The edge does not answer at all.
#[derive(Debug, thiserror::Error)]
#[error("no connection can be opened: {0}")]
pub struct NotReached(#[from] std::io::Error);

#[derive(Clone, Copy)]
struct Job {
    claim: u32,
    number: u16,
}

/// Claims that are due, in their order. The semaphore counts them, so a free connection waits for the
/// next one and no wake-up is lost.
struct Line {
    jobs: Mutex<VecDeque<Job>>,
    waiting: Semaphore,
}

impl Line {
    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Nothing panics while it holds the lock, and a queue is whole between any two calls.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        self.jobs().push_back(job);
        self.waiting.add_permits(1);
    }

    async fn next(&self) -> Option<Job> {
        self.waiting.acquire().await.ok()?.forget();
        self.jobs().pop_front()
    }
}

enum After {
    Done,
    Again(Instant, Job),
}

/// Opens the connections: the crowd comes to a shop whose door is known to be there.
///
/// # Errors
/// [`NotReached`] if not even the first can be opened. Others that fail are opened when needed.
pub async fn open(target: &Target, connections: usize, patience: Duration) -> Result<Vec<Connection>, NotReached> {
    let deadline = Instant::now() + patience;
    let mut first = Connection::default();
    first.open(target, deadline).await?;
    let mut opened = vec![first];
    for _ in 1..connections {
        let mut connection = Connection::default();
        let _ = connection.open(target, deadline).await;
        opened.push(connection);
    }
    Ok(opened)
}

/// Sends the crowd and returns when every claim is decided or given up.
pub async fn send(
    target: Arc<Target>,
    crowd: Crowd,
    arrivals: Vec<Arrival>,
    manner: Manner,
    connections: Vec<Connection>,
    live: Arc<Live>,
) -> Ledger {
    let start = Instant::now() + LEAD;
    let started_ms = epoch_ms(SystemTime::now() + LEAD);
    let arrivals = Arc::new(arrivals);
    let line = Arc::new(Line { jobs: Mutex::default(), waiting: Semaphore::new(0) });
    let (after, results) = unbounded_channel();

    let mut workers = JoinSet::new();
    for (i, connection) in connections.into_iter().enumerate() {
        let worker = Worker {
            connection,
            target: target.clone(),
            crowd: crowd.clone(),
            arrivals: arrivals.clone(),
            manner,
            random: Random::new(manner.seed ^ (i as u64).rotate_left(32)),
            start,
            live: live.clone(),
        };
        workers.spawn(worker.work(line.clone(), after.clone()));
    }
    drop(after);
    live.start(start);
    metronome(&arrivals, start, &line, results).await;
    line.waiting.close();

    let mut tries: Vec<Try> = workers.join_all().await.into_iter().flatten().collect();
    tries.sort_by_key(|one| one.answered_us);
    let arrivals = Arc::try_unwrap(arrivals).unwrap_or_else(|shared| shared.to_vec());
    Ledger { crowd, arrivals, tries, started_ms }
}

/// Puts every claim, and every repeated press, into the line at its moment, until all are done.
async fn metronome(arrivals: &[Arrival], start: Instant, line: &Line, mut results: UnboundedReceiver<After>) {
    let mut coming = arrivals.iter().enumerate().peekable();
    let mut again: BinaryHeap<Reverse<(Instant, u32, u16)>> = BinaryHeap::new();
    let mut left = arrivals.len();
    let moment = |arrival: &Arrival| start + Duration::from_micros(arrival.due_us);
    while left > 0 {
        let now = Instant::now();
        while let Some((claim, _)) = coming.next_if(|(_, arrival)| moment(arrival) <= now) {
            line.push(Job { claim: u32::try_from(claim).unwrap_or(u32::MAX), number: 1 });
        }
        while let Some(Reverse((due, claim, number))) = again.peek().copied()
            && due <= now
        {
            again.pop();
            line.push(Job { claim, number });
        }
        let next_arrival = coming.peek().map(|(_, arrival)| moment(arrival));
        let next_again = again.peek().map(|Reverse((due, ..))| *due);
        let next = [next_arrival, next_again].into_iter().flatten().min();
        let alarm = async {
            match next {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = alarm => {}
            result = results.recv() => {
                let Some(mut result) = result else { return };
                loop {
                    match result {
                        After::Done => left -= 1,
                        After::Again(due, job) => again.push(Reverse((due, job.claim, job.number))),
                    }
                    match results.try_recv() {
                        Ok(next) => result = next,
                        Err(_) => break,
                    }
                }
            }
        }
    }
}

struct Worker {
    connection: Connection,
    target: Arc<Target>,
    crowd: Crowd,
    arrivals: Arc<Vec<Arrival>>,
    manner: Manner,
    random: Random,
    start: Instant,
    live: Arc<Live>,
}

impl Worker {
    async fn work(mut self, line: Arc<Line>, after: UnboundedSender<After>) -> Vec<Try> {
        let mut tries = Vec::new();
        while let Some(job) = line.next().await {
            let Some(arrival) = self.arrivals.get(job.claim as usize).copied() else {
                continue;
            };
            let user = self.crowd.name(arrival.user);
            let sent = Instant::now();
            self.live.sent();
            let outcome = self.connection.claim(&self.target, &user).await;
            let answered = Instant::now();

            let pause = self.pause(&outcome).filter(|_| job.number < self.manner.tries);
            self.live.answered(&outcome, pause.is_none());
            // The metronome outlives the line.
            let _ = after.send(match pause {
                Some(pause) => After::Again(answered + pause, Job { number: job.number + 1, ..job }),
                None => After::Done,
            });
            tries.push(Try {
                claim: job.claim,
                number: job.number,
                sent_us: self.since_start_us(sent),
                answered_us: self.since_start_us(answered),
                outcome,
            });
        }
        tries
    }

    /// How long the visitor waits before he presses again; none if he knows all he can know.
    fn pause(&mut self, outcome: &Outcome) -> Option<Duration> {
        let Outcome::Undecided { retry_after, .. } = outcome else {
            return None;
        };
        let asked = retry_after.unwrap_or(self.manner.retry_unasked).min(self.manner.retry_cap);
        let jitter_us = u64::try_from(self.manner.jitter.as_micros()).unwrap_or(u64::MAX);
        Some(asked + Duration::from_micros(self.random.below(jitter_us)))
    }

    fn since_start_us(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds since the epoch.
#[must_use]
pub fn epoch_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
