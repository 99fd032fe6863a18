//! What an isolate knows about campaigns.

use crate::cache::marks::Marks;
use crate::cache::single_flight::SingleFlight;
use crate::http::problem::{Problem, Rejection};
use crate::http::response::Response;
use crate::labels::{self, Activity, Outcome};
use crate::platform::Platform;
use crate::telemetry::Telemetry;
use crate::upstream::admission::{CampaignView, Growing, campaign_view, published_campaigns};
use dropgate_shared::campaign::{CampaignSettings, CampaignState};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

/// How long a view is shown.
const FRESH: Millis = Millis(1_000);
/// Campaigns in the cache at most: anybody can make up ids.
const LIMIT: usize = 1_000;

/// None inside: Redis has no such campaign.
type View = SingleFlight<Option<Dated>>;

/// A view, and when it arrived by the isolate's clock. Redis made it before that, and after it was asked.
#[derive(Debug, Clone)]
struct Dated {
    view: CampaignView,
    arrived: Millis,
}

/// The ids that Redis knows.
type Known = Rc<BTreeSet<CampaignId>>;

/// Owns the last view of each campaign that was asked for, the marks of those that this isolate has seen in Redis, and
/// the ids that Redis knows. One request a second asks Redis for all.
pub struct CampaignCache<H> {
    redis: RedisRest<H>,
    /// How long a request waits for a view.
    timeout: Millis,
    views: RefCell<BTreeMap<CampaignId, Rc<View>>>,
    marks: Marks,
    known: Rc<SingleFlight<Known>>,
    telemetry: Rc<Telemetry>,
}

