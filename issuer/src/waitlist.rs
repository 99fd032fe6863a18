//! Finds out when claims that wait can be decided ([`crate::store::waiting`]). Runs beside the loop and never in its
//! way; the loop decides, within its budget.
//!
//! A claim waits since Redis has lost data. It may get a free slot once nothing is under way that was admitted before
//! it. What is under way is in one of four places, and this is the order in which each is ruled out:
//!
//! | step | then |
//! |---|---|
//! | `Look`: Redis has no earlier claim in its outbox | no sweeper will send one that it does not send already |
//! | `Settle`: [`IN_FLIGHT`] passes | what gate or sweeper were sending is in Kafka, or lost for good |
//! | `Drain`: the group commits what was in Kafka by then | it is a row, waits too, or is a dead letter (I7) |
//! | `Decide`: Redis still has no earlier claim | it did not go back to a state in which there was one |
//!
//! Each member goes through these steps by itself, and remembers them in memory only: what is lost costs time. Whoever
//! comes first decides, under the lock of the campaign's row. While Redis or Kafka cannot be asked, claims wait on.

use crate::backoff::OutageLog;
use crate::kafka::ports::{Backlog, Position};
use crate::metrics::{Metrics, ReasonLabel};
use crate::redis::view::View;
use crate::store::approvals::Approval;
use crate::store::coupon_writer::CouponWriter;
use crate::store::ports::Store;
use crate::store::rows::{WaitingRow, entry};
use crate::timestamp;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a record can be on its way from the gate to Kafka: the gate forwards none that has waited for 15 s (its
/// first lease), and a call lasts 30 s at most (`KAFKA_DEADLINE_MS`).
pub const IN_FLIGHT: Duration = Duration::from_secs(60);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// Between two looks while a step is under way.
const SOON: Duration = Duration::from_secs(2);
/// After this time in `Decide`, claims that came meanwhile get their turn.
const DECIDE_FOR: Duration = Duration::from_secs(60);
/// When the sweeper sends a claim again that was written back.
const RECALL_LEASE_MS: u64 = 15 * 60_000;
/// Claims in one call of the script.
const RECALLS: usize = 200;

/// Users who wait, by campaign.
type Candidates = BTreeMap<CampaignId, BTreeSet<String>>;

enum Step {
    Look,
    Settle { candidates: Candidates, until: Instant },
    Drain { candidates: Candidates, ends: BTreeMap<i32, i64> },
    Decide { candidates: Candidates, until: Instant },
}

/// The work of one member.
pub struct Waitlist<S, H, B> {
    store: CouponWriter<S>,
    redis: RedisRest<H>,
    backlog: B,
    in_flight: Duration,
    metrics: Arc<Metrics>,
    step: Step,
}

impl<S: Store, H: Http, B: Backlog> Waitlist<S, H, B> {
    /// `in_flight`: [`IN_FLIGHT`].
    #[must_use]
    pub fn new(
        store: CouponWriter<S>,
        redis: RedisRest<H>,
        backlog: B,
        in_flight: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, redis, backlog, in_flight, metrics, step: Step::Look }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let mut outage = OutageLog::default();
        loop {
            let wait = match self.step().await {
                Ok(wait) => {
                    if outage.succeeded(Instant::now()).is_some() {
                        tracing::info!("claims that wait can be looked at again");
                    }
                    wait
                }
                Err(fault) => {
                    if fault.source == Source::Redis {
                        self.metrics.redis_faults.get_or_create(&ReasonLabel { reason: fault.label }).inc();
                    }
                    if outage.failed(fault.label, Instant::now()) {
                        tracing::warn!(label = fault.label, "claims that wait cannot be looked at: {fault}");
                    }
                    EVERY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes a step, if it is time. Returns when to look again.
    ///
    /// # Errors
    /// [`Fault`]: the step is not taken.
    pub async fn step(&mut self) -> Result<Duration, Fault> {
        let now = Instant::now();
        match &self.step {
            Step::Look => self.look().await,
            Step::Settle { until, .. } if now < *until => Ok(*until - now),
            Step::Settle { candidates, .. } => {
                let positions = self.backlog.positions().await?;
                let ends = positions.iter().map(|position| (position.partition, position.end)).collect();
                self.step = Step::Drain { candidates: candidates.clone(), ends };
                Ok(Duration::ZERO)
            }
            Step::Drain { candidates, ends } => {
                let positions = self.backlog.positions().await?;
                self.step = match passed(&positions, ends) {
                    Passed::NotYet => return Ok(SOON),
                    // The topic was created anew.
                    Passed::Never => Step::Look,
                    Passed::All => Step::Decide { candidates: candidates.clone(), until: now + DECIDE_FOR },
                };
                Ok(Duration::ZERO)
            }
            Step::Decide { until, .. } if now >= *until => {
                self.step = Step::Look;
                Ok(Duration::ZERO)
            }
            Step::Decide { candidates, .. } => {
                let candidates = candidates.clone();
                self.approve(candidates).await
            }
        }
    }

    /// Finds the claims before which Redis has none under way.
    async fn look(&mut self) -> Result<Duration, Fault> {
        let waiting = self.store.waiting().await?;
        let count: usize = waiting.values().map(Vec::len).sum();
        self.metrics.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
        let mut candidates = Candidates::new();
        for (campaign, claims) in waiting {
            self.recall(&campaign, &claims).await?;
            let (_, users) = self.candidates(&campaign, &claims).await?;
            if !users.is_empty() {
                candidates.insert(campaign, users);
            }
        }
        if candidates.is_empty() {
            return Ok(EVERY);
        }
        self.step = Step::Settle { candidates, until: Instant::now() + self.in_flight };
        Ok(self.in_flight)
    }

    /// Lets the loop decide what is left of the candidates.
    async fn approve(&mut self, mut candidates: Candidates) -> Result<Duration, Fault> {
        let waiting = self.store.waiting().await?;
        let mut left = Candidates::new();
        for (campaign, claims) in waiting {
            let Some(before) = candidates.remove(&campaign) else { continue };
            let (under_way, now) = self.candidates(&campaign, &claims).await?;
            // Those before whom an earlier claim has come up begin anew.
            let users: BTreeSet<String> = now.intersection(&before).cloned().collect();
            if !users.is_empty() {
                self.store.approve(campaign.clone(), Approval { users: users.clone(), under_way });
                left.insert(campaign, users);
            }
        }
        self.step = match &self.step {
            Step::Decide { until, .. } if !left.is_empty() => Step::Decide { candidates: left, until: *until },
            _ => Step::Look,
        };
        Ok(SOON)
    }

    /// What Redis has under way, and the users among `claims` before whom nothing of it was admitted.
    async fn candidates(
        &self,
        campaign: &CampaignId,
        claims: &[WaitingRow],
    ) -> Result<(BTreeMap<String, ClaimEntry>, BTreeSet<String>), Fault> {
        let mut under_way = View::new(&self.redis, campaign).under_way().await?;
        let users: Vec<String> = under_way.keys().cloned().collect();
        let settled = self.store.settled(campaign, &users).await?;
        // Their confirmation is on its way.
        under_way.retain(|user, _| !settled.contains_key(user));
        let waits: BTreeSet<&str> = claims.iter().map(|claim| claim.user_id.as_str()).collect();
        let others = under_way.iter().filter(|(user, _)| !waits.contains(user.as_str()));
        let earliest = others.map(|(_, entry)| entry.admitted_ms).min().unwrap_or(u64::MAX);
        let is_first = |claim: &&WaitingRow| timestamp::to_ms(claim.admitted_at) < earliest;
        let users = claims.iter().filter(is_first).map(|claim| claim.user_id.clone()).collect();
        Ok((under_way, users))
    }

    /// Writes claims back that Redis has lost, so that it counts them and their users are not told that they have none.
    async fn recall(&self, campaign: &CampaignId, claims: &[WaitingRow]) -> Result<(), Fault> {
        let keys = self.redis.keys(campaign);
        for some in claims.chunks(RECALLS) {
            let users: Vec<&str> = some.iter().map(|claim| claim.user_id.as_str()).collect();
            let stored = View::new(&self.redis, campaign).entries(&users).await?;
            let mut args = vec![RECALL_LEASE_MS.to_string()];
            for (claim, _) in some.iter().zip(stored).filter(|(_, stored)| stored.is_none()) {
                let entry = entry(claim.proposed_slot, claim.admitted_at, ClaimStatus::Admitted);
                args.extend(entry.into_iter().flat_map(|entry| [claim.user_id.clone(), entry.to_string()]));
            }
            if args.len() > 1 {
                self.redis.eval(&scripts::RECALL, &[&keys.meta, &keys.claims, &keys.outbox], &args).await?;
                tracing::info!(claims = args.len() / 2, "Redis had lost claims that wait; they are written back");
            }
        }
        Ok(())
    }
}

/// Whether everything before the ends is committed.
#[derive(Debug, PartialEq, Eq)]
enum Passed {
    NotYet,
    All,
    Never,
}

fn passed(positions: &[Position], ends: &BTreeMap<i32, i64>) -> Passed {
    let mut all = Passed::All;
    for (partition, end) in ends {
        match positions.iter().find(|position| position.partition == *partition) {
            Some(position) if position.end >= *end => {
                if position.next < *end {
                    all = Passed::NotYet;
                }
            }
            _ => return Passed::Never,
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_kafka_is_settled_when_every_partition_is_committed_up_to_there() {
        let ends = BTreeMap::from([(0, 5), (1, 0)]);
        let at = |next, end| [Position { partition: 0, next, end }, Position { partition: 1, next: 0, end: 3 }];
        assert_eq!(passed(&at(4, 5), &ends), Passed::NotYet);
        assert_eq!(passed(&at(5, 9), &ends), Passed::All);
        assert_eq!(passed(&at(3, 3), &ends), Passed::Never, "a topic that was created anew");
        assert_eq!(passed(&at(5, 9)[..1], &ends), Passed::Never);
    }
}
