//! Tells Redis what became of claims, beside the path to the database and never in its way.
//!
//! Best effort. What is dropped here stays in the outbox: the sweeper sends the record again, the
//! issuer finds the row (I6) and confirms once more.

use crate::backoff::Outage;
use crate::consume::ports::{Confirmation, Confirmations};
use crate::metrics::{Metrics, Reason};
use crate::redis::client::Redis;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::CampaignKeys;
use dropgate_shared::scripts;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches that wait for Redis. More than a second's worth at full speed helps nobody.
const QUEUE_BATCHES: usize = 128;
/// Pairs in one call of the script.
pub const PAIRS: usize = 500;
/// Calls under way at once.
const CALLS: usize = 4;

/// The sending end of the queue.
pub struct ConfirmQueue {
    sender: mpsc::Sender<Vec<Confirmation>>,
    full: AtomicBool,
    metrics: Arc<Metrics>,
}

/// The task at the other end.
pub struct Confirmer(JoinHandle<()>);

/// Starts the task.
#[must_use]
pub fn start(redis: Redis, metrics: Arc<Metrics>) -> (ConfirmQueue, Confirmer) {
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
    let task = tokio::spawn(confirm_all(redis, receiver, Arc::clone(&metrics)));
    (ConfirmQueue { sender, full: AtomicBool::new(false), metrics }, Confirmer(task))
}

impl Confirmations for ConfirmQueue {
    fn offer(&self, settled: Vec<Confirmation>) {
        let full = match self.sender.try_send(settled) {
            Ok(()) => false,
            Err(mpsc::error::TrySendError::Full(lost) | mpsc::error::TrySendError::Closed(lost)) => {
                let reason = Reason { reason: "queue_full" };
                self.metrics.unconfirmed.get_or_create(&reason).inc_by(lost.len() as u64);
                true
            }
        };
        if full && !self.full.swap(full, Ordering::Relaxed) {
            tracing::warn!("Redis is slower than MySQL: confirmations are dropped, the outbox will send them again");
        } else if !full && self.full.swap(full, Ordering::Relaxed) {
            tracing::info!("Redis keeps up again");
        }
    }
}

impl Confirmer {
    /// Waits until what is queued has been told, for `limit` at most. The queue must be dropped first.
    pub async fn finish(self, limit: Duration) {
        let abort = self.0.abort_handle();
        if tokio::time::timeout(limit, self.0).await.is_err() {
            abort.abort();
            tracing::warn!(
                "Redis took not all confirmations within {} ms; the outbox will send them again",
                limit.as_millis()
            );
        }
    }
}

async fn confirm_all(redis: Redis, mut receiver: mpsc::Receiver<Vec<Confirmation>>, metrics: Arc<Metrics>) {
    let redis = Arc::new(redis);
    let mut outage = Outage::default();
    let mut batches = Vec::new();
    while receiver.recv_many(&mut batches, 16).await > 0 {
        // The last word about a user counts, whatever order the calls arrive in.
        let mut campaigns = HashMap::<CampaignId, HashMap<String, String>>::new();
        for settled in batches.drain(..).flatten() {
            let users = campaigns.entry(settled.campaign).or_default();
            users.insert(settled.user.into(), settled.entry.to_string());
        }
        let calls: Vec<(CampaignId, Vec<String>)> = campaigns
            .into_iter()
            .flat_map(|(campaign, users)| {
                let users: Vec<(String, String)> = users.into_iter().collect();
                let pairs = |some: &[(String, String)]| some.iter().flat_map(|(u, e)| [u.clone(), e.clone()]).collect();
                users.chunks(PAIRS).map(|some| (campaign.clone(), pairs(some))).collect::<Vec<_>>()
            })
            .collect();
        let results = futures_util::stream::iter(calls)
            .map(|(campaign, pairs)| {
                let redis = Arc::clone(&redis);
                async move {
                    let claims = pairs.len() / 2;
                    confirm(&redis, &campaign, &pairs).await.map(|_| claims).map_err(|fault| (fault, claims))
                }
            })
            .buffer_unordered(CALLS)
            .collect::<Vec<_>>()
            .await;
        for result in results {
            match &result {
                Ok(claims) => {
                    metrics.confirmed.inc_by(*claims as u64);
                }
                Err((fault, claims)) => {
                    let reason = Reason { reason: fault.label };
                    metrics.redis_faults.get_or_create(&reason).inc();
                    metrics.unconfirmed.get_or_create(&reason).inc_by(*claims as u64);
                }
            }
            match result {
                Ok(_) => {
                    if outage.answered(Instant::now()).is_some() {
                        tracing::info!("Redis takes confirmations again");
                    }
                }
                Err((fault, claims)) if outage.failed(fault.label, Instant::now()) => {
                    tracing::warn!(
                        label = fault.label,
                        claims,
                        "confirmations are dropped, the outbox will send them again: {fault}"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// Writes `pairs` (user, entry, user, entry..) into a campaign's claims and ends their obligations.
/// Returns how many ended.
///
/// # Errors
/// [`Fault`]; repeating it changes nothing.
pub async fn confirm(redis: &Redis, campaign: &CampaignId, pairs: &[String]) -> Result<u64, Fault> {
    let keys = CampaignKeys::of(campaign);
    let ended = redis.eval(&scripts::CONFIRM, &[&keys.claims, &keys.outbox], pairs).await?;
    Ok(ended.as_u64().unwrap_or(0))
}