impl<H: Http + 'static> CampaignCache<H> {
    #[must_use]
    pub fn new(redis: RedisRest<H>, redis_deadline: Millis, telemetry: Rc<Telemetry>) -> Self {
        let timeout = redis_deadline + Millis(500);
        let (views, marks, known) = (RefCell::default(), Marks::default(), Rc::default());
        Self { redis, timeout, views, marks, known, telemetry }
    }

    #[must_use]
    pub fn has_seen(&self, campaign: &CampaignId) -> bool {
        self.marks.has_seen(campaign)
    }

    /// Redis has the campaign, with these values, in a reply to a question of time `asked`.
    pub fn saw<P: Platform>(&self, campaign: &CampaignId, growing: Growing, asked: Millis, platform: &P) {
        if let Some(before) = self.marks.observe(campaign, growing, asked, platform.now()) {
            let detail = format!(
                "campaign {campaign}: {before:?} was seen, and now {growing:?}: Redis has lost acknowledged writes; run \
                 `issuer verify {campaign}`"
            );
            let fault = Fault::unknown(Source::Redis, labels::fault::WENT_BACK, detail);
            self.telemetry.record_fault(Activity::Request, &fault, platform);
        }
    }

    /// Whether denials of the campaign are withheld.
    #[must_use]
    pub fn is_distrusted(&self, campaign: &CampaignId, now: Millis) -> bool {
        self.marks.is_distrusted(campaign, now)
    }

    /// The problem to report in place of a denial by Redis: while Redis may have lost the admission that the denial
    /// contradicts, the outcome is unknown.
    #[must_use]
    pub fn denial(&self, campaign: &CampaignId, denial: Problem, now: Millis) -> Problem {
        if self.is_distrusted(campaign, now) { Problem::Unavailable } else { denial }
    }

    /// The problem of a campaign that Redis does not have. It is unknown only if Redis knows campaigns and this is none
    /// of them. A campaign does not cease to exist: one that was seen, or is in the set, or any while the set is missing
    /// as a whole, is lost, and until the operator publishes it again no response may say that it is unknown.
    ///
    /// # Errors
    /// [`Fault`] where Redis gives no answer.
    pub async fn missing<P: Platform>(self: &Rc<Self>, campaign: &CampaignId, platform: &P) -> Result<Problem, Fault> {
        if self.has_seen(campaign) {
            return Ok(Problem::Unavailable);
        }
        let cache = Rc::clone(self);
        let fetch = |platform: P| async move {
            let asked = platform.now();
            let result = published_campaigns(&cache.redis).await;
            if result.as_ref().is_ok_and(Vec::is_empty) {
                let prefix = cache.redis.prefix().as_str();
                let detail = format!(
                    "Redis has no campaign under the prefix {prefix}: nothing is published, Redis has lost everything, \
                     or REDIS_KEY_PREFIX is another one at the issuer"
                );
                let fault = Fault::none(Source::Redis, labels::fault::NO_CAMPAIGNS, true, detail);
                cache.telemetry.record_fault(Activity::Request, &fault, &platform);
            }
            cache.known.complete(asked, platform.now(), result.map(|ids| Rc::new(ids.into_iter().collect())));
        };
        let (_, known) = self.wait(&self.known, fetch, platform).await?;
        Ok(missing_among(&known, campaign))
    }

    /// The response without any call, if a fresh view is there.
    ///
    /// # Errors
    /// [`Problem`] where Redis has no such campaign.
    pub fn cached(&self, campaign: &CampaignId, now: Millis) -> Option<Result<Response, Problem>> {
        let (asked, view) = self.views.borrow().get(campaign)?.fresh(now, FRESH)?;
        match view {
            Some(view) => Some(Ok(response(&view, asked, now))),
            None if self.has_seen(campaign) => Some(Err(Problem::Unavailable)),
            None => self.known.fresh(now, FRESH).map(|(_, known)| Err(missing_among(&known, campaign))),
        }
    }

    /// The response, after a call where no view is fresh.
    ///
    /// # Errors
    /// [`Rejection`] where Redis has no such campaign, or gives no answer.
    pub async fn get<P: Platform>(self: &Rc<Self>, campaign: &CampaignId, platform: &P) -> Result<Response, Rejection> {
        let view = self.view(campaign, platform.now());
        let fetch = |platform| Rc::clone(self).fetch(campaign.clone(), Rc::clone(&view), platform);
        match self.wait(&view, fetch, platform).await? {
            (asked, Some(view)) => Ok(response(&view, asked, platform.now())),
            (_, None) => Err(self.missing(campaign, platform).await?.into()),
        }
    }

    /// The fresh value of `flight`, once this request or another has fetched it.
    async fn wait<P: Platform, T: Clone, W: Future<Output = ()> + 'static>(
        &self,
        flight: &SingleFlight<T>,
        fetch: impl FnOnce(P) -> W + Clone,
        platform: &P,
    ) -> Result<(Millis, T), Fault> {
        let began = platform.now();
        let deadline = began + self.timeout;
        loop {
            let now = platform.now();
            if let Some(fresh) = flight.fresh(now, FRESH) {
                return Ok(fresh);
            }
            if let Some(fault) = flight.fault_since(began) {
                return Err(fault);
            }
            if now >= deadline {
                let detail = "no reply to another request in time";
                return Err(Fault::none(Source::Redis, labels::fault::NO_RESULT, true, detail));
            }
            if flight.try_lead(now, self.timeout) {
                // In the background: a client that disconnects must not strand the others.
                platform.spawn(fetch.clone()(platform.clone()));
            }
            flight.ended(deadline, platform).await;
        }
    }

    async fn fetch<P: Platform>(self: Rc<Self>, campaign: CampaignId, view: Rc<View>, platform: P) {
        let asked = platform.now();
        let result = campaign_view(&self.redis, &campaign).await;
        if let Ok(Some(view)) = &result {
            let growing = Growing { version: view.version, last_ms: Some(view.meta.last_ms), slots: None };
            self.saw(&campaign, growing, asked, &platform);
        }
        let arrived = platform.now();
        view.complete(asked, arrived, result.map(|view| view.map(|view| Dated { view, arrived })));
    }

    fn view(&self, campaign: &CampaignId, now: Millis) -> Rc<View> {
        let mut views = self.views.borrow_mut();
        if views.len() >= LIMIT && !views.contains_key(campaign) {
            views.retain(|_, view| view.is_fetching(now) || view.fresh(now, FRESH).is_some());
            if views.len() >= LIMIT {
                views.clear();
            }
        }
        Rc::clone(views.entry(campaign.clone()).or_default())
    }
}

