//! What an isolate remembers of campaigns that visitors look at: fetched once a second for all of
//! them.

use crate::cache::single_flight::SingleFlight;
use crate::http::response::Response;
use crate::upstream::admission::CampaignMeta;
use dropgate_shared::ids::CampaignId;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a look holds, ms.
pub const HOLDS_MS: u64 = 1_000;
/// Campaigns remembered at most: anybody can make up ids.
const MOST: usize = 1_000;

/// A look at one campaign; none inside where Redis knows no such campaign.
pub type Look = SingleFlight<Option<CampaignMeta>>;

/// The looks of one isolate.
#[derive(Debug, Default)]
pub struct Campaigns(RefCell<BTreeMap<CampaignId, Rc<Look>>>);

impl Campaigns {
    /// The last look at `campaign`, if it still holds, and how old it is in ms.
    #[must_use]
    pub fn fresh(&self, campaign: &CampaignId, now_ms: u64) -> Option<(u64, Option<CampaignMeta>)> {
        let (asked_ms, meta) = self.0.borrow().get(campaign)?.fresh(now_ms, HOLDS_MS)?;
        Some((now_ms.saturating_sub(asked_ms), meta))
    }

    /// Where looks at `campaign` are kept.
    #[must_use]
    pub fn of(&self, campaign: &CampaignId, now_ms: u64) -> Rc<Look> {
        let mut looks = self.0.borrow_mut();
        if looks.len() >= MOST && !looks.contains_key(campaign) {
            looks.retain(|_, look| look.fetching(now_ms) || look.fresh(now_ms, HOLDS_MS).is_some());
            if looks.len() >= MOST {
                looks.clear();
            }
        }
        Rc::clone(looks.entry(campaign.clone()).or_default())
    }
}

impl CampaignMeta {
    /// The answer to whoever looks at the campaign, `age_ms` after Redis was asked.
    #[must_use]
    pub fn response(&self, age_ms: u64) -> Response {
        let now_ms = self.now_ms.saturating_add(age_ms);
        let remaining = self.capacity.saturating_sub(self.count);
        let over = self.closes_ms > 0 && now_ms >= self.closes_ms;
        let state = if self.state != "open" {
            self.state.as_str()
        } else if over {
            "closed"
        } else if now_ms < self.opens_ms {
            "not-open"
        } else if remaining == 0 {
            "sold-out"
        } else {
            "open"
        };
        let body = json!({
            "state": state,
            "capacity": self.capacity,
            "remaining": remaining,
            "opens_at": self.opens_ms,
            "closes_at": if self.closes_ms > 0 { Value::from(self.closes_ms) } else { Value::Null },
            "server_time": now_ms,
        });
        let mut response = Response::json(200, "campaign", &body);
        response.headers.retain(|(name, _)| *name != "cache-control");
        response.with("cache-control", "public, max-age=1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_visitor_sees_goes_with_the_clock() {
        let meta = CampaignMeta {
            state: "open".to_owned(),
            capacity: 3,
            count: 1,
            opens_ms: 1_000,
            closes_ms: 2_000,
            now_ms: 900,
        };
        let body = |meta: &CampaignMeta, age_ms| serde_json::from_str::<Value>(&meta.response(age_ms).body).unwrap();
        for (age_ms, state) in [(0, "not-open"), (99, "not-open"), (100, "open"), (1_099, "open"), (1_100, "closed")] {
            assert_eq!(body(&meta, age_ms)["state"], state, "after {age_ms} ms");
        }
        assert_eq!((&body(&meta, 50)["remaining"], &body(&meta, 50)["server_time"]), (&json!(2), &json!(950)));
        assert_eq!(body(&CampaignMeta { count: 3, ..meta.clone() }, 100)["state"], "sold-out");
        assert_eq!(body(&CampaignMeta { state: "paused".to_owned(), ..meta }, 100)["state"], "paused");
    }

    #[test]
    fn made_up_ids_do_not_fill_the_memory() {
        let campaigns = Campaigns::default();
        for n in 0..5_000_u64 {
            let look = campaigns.of(&CampaignId::parse(&format!("made-up-{n}")).unwrap(), n);
            look.complete(n, n, Ok(None));
        }
        assert!(campaigns.0.borrow().len() <= MOST);
    }
}
