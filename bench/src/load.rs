//! The load: a closed loop, in which each connection sends the next claim after a response, and an open
//! model, in which each claim has its due time.

use crate::connection::RawConnection;
use anyhow::{Context as _, Result, bail};
use dropgate_burst::load::identity::Identity;
use dropgate_burst::report::latency::{histogram_us, quantile_ms};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

/// After this the run is given up.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts per claim in the open model while the claim is undecided.
const MAX_ATTEMPTS: u32 = 10;

/// The claims of numbered users.
#[derive(Clone)]
pub struct ClaimRequests {
    pub campaign: String,
    /// Prefix of every user id.
    pub prefix: String,
    /// Length of a user id; zeros pad the number.
    pub id_bytes: usize,
    /// Number of users; the next one is the first again.
    pub distinct: u64,
    pub identity: Identity,
}

impl ClaimRequests {
    fn user(&self, n: u64) -> String {
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
        // All user ids are valid in a header.
        if let Some((name, value)) = self.identity.header(&user) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    }
}

#[derive(Debug)]
pub struct LoadResult {
    /// Number of responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// From the first request to the last response.
    pub seconds: f64,
    latency_us: Histogram<u64>,
    /// The number after the last user who was sent.
    pub next: u64,
}

impl LoadResult {
    #[must_use]
    pub fn responses(&self) -> u64 {
        self.statuses.values().sum()
    }

    #[must_use]
    pub fn with_status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Responses a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.responses() as f64 / self.seconds
    }

    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latency_us, quantile)
    }

    /// # Errors
    /// If a response has another status: figures that include errors would mean nothing.
    pub fn expect_only(self, status: u16) -> Result<Self> {
        if self.statuses.keys().any(|other| *other != status) || self.statuses.is_empty() {
            bail!("expected only responses {status}, got {:?} (status: count)", self.statuses);
        }
        Ok(self)
    }
}

struct LoadState {
    requests: ClaimRequests,
    next: Cell<u64>,
    statuses: RefCell<BTreeMap<u16, u64>>,
    latency_us: RefCell<Histogram<u64>>,
}

impl LoadState {
    fn new(requests: ClaimRequests, first: u64) -> Result<Rc<Self>> {
        let latency_us = RefCell::new(histogram_us([])?);
        Ok(Rc::new(Self { requests, next: Cell::new(first), statuses: RefCell::default(), latency_us }))
    }

    fn take_number(&self) -> u64 {
        self.next.replace(self.next.get().wrapping_add(1))
    }

    fn count(&self, status: u16, since: Instant) {
        *self.statuses.borrow_mut().entry(status).or_default() += 1;
        let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency_us.borrow_mut().saturating_record(us);
    }

    fn result(self: Rc<Self>, begun: Instant) -> LoadResult {
        LoadResult {
            seconds: begun.elapsed().as_secs_f64(),
            statuses: self.statuses.take(),
            latency_us: self.latency_us.borrow().clone(),
            next: self.next.get(),
        }
    }
}

async fn open_all(address: &str, connections: usize) -> Result<Vec<RawConnection>> {
    let mut opened = Vec::with_capacity(connections);
    for _ in 0..connections {
        opened.push(RawConnection::open(address).await?);
    }
    Ok(opened)
}

/// Returns the status of the response.
async fn exchange(connection: &mut RawConnection, request: &[u8]) -> Result<u16> {
    let response = timeout(RESPONSE_TIMEOUT, connection.exchange(request)).await;
    Ok(response.context("a response did not arrive in time")??.status)
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

/// For `duration` each of `connections` sends a claim after each response. Users are numbered from `first`.
///
/// # Errors
/// If a connection breaks or a response does not arrive.
pub async fn closed(
    address: &str,
    requests: ClaimRequests,
    first: u64,
    connections: usize,
    duration: Duration,
) -> Result<LoadResult> {
    let state = LoadState::new(requests, first)?;
    let opened = open_all(address, connections).await?;
    let begun = Instant::now();
    let until = begun + duration;
    let workers = opened.into_iter().map(|mut connection| {
        let state = Rc::clone(&state);
        async move {
            while Instant::now() < until {
                let request = state.requests.request(state.take_number());
                let sent = Instant::now();
                state.count(exchange(&mut connection, &request).await?, sent);
            }
            Ok(())
        }
    });
    run(workers).await?;
    Ok(state.result(begun))
}

/// `count` claims at equal distances over `over`. The latency of a claim counts from its due time if every
/// connection was busy then, otherwise from its sending: a late timer of this program is not the server's
/// fault. After a 503 the claim is repeated once a second, as `Retry-After` says; only its last response
/// counts.
///
/// # Errors
/// As [`closed`].
pub async fn open(
    address: &str,
    requests: ClaimRequests,
    first: u64,
    connections: usize,
    count: u64,
    over: Duration,
) -> Result<LoadResult> {
    let state = LoadState::new(requests, first)?;
    let opened = open_all(address, connections).await?;
    let begun = Instant::now() + Duration::from_millis(20);
    let end = first.saturating_add(count);
    let due = move |n: u64| begun + over.mul_f64((n - first) as f64 / count as f64);
    let workers = opened.into_iter().map(|mut connection| {
        let state = Rc::clone(&state);
        async move {
            while state.next.get() < end {
                let n = state.take_number();
                let request = state.requests.request(n);
                let due = due(n);
                let idle = Instant::now() < due;
                if idle {
                    sleep_until(due).await;
                }
                let since = if idle { Instant::now() } else { due };
                for number in 1..=MAX_ATTEMPTS {
                    let status = exchange(&mut connection, &request).await?;
                    if status != 503 || number == MAX_ATTEMPTS {
                        state.count(status, since);
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Ok(())
        }
    });
    run(workers).await?;
    Ok(state.result(begun))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(id_bytes: usize) -> ClaimRequests {
        ClaimRequests {
            campaign: "c".to_owned(),
            prefix: "u".to_owned(),
            id_bytes,
            distinct: 100,
            identity: Identity::InsecureHeader,
        }
    }

    #[test]
    fn user_ids_have_the_given_length_and_repeat() {
        assert_eq!(requests(8).user(7), "u0000007");
        assert_eq!(requests(8).user(107), "u0000007");
        assert_eq!(requests(128).user(1).len(), 128);
        let request = String::from_utf8(requests(4).request(7)).unwrap();
        assert!(request.starts_with("POST /v1/campaigns/c/claims HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("x-user-id: u007\r\n\r\n"), "{request}");
    }
}