/// The problem of a campaign that Redis does not have, where these are all that it knows.
fn missing_among(known: &BTreeSet<CampaignId>, campaign: &CampaignId) -> Problem {
    if known.is_empty() || known.contains(campaign) { Problem::Unavailable } else { Problem::UnknownCampaign }
}

/// The response at `at`, to a view for which Redis was asked at `asked`. Redis's clock was read between question and reply, so now it shows at least `now`: a page that
/// counts down by that never opens early, however far Redis is. `server_time_latest` bounds the error.
fn response(Dated { view, arrived }: &Dated, asked: Millis, at: Millis) -> Response {
    let CampaignSettings { state, capacity, opens_ms, closes_ms } = view.meta.settings;
    let now = Millis(view.now_ms) + (at - *arrived);
    let latest = Millis(view.now_ms) + (at - asked);
    let remaining = capacity.saturating_sub(view.meta.count);
    let state = if state != CampaignState::Open {
        state.as_str()
    } else if closes_ms > 0 && now >= Millis(closes_ms) {
        "closed"
    } else if now < Millis(opens_ms) {
        "not-open"
    } else if remaining == 0 {
        "sold-out"
    } else {
        "open"
    };
    let body = json!({
        "state": state,
        "capacity": capacity,
        "remaining": remaining,
        "opens_at": opens_ms,
        "closes_at": if closes_ms > 0 { Value::from(closes_ms) } else { Value::Null },
        "server_time": now,
        "server_time_latest": latest,
    });
    Response::json(200, Outcome::Campaign, &body).replace("cache-control", "public, max-age=1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_shared::campaign::CampaignMeta;
    use dropgate_shared::http::{HttpRequest, HttpResponse, SendFault};

    struct NoNetwork;

    impl Http for NoNetwork {
        async fn post(&self, _: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
            Err(SendFault { may_have_arrived: false, label: "transport", detail: String::new() })
        }
    }

    #[test]
    fn the_shown_state_follows_the_clock() {
        let view = |state, count| CampaignView {
            meta: CampaignMeta {
                settings: CampaignSettings { state, capacity: 3, opens_ms: 1_000, closes_ms: 2_000 },
                count,
                last_ms: 0,
                version: 0,
                code_key: None,
            },
            now_ms: 900,
            version: None,
        };
        let body = |view: &CampaignView, age_ms: u64| {
            let dated = Dated { view: view.clone(), arrived: Millis(300) };
            serde_json::from_str::<Value>(&response(&dated, Millis(0), Millis(300 + age_ms)).body).unwrap()
        };
        let open = view(CampaignState::Open, 1);
        for (age_ms, state) in [(0, "not-open"), (99, "not-open"), (100, "open"), (1_099, "open"), (1_100, "closed")] {
            assert_eq!(body(&open, age_ms)["state"], state, "after {age_ms} ms");
        }
        assert_eq!(&body(&open, 50)["remaining"], &json!(2));
        // However long Redis took to reply: nothing counts as passed that may not have.
        assert_eq!(
            (&body(&open, 50)["server_time"], &body(&open, 50)["server_time_latest"]),
            (&json!(950), &json!(1_250))
        );
        assert_eq!(body(&view(CampaignState::Open, 3), 100)["state"], "sold-out");
        assert_eq!(body(&view(CampaignState::Paused, 1), 100)["state"], "paused");
    }

    #[test]
    fn made_up_ids_do_not_fill_the_cache() {
        let redis = RedisRest::new(NoNetwork, "http://redis", "token", 1_000, false);
        let cache = CampaignCache::new(redis, Millis(1_000), Rc::new(Telemetry::new(0.0, false)));
        for n in 0..5_000_u64 {
            let view = cache.view(&CampaignId::parse(&format!("made-up-{n}")).unwrap(), Millis(n));
            view.complete(Millis(n), Millis(n), Ok(None));
        }
        assert!(cache.views.borrow().len() <= LIMIT);
    }
}
