//! What dashboards show of campaigns, read from MySQL and Redis every 15 s beside the loop. It must cost the database
//! nothing that its other users notice:
//!
//! - A few campaigns only, those whose opening is nearest to now; closed ones last.
//! - Rows are counted again only after a hundred times as long as the count took, whether or not it succeeded. A campaign
//!   that is full is counted at most every five minutes.
//! - Redis is asked about a campaign at rest only every five minutes.

use crate::labels;
use crate::metrics::campaigns::{CampaignSample, InRedis};
use crate::metrics::{Metrics, ReasonLabel, SourceLabel};
use crate::phase::Phase;
use crate::redis::view::View;
use crate::store::rows::{Campaign, Tally};
use crate::timestamp::{self, Clock};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Time between two samples.
pub const EVERY: Duration = Duration::from_secs(15);
/// Campaigns in a sample, so that the number of series is bounded.
pub const CAMPAIGNS: u32 = 20;
/// Part of the time that may be spent counting the rows of a campaign: one in this many.
const COUNT_PART: u32 = 100;
/// How often a campaign is looked at in which nothing should happen: Redis is asked about one at rest, and rows are counted
/// of one that is full.
const REST: Duration = Duration::from_secs(300);
/// A sample that takes longer is given up.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is read of MySQL.
pub trait CampaignRows {
    /// At most `limit` campaigns: those whose opening is nearest to now, closed ones last.
    ///
    /// # Errors
    /// [`Fault`] where MySQL does not answer.
    async fn nearest(&self, clock: &Clock, limit: u32) -> Result<Vec<(CampaignId, Campaign)>, Fault>;

    /// Counts a campaign's rows.
    ///
    /// # Errors
    /// [`Fault`] where MySQL does not answer.
    async fn tally(&self, id: &CampaignId) -> Result<Tally, Fault>;
}

/// What was read of a campaign, and when to read it again.
#[derive(Default)]
struct Known {
    rows: Option<Tally>,
    count_at: Option<Instant>,
    redis: Option<InRedis>,
    ask_at: Option<Instant>,
    /// Of the campaign, when it was read.
    version: u32,
}

/// Samples campaigns into the metrics.
pub struct Sampler<S, H> {
    rows: S,
    redis: RedisRest<H>,
    metrics: Arc<Metrics>,
    clock: Clock,
    known: HashMap<CampaignId, Known>,
}

impl<S: CampaignRows, H: Http> Sampler<S, H> {
    pub fn new(rows: S, redis: RedisRest<H>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self { rows, redis, metrics, clock, known: HashMap::new() }
    }

