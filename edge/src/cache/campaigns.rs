//! What an isolate knows about campaigns.

use crate::cache::single_flight::SingleFlight;
use crate::http::problem::{Problem, Rejection};
use crate::http::response::Response;
use crate::labels::{self, Outcome};
use crate::platform::Platform;
use crate::upstream::admission::{CampaignView, campaign_view};
use dropgate_shared::campaign::{CampaignSettings, CampaignState};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::time::Millis;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long a view is shown.
const FRESH: Millis = Millis(1_000);
/// Campaigns in the cache at most: anybody can make up ids.
const LIMIT: usize = 1_000;
/// Time between two polls for a view that another request fetches, in ms.
const POLL_MS: u32 = 5;

/// None inside: Redis has no such campaign.
type View = SingleFlight<Option<CampaignView>>;

/// Owns the last view of each campaign that was asked for, and the set of those that this isolate has seen in Redis.
/// One request a second asks Redis for all.
pub struct CampaignCache<H> {
    redis: RedisRest<H>,
    /// How long a request waits for a view.
    timeout: Millis,
    views: RefCell<BTreeMap<CampaignId, Rc<View>>>,
    /// Only what Redis returned is added, so made-up ids do not fill it.
    seen: RefCell<BTreeSet<CampaignId>>,
}

impl<H: Http + 'static> CampaignCache<H> {
    #[must_use]
    pub fn new(redis: RedisRest<H>, redis_deadline: Millis) -> Self {
        let timeout = redis_deadline + Millis(500);
        Self { redis, timeout, views: RefCell::default(), seen: RefCell::default() }
    }

    #[must_use]
    pub fn has_seen(&self, campaign: &CampaignId) -> bool {
        self.seen.borrow().contains(campaign)
    }

    pub fn saw(&self, campaign: &CampaignId) {
        if !self.has_seen(campaign) {
            self.seen.borrow_mut().insert(campaign.clone());
        }
    }

    /// The problem of a campaign that Redis does not have. One that was seen does not cease to exist: Redis has lost it,
    /// and until the operator publishes it again no response may say that it is unknown.
    #[must_use]
    pub fn missing(&self, campaign: &CampaignId) -> Problem {
        if self.has_seen(campaign) { Problem::Unavailable } else { Problem::UnknownCampaign }
    }

    /// The response without any call, if a fresh view is there.
    ///
    /// # Errors
    /// [`Problem`] where Redis has no such campaign.
    pub fn cached(&self, campaign: &CampaignId, now: Millis) -> Option<Result<Response, Problem>> {
        let fresh = self.views.borrow().get(campaign)?.fresh(now, FRESH)?;
        Some(self.response(campaign, now, fresh))
    }

    /// The response, after a call where no view is fresh.
    ///
    /// # Errors
    /// [`Rejection`] where Redis has no such campaign, or gives no answer.
    pub async fn get<P: Platform>(self: &Rc<Self>, campaign: &CampaignId, platform: &P) -> Result<Response, Rejection> {
        let began = platform.now();
        let view = self.view(campaign, began);
        loop {
            let now = platform.now();
            if let Some(fresh) = view.fresh(now, FRESH) {
                return Ok(self.response(campaign, now, fresh)?);
            }
            if let Some(fault) = view.fault_since(began) {
                return Err(fault.into());
            }
            if now >= began + self.timeout {
                let detail = "no reply to another request in time";
                return Err(Fault::none(Source::Redis, labels::fault::NO_RESULT, true, detail).into());
            }
            if view.try_lead(now, self.timeout) {
                // In the background: a client that disconnects must not strand the others.
                platform.spawn(Rc::clone(self).fetch(campaign.clone(), Rc::clone(&view), platform.clone()));
            }
            platform.sleep(POLL_MS).await;
        }
    }

    async fn fetch<P: Platform>(self: Rc<Self>, campaign: CampaignId, view: Rc<View>, platform: P) {
        let asked = platform.now();
        let result = campaign_view(&self.redis, &campaign).await;
        if let Ok(Some(_)) = &result {
            self.saw(&campaign);
        }
        view.complete(asked, platform.now(), result);
    }

    fn response(
        &self,
        campaign: &CampaignId,
        now: Millis,
        (asked, view): (Millis, Option<CampaignView>),
    ) -> Result<Response, Problem> {
        view.map(|view| response(&view, now - asked)).ok_or_else(|| self.missing(campaign))
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

/// The response, `age` after Redis was asked.
fn response(view: &CampaignView, age: Millis) -> Response {
    let CampaignSettings { state, capacity, opens_ms, closes_ms } = view.meta.settings;
    let now = Millis(view.now_ms) + age;
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
            },
            now_ms: 900,
        };
        let body =
            |view: &CampaignView, age_ms| serde_json::from_str::<Value>(&response(view, Millis(age_ms)).body).unwrap();
        let open = view(CampaignState::Open, 1);
        for (age_ms, state) in [(0, "not-open"), (99, "not-open"), (100, "open"), (1_099, "open"), (1_100, "closed")] {
            assert_eq!(body(&open, age_ms)["state"], state, "after {age_ms} ms");
        }
        assert_eq!((&body(&open, 50)["remaining"], &body(&open, 50)["server_time"]), (&json!(2), &json!(950)));
        assert_eq!(body(&view(CampaignState::Open, 3), 100)["state"], "sold-out");
        assert_eq!(body(&view(CampaignState::Paused, 1), 100)["state"], "paused");
    }

    #[test]
    fn made_up_ids_do_not_fill_the_cache() {
        let redis = RedisRest::new(NoNetwork, "http://redis", "token", 1_000, false);
        let cache = CampaignCache::new(redis, Millis(1_000));
        for n in 0..5_000_u64 {
            let view = cache.view(&CampaignId::parse(&format!("made-up-{n}")).unwrap(), Millis(n));
            view.complete(Millis(n), Millis(n), Ok(None));
        }
        assert!(cache.views.borrow().len() <= LIMIT);
    }
}
