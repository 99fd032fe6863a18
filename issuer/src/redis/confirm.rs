//! Confirms to Redis what became of claims, beside the path to the database and never in its way.
//!
//! Best effort. What is dropped here stays in the outbox: the sweeper sends the record again, the
//! issuer finds the row (I6) and confirms once more.

use crate::backoff::OutageLog;
use crate::consume::ports::{Confirmation, Confirmations};
use crate::labels;
use crate::metrics::{Metrics, ReasonLabel};
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Batches that wait for Redis. More than a second's worth at full speed is of no use.
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

/// A queue, and the work at its other end, which the caller spawns. The work ends once the queue is dropped and empty.
pub fn queue<H: Http>(redis: RedisRest<H>, metrics: Arc<Metrics>) -> (ConfirmQueue, impl Future<Output = ()>) {
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
    let work = confirm_all(redis, receiver, Arc::clone(&metrics));
    (ConfirmQueue { sender, full: AtomicBool::new(false), metrics }, work)
}

impl Confirmations for ConfirmQueue {
    fn offer(&self, settled: Vec<Confirmation>) {
        let full = match self.sender.try_send(settled) {
            Ok(()) => false,
            Err(mpsc::error::TrySendError::Full(lost) | mpsc::error::TrySendError::Closed(lost)) => {
                let reason = ReasonLabel { reason: labels::QUEUE_FULL };
                self.metrics.unconfirmed.get_or_create(&reason).inc_by(lost.len() as u64);
                true
            }
        };
        if full && !self.full.swap(full, Ordering::Relaxed) {
            tracing::warn!("Redis is slower than MySQL: confirmations are dropped, the outbox will send them again");
        } else if !full && self.full.swap(full, Ordering::Relaxed) {
            tracing::info!("Redis keeps up with MySQL again");
        }
    }
}

async fn confirm_all<H: Http>(
    redis: RedisRest<H>,
    mut receiver: mpsc::Receiver<Vec<Confirmation>>,
    metrics: Arc<Metrics>,
) {
    let mut outage = OutageLog::default();
    let mut batches = Vec::new();
    while receiver.recv_many(&mut batches, 16).await > 0 {
        // The last entry of a user counts, whatever order the calls arrive in.
        let mut campaigns = BTreeMap::<CampaignId, BTreeMap<String, String>>::new();
        for settled in batches.drain(..).flatten() {
            let users = campaigns.entry(settled.campaign).or_default();
            users.insert(settled.user.into(), settled.entry.to_string());
        }
        let mut calls = Vec::new();
        for (campaign, users) in campaigns {
            let pairs: Vec<String> = users.into_iter().flat_map(|(user, entry)| [user, entry]).collect();
            calls.extend(pairs.chunks(2 * PAIRS).map(|some| (campaign.clone(), some.to_vec())));
        }
        let redis = &redis;
        let results: Vec<(usize, Result<u64, Fault>)> = futures_util::stream::iter(calls)
            .map(async |(campaign, pairs)| (pairs.len() / 2, confirm(redis, &campaign, &pairs).await))
            .buffer_unordered(CALLS)
            .collect()
            .await;
        for (claims, result) in results {
            match result {
                Ok(_) => {
                    metrics.confirmed.inc_by(claims as u64);
                    if outage.succeeded(Instant::now()).is_some() {
                        tracing::info!("Redis accepts confirmations again");
                    }
                }
                Err(fault) => {
                    let reason = ReasonLabel { reason: fault.label };
                    metrics.redis_faults.get_or_create(&reason).inc();
                    metrics.unconfirmed.get_or_create(&reason).inc_by(claims as u64);
                    if outage.failed(fault.label, Instant::now()) {
                        tracing::warn!(
                            label = fault.label,
                            claims,
                            "confirmations are dropped, the outbox will send them again: {fault}"
                        );
                    }
                }
            }
        }
    }
}

/// Writes `pairs` (user, entry, user, entry..) into a campaign's claims and ends their outbox entries.
/// Returns how many ended.
///
/// # Errors
/// [`Fault`]; repeating it changes nothing.
pub async fn confirm<H: Http>(redis: &RedisRest<H>, campaign: &CampaignId, pairs: &[String]) -> Result<u64, Fault> {
    let keys = redis.keys(campaign);
    let ended = redis.eval(&scripts::CONFIRM, &[&keys.meta, &keys.claims, &keys.outbox], pairs).await?;
    Ok(ended.as_u64().unwrap_or(0))
}