    /// Samples until the process ends.
    pub async fn run(mut self) {
        loop {
            if timeout(DEADLINE, self.sample()).await.is_err() {
                self.metrics.campaigns.show(Vec::new());
                self.count(&Fault::unknown(Source::MySql, labels::TIMEOUT, "the sample was not complete in time"));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Takes one sample.
    pub async fn sample(&mut self) {
        let campaigns = match self.rows.nearest(&self.clock, CAMPAIGNS).await {
            Ok(campaigns) => campaigns,
            Err(fault) => {
                self.count(&fault);
                return self.metrics.campaigns.show(Vec::new());
            }
        };
        self.known.retain(|id, _| campaigns.iter().any(|(shown, _)| shown == id));
        // After its first fault a server is left alone until the next sample.
        let (mut mysql, mut redis) = (Ok(()), Ok(()));
        let mut samples = Vec::with_capacity(campaigns.len());
        for (id, campaign) in campaigns {
            let mut known = self.known.remove(&id).unwrap_or_default();
            if known.version != campaign.version {
                known = Known { rows: known.rows, version: campaign.version, ..Known::default() };
            }
            if mysql.is_ok() {
                mysql = self.count_rows(&id, &campaign, &mut known).await;
            }
            if redis.is_ok() {
                redis = self.ask_redis(&id, &campaign, &mut known).await;
            }
            if redis.is_err() {
                (known.redis, known.ask_at) = (None, None);
            }
            samples.push(CampaignSample {
                phase: self.phase(&campaign, &known),
                capacity: campaign.capacity,
                opens_ms: timestamp::to_ms(campaign.opens_at),
                rows: known.rows,
                redis: known.redis,
                id: id.clone(),
            });
            self.known.insert(id, known);
        }
        self.metrics.campaigns.show(samples);
        if mysql.is_ok() && redis.is_ok() {
            self.metrics.sampled.set(self.clock.now_ms() as f64 / 1e3);
        }
        for fault in [mysql, redis].into_iter().filter_map(Result::err) {
            self.count(&fault);
        }
    }

    fn phase(&self, campaign: &Campaign, known: &Known) -> Phase {
        let issued = known.rows.map_or(0, |rows| rows.issued);
        Phase::of(campaign, known.redis.map_or(issued, |redis| redis.slots), self.clock.now())
    }

    async fn count_rows(&self, id: &CampaignId, campaign: &Campaign, known: &mut Known) -> Result<(), Fault> {
        let begun = Instant::now();
        if known.count_at.is_some_and(|at| begun < at) {
            return Ok(());
        }
        known.rows = None;
        let counted = self.rows.tally(id).await;
        let now = Instant::now();
        let rest = (now - begun) * COUNT_PART;
        let is_full = counted.as_ref().is_ok_and(|rows| rows.issued >= campaign.capacity.into());
        known.count_at = Some(now + if is_full { rest.max(REST) } else { rest });
        known.rows = Some(counted?);
        Ok(())
    }

    async fn ask_redis(&self, id: &CampaignId, campaign: &Campaign, known: &mut Known) -> Result<(), Fault> {
        let now = Instant::now();
        if known.ask_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        known.redis = self.look(id).await?;
        let now_ms = self.clock.now_ms();
        let is_far = timestamp::to_ms(campaign.opens_at) > now_ms.saturating_add(REST.as_millis() as u64);
        let is_quiet = known.redis.is_some_and(|redis| redis.outbox == 0);
        let is_at_rest = is_quiet && (is_far || self.phase(campaign, known).is_over());
        known.ask_at = is_at_rest.then(|| now + REST);
        Ok(())
    }

    /// `None`: Redis has no such campaign.
    async fn look(&self, id: &CampaignId) -> Result<Option<InRedis>, Fault> {
        let view = View::new(&self.redis, id);
        let Some(meta) = view.meta().await? else { return Ok(None) };
        let outbox = view.waiting().await?;
        let oldest = if outbox == 0 { None } else { view.oldest_due_ms().await? };
        let oldest_ms = oldest.map_or(0, |admitted_ms| self.clock.now_ms().saturating_sub(admitted_ms));
        Ok(Some(InRedis { slots: meta.count, outbox, oldest_ms }))
    }

    fn count(&self, fault: &Fault) {
        self.metrics.sample_faults.get_or_create(&SourceLabel { source: fault.source.label() }).inc();
        if fault.source == Source::Redis {
            self.metrics.redis_faults.get_or_create(&ReasonLabel { reason: fault.label }).inc();
        }
        tracing::debug!(label = fault.label, "campaigns were not sampled: {fault}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::from_ms;
    use dropgate_shared::campaign::CampaignState;
    use dropgate_shared::http::{HttpRequest, HttpResponse, SendFault};
    use serde_json::{Value, json};
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    const NOW_MS: u64 = 1_763_700_000_000;

    /// MySQL and Redis, with one campaign `c` of 100 coupons, and others of none.
    #[derive(Clone, Default)]
    struct World(Rc<Servers>);

    #[derive(Default)]
    struct Servers {
        capacity: Cell<u32>,
        issued: Cell<u64>,
        others: Cell<u32>,
        is_closed: Cell<bool>,
        counted: Cell<u32>,
        count_takes: Cell<Duration>,
        is_count_refused: Cell<bool>,
        is_mysql_away: Cell<bool>,
        is_redis_away: Cell<bool>,
        is_published: Cell<bool>,
        /// Admission of each, in ms before now.
        outbox: RefCell<Vec<u64>>,
        asked: Cell<u32>,
    }

    impl CampaignRows for World {
        async fn nearest(&self, _: &Clock, limit: u32) -> Result<Vec<(CampaignId, Campaign)>, Fault> {
            if self.0.is_mysql_away.get() {
                return Err(Fault::unknown(Source::MySql, labels::UNREACHABLE, "away"));
            }
            let state = if self.0.is_closed.get() { CampaignState::Closed } else { CampaignState::Open };
            let campaign = |capacity| Campaign {
                state,
                capacity,
                opens_at: from_ms(NOW_MS - 1_000).unwrap(),
                closes_at: None,
                version: capacity,
            };
            let mut all = vec![(CampaignId::parse("c").unwrap(), campaign(self.0.capacity.get()))];
            all.extend(
                (0..self.0.others.get()).map(|n| (CampaignId::parse(&format!("other-{n}")).unwrap(), campaign(9))),
            );
            all.truncate(limit as usize);
            Ok(all)
        }

        async fn tally(&self, _: &CampaignId) -> Result<Tally, Fault> {
            self.0.counted.set(self.0.counted.get() + 1);
            tokio::time::sleep(self.0.count_takes.get()).await;
            if self.0.is_count_refused.get() {
                return Err(Fault::unknown(Source::MySql, labels::TIMEOUT, "too slow"));
            }
            Ok(Tally { issued: self.0.issued.get(), refused: 0 })
        }
    }

    impl Http for World {
        async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
            if self.0.is_redis_away.get() {
                return Err(SendFault { may_have_arrived: true, label: labels::TIMEOUT, detail: String::new() });
            }
            self.0.asked.set(self.0.asked.get() + 1);
            let command: Vec<String> = serde_json::from_str(&request.body).unwrap();
            let waiting = self.0.outbox.borrow();
            let result = match (command[3].rsplit(':').next().unwrap(), command[4].as_str()) {
                ("meta", _) if !self.0.is_published.get() => json!([null, null, null, null, null, null, null, null]),
                ("meta", _) => {
                    let capacity = self.0.capacity.get();
                    let slots = self.0.issued.get() + waiting.len() as u64;
                    json!(["open", capacity, slots, 1, 0, 0, capacity, null])
                }
                (_, "ZCARD") => json!(waiting.len()),
                (_, "ZRANGE") => (0..waiting.len()).map(|n| Value::from(format!("u{n}"))).collect(),
                (_, "HMGET") => waiting.iter().map(|age_ms| Value::from(format!("7:{}:a", NOW_MS - age_ms))).collect(),
                other => panic!("{other:?}"),
            };
            Ok(HttpResponse { status: 200, body: json!({ "result": result }).to_string().into_bytes() })
        }
    }

    fn sampler() -> (Sampler<World, World>, World, Arc<Metrics>) {
        let world = World::default();
        world.0.capacity.set(100);
        world.0.is_published.set(true);
        let redis = RedisRest::new(world.clone(), "http://redis", "token", 1_000, false);
        let metrics = Arc::new(Metrics::default());
        let clock = Clock::new(|| NOW_MS);
        (Sampler::new(world.clone(), redis, Arc::clone(&metrics), clock), world, metrics)
    }

    #[track_caller]
    fn assert_shown(metrics: &Metrics, lines: &[&str]) {
        let page = metrics.encode();
        for line in lines {
            assert!(page.contains(&format!("\ndropgate_issuer_{line}\n")), "{line} is missing in\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn campaigns_are_shown_with_what_waits() {
        let (mut sampler, world, metrics) = sampler();
        world.0.issued.set(40);
        *world.0.outbox.borrow_mut() = vec![1_000, 61_500, 3];
        sampler.sample().await;
        assert_shown(
            &metrics,
            &[
                "campaign_capacity{campaign=\"c\"} 100.0",
                "campaign_coupons{campaign=\"c\"} 40.0",
                "campaign_slots{campaign=\"c\"} 43.0",
                "campaign_outbox_entries{campaign=\"c\"} 3.0",
                "campaign_outbox_oldest_seconds{campaign=\"c\"} 61.5",
                "campaign_state{campaign=\"c\",state=\"open\"} 1",
                "sample_timestamp_seconds 1763700000.0",
                "sample_faults_total{source=\"redis\"} 0",
            ],
        );
        world.0.outbox.borrow_mut().clear();
        world.0.issued.set(100);
        tokio::time::advance(EVERY).await;
        sampler.sample().await;
        assert_shown(
            &metrics,
            &[
                "campaign_outbox_oldest_seconds{campaign=\"c\"} 0.0",
                "campaign_state{campaign=\"c\",state=\"sold-out\"} 1",
            ],
        );
    }

    /// An old value would look like a present one.
    #[tokio::test(start_paused = true)]
    async fn what_a_server_does_not_answer_is_not_shown_and_counted() {
        let (mut sampler, world, metrics) = sampler();
        sampler.sample().await;
        world.0.is_redis_away.set(true);
        world.0.others.set(5);
        sampler.sample().await;
        let page = metrics.encode();
        assert!(!page.contains("campaign_slots{") && page.contains("campaign_coupons{campaign=\"c\"}"), "{page}");
        // One fault, not one for each campaign.
        assert_shown(
            &metrics,
            &["sample_faults_total{source=\"redis\"} 1", "redis_faults_total{reason=\"timeout\"} 1"],
        );
        world.0.is_mysql_away.set(true);
        sampler.sample().await;
        assert!(!metrics.encode().contains("campaign_capacity{"));
        assert_shown(&metrics, &["sample_faults_total{source=\"mysql\"} 1"]);
        world.0.is_mysql_away.set(false);
        world.0.is_redis_away.set(false);
        world.0.is_published.set(false);
        sampler.sample().await;
        assert!(!metrics.encode().contains("campaign_slots{"), "not published: no slots");
        assert_shown(&metrics, &["campaign_capacity{campaign=\"c\"} 100.0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn counting_takes_a_hundredth_of_the_time_and_less_for_a_full_campaign() {
        let (mut sampler, world, metrics) = sampler();
        world.0.count_takes.set(Duration::from_secs(1));
        sampler.sample().await;
        tokio::time::advance(Duration::from_secs(99)).await;
        sampler.sample().await;
        assert_eq!(world.0.counted.get(), 1);
        assert_shown(&metrics, &["campaign_coupons{campaign=\"c\"} 0.0"]);
        world.0.issued.set(100);
        tokio::time::advance(Duration::from_secs(1)).await;
        sampler.sample().await;
        tokio::time::advance(REST / 2).await;
        sampler.sample().await;
        assert_eq!(world.0.counted.get(), 2, "it is full");
        world.0.capacity.set(120);
        sampler.sample().await;
        assert_eq!(world.0.counted.get(), 3, "it was raised");
        world.0.issued.set(121);
        tokio::time::advance(REST).await;
        sampler.sample().await;
        assert_shown(&metrics, &["campaign_coupons{campaign=\"c\"} 121.0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_fails_is_not_repeated_at_once() {
        let (mut sampler, world, metrics) = sampler();
        world.0.count_takes.set(Duration::from_secs(25));
        world.0.is_count_refused.set(true);
        sampler.sample().await;
        tokio::time::advance(Duration::from_secs(2_000)).await;
        sampler.sample().await;
        assert_eq!(world.0.counted.get(), 1);
        assert_shown(&metrics, &["sample_faults_total{source=\"mysql\"} 1"]);
        tokio::time::advance(Duration::from_secs(500)).await;
        sampler.sample().await;
        assert_eq!(world.0.counted.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_campaign_at_rest_is_asked_about_rarely_and_one_that_changes_at_once() {
        let (mut sampler, world, _) = sampler();
        world.0.issued.set(100);
        sampler.sample().await;
        let asked = world.0.asked.get();
        tokio::time::advance(EVERY).await;
        sampler.sample().await;
        assert_eq!(world.0.asked.get(), asked);
        world.0.capacity.set(101);
        sampler.sample().await;
        assert!(world.0.asked.get() > asked, "a raise");
        world.0.is_closed.set(true);
        world.0.capacity.set(102);
        *world.0.outbox.borrow_mut() = vec![5];
        sampler.sample().await;
        let asked = world.0.asked.get();
        tokio::time::advance(EVERY).await;
        sampler.sample().await;
        assert!(world.0.asked.get() > asked, "what waits is looked at");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_series_is_bounded() {
        let (mut sampler, world, metrics) = sampler();
        world.0.others.set(500);
        sampler.sample().await;
        let shown = metrics.encode().matches("campaign_capacity{").count();
        assert_eq!(shown, CAMPAIGNS as usize);
        world.0.others.set(0);
        sampler.sample().await;
        assert_eq!(metrics.encode().matches("campaign_capacity{").count(), 1);
        assert_eq!(sampler.known.len(), 1);
    }
}
