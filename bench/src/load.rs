//! The crowd: a closed loop, in which each connection asks again when it is answered, and an open model,
//! in which each claim has its moment.

use crate::connection::Connection;
use anyhow::{Context as _, Result, bail};
use dropgate_burst::load::identity::Identity;
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

/// How long one answer may take before the run is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How often a claim that is not decided is sent again, in the open model.
const TRIES: u32 = 10;

/// Who claims what.
#[derive(Clone)]
pub struct Crowd {
    /// The campaign.
    pub campaign: String,
    /// What every user id begins with.
    pub prefix: String,
    /// Length of a user id in bytes; zeros fill it up in front of the number.
    pub id_bytes: usize,
    /// So many users; the next one is the first again.
    pub distinct: u64,
    /// How a user says who he is.
    pub identity: Identity,
}

impl Crowd {
    /// The id of user `n`.
    #[must_use]
    pub fn user(&self, n: u64) -> String {
        let width = self.id_bytes.saturating_sub(self.prefix.len());
        format!("{}{:0>width$}", self.prefix, n.checked_rem(self.distinct).unwrap_or(n))
    }

    /// The request of user `n`.
    #[must_use]
    pub fn request(&self, n: u64) -> Vec<u8> {
        let user = self.user(n);
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(b"POST /v1/campaigns/");
        bytes.extend_from_slice(self.campaign.as_bytes());
        bytes.extend_from_slice(b"/claims HTTP/1.1\r\nhost: drop.example\r\ncontent-length: 0\r\n");
        // An id that cannot stand in a header is none that this crowd has.
        if let Some((name, value)) = self.identity.header(&user) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Load {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// From the first request to the last answer, in seconds.
    pub seconds: f64,
    /// Latency of each answer in microseconds.
    pub latency: Histogram<u64>,
    /// The number after the last user who was sent.
    pub next: u64,
}

impl Load {
    /// All answers.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers of one status.
    #[must_use]
    pub fn of(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
        let answers = self.answers() as f64;
        answers / self.seconds
    }

    /// A quantile of the latency in milliseconds.
    #[must_use]
    pub fn ms(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
        let us = self.latency.value_at_quantile(quantile) as f64;
        us / 1000.0
    }

    /// Makes sure that every answer has this status: a figure over errors would mean nothing.
    ///
    /// # Errors
    /// If one has another.
    pub fn only(self, status: u16) -> Result<Self> {
        if self.statuses.keys().any(|other| *other != status) || self.statuses.is_empty() {
            bail!("every answer should have been {status}, but they were {:?} (status: how many)", self.statuses);
        }
        Ok(self)
    }
}

struct Shared {
    crowd: Crowd,
    next: Cell<u64>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    latency: RefCell<Histogram<u64>>,
}

impl Shared {
    fn new(crowd: Crowd, first: u64) -> Result<Rc<Self>> {
        Ok(Rc::new(Self {
            crowd,
            next: Cell::new(first),
            statuses: RefCell::default(),
            latency: RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3)?),
        }))
    }

    fn take(&self) -> u64 {
        self.next.replace(self.next.get().wrapping_add(1))
    }

    fn count(&self, status: u16, since: Instant) {
        *self.statuses.borrow_mut().entry(status).or_default() += 1;
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.borrow_mut().saturating_record(us);
    }

    fn load(self: Rc<Self>, begun: Instant) -> Load {
        Load {
            seconds: begun.elapsed().as_secs_f64(),
            statuses: self.statuses.take(),
            latency: self.latency.borrow().clone(),
            next: self.next.get(),
        }
    }
}

async fn open_all(address: &str, connections: usize) -> Result<Vec<Connection>> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(Connection::open(address).await?);
    }
    Ok(opened)
}

async fn run(workers: impl Iterator<Item = impl Future<Output = Result<()>> + 'static>) -> Result<()> {
    let local = LocalSet::new();
    let mut set = JoinSet::new();
    for worker in workers {
        set.spawn_local_on(worker, &local);
    }
    local
        .run_until(async {
            while let Some(done) = set.join_next().await {
                done??;
            }
            Ok(())
        })
        .await
}

/// Each of `connections` asks, and asks again once answered, for `duration`. Users are numbered from
/// `first`.
///
/// # Errors
/// If a connection breaks or an answer does not come.
pub async fn closed(address: &str, crowd: Crowd, first: u64, connections: usize, duration: Duration) -> Result<Load> {
    let shared = Shared::new(crowd, first)?;
    let opened = open_all(address, connections).await?;
    let begun = Instant::now();
    let until = begun + duration;
    let workers = opened.into_iter().map(|mut connection| {
        let shared = Rc::clone(&shared);
        async move {
            while Instant::now() < until {
                let request = shared.crowd.request(shared.take());
                let sent = Instant::now();
                let answer = timeout(ANSWER_WITHIN, connection.exchange(&request)).await;
                let status = answer.context("an answer did not come in time")??.status;
                shared.count(status, sent);
            }
            Ok(())
        }
    });
    run(workers).await?;
    Ok(shared.load(begun))
}

/// `count` claims at equal distances over `over`, whatever becomes of the earlier ones. A claim's latency
/// begins at its moment if every connection was busy then, else when it left: that a timer of this
/// program was late is not the server's doing. A 503 is asked again after a second, as `Retry-After`
/// says, and does not count as an answer unless it is the last.
///
/// # Errors
/// As [`closed`].
pub async fn open(
    address: &str,
    crowd: Crowd,
    first: u64,
    connections: usize,
    count: u64,
    over: Duration,
) -> Result<Load> {
    let shared = Shared::new(crowd, first)?;
    let opened = open_all(address, connections).await?;
    let begun = Instant::now() + Duration::from_millis(20);
    let end = first.saturating_add(count);
    let due = move |n: u64| begun + over.mul_f64((n - first) as f64 / count as f64);
    let workers = opened.into_iter().map(|mut connection| {
        let shared = Rc::clone(&shared);
        async move {
            while shared.next.get() < end {
                let n = shared.take();
                let request = shared.crowd.request(n);
                let due = due(n);
                let idle = Instant::now() < due;
                if idle {
                    sleep_until(due).await;
                }
                let since = if idle { Instant::now() } else { due };
                for number in 1..=TRIES {
                    let answer = timeout(ANSWER_WITHIN, connection.exchange(&request)).await;
                    let status = answer.context("an answer did not come in time")??.status;
                    if status != 503 || number == TRIES {
                        shared.count(status, since);
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Ok(())
        }
    });
    run(workers).await?;
    Ok(shared.load(begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(id_bytes: usize) -> Crowd {
        Crowd {
            campaign: "c".to_owned(),
            prefix: "u".to_owned(),
            id_bytes,
            distinct: 100,
            identity: Identity::InsecureHeader,
        }
    }

    #[test]
    fn users_have_the_length_that_was_asked_for_and_come_round() {
        assert_eq!(crowd(8).user(7), "u0000007");
        assert_eq!(crowd(8).user(107), "u0000007");
        assert_eq!(crowd(128).user(1).len(), 128);
        let request = String::from_utf8(crowd(4).request(7)).unwrap();
        assert!(request.starts_with("POST /v1/campaigns/c/claims HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("x-user-id: u007\r\n\r\n"), "{request}");
    }
}
