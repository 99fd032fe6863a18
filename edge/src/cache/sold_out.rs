//! What an isolate remembers of campaigns that are sold out: enough to send strangers away without
//! any call.
//!
//! Once a campaign is sold out its set of holders no longer changes, so it is fetched once, as
//! fingerprints. With every "full" Redis tells a mark of the set; while that is the mark of the set
//! that was fetched, the set is complete. A fingerprint that is found goes to Redis for the truth.
//!
//! What was told is believed for less than two seconds. That is the window in which a raised capacity
//! is not yet seen here, and whoever was admitted by another isolate after such a raise is a stranger.

use crate::upstream::admission::HoldersVersion;
use dropgate_shared::ids::{CampaignId, UserId};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How long "sold out" holds from the moment Redis was asked, ms.
const HOLDS_MS: u64 = 800;
/// How long after that a claim may begin to ask again on behalf of all, ms. Later, each asks.
const STALE_MS: u64 = 200;
/// While one claim asks again, the others are answered from memory for this long, ms.
const GRACE_MS: u64 = 600;
/// Between two tries to fetch the holders, ms.
const FETCH_MS: u64 = 1_000;
/// Beyond so many claims an isolate does not keep the holders, and every claim asks Redis.
const MOST_HOLDERS: u64 = 100_000;

#[derive(Debug)]
struct Campaign {
    deadline_ms: u64,
    /// Somebody asks Redis again; until then the memory is good for the others.
    asked_until_ms: u64,
    /// The mark that Redis told last.
    held: HoldersVersion,
    holders: HashSet<u64>,
    /// The mark at which the holders were fetched.
    fetched: Option<HoldersVersion>,
    fetching_until_ms: u64,
}

impl Campaign {
    fn complete(&self) -> bool {
        self.fetched == Some(self.held)
    }
}

/// The memory of one isolate. Only campaigns that Redis knows are in it, so it is bounded by those.
#[derive(Debug, Default)]
pub struct SoldOut(RefCell<BTreeMap<CampaignId, Campaign>>);

fn fingerprint(user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}

impl SoldOut {
    /// Whether `user` surely holds nothing of this campaign, and it is sold out. False: ask Redis.
    #[must_use]
    pub fn is_sold_out_for(&self, campaign: &CampaignId, user: &UserId, now_ms: u64) -> bool {
        self.0.borrow().get(campaign).is_some_and(|known| {
            known.complete()
                && (now_ms < known.deadline_ms || now_ms < known.asked_until_ms)
                && !known.holders.contains(&fingerprint(user.as_str()))
        })
    }

    /// A claim of `user` goes to Redis, his token is good as far as can be told without I/O: where the memory is just
    /// out of date and he is a stranger, those who come meanwhile need not ask too.
    pub fn begin_refresh(&self, campaign: &CampaignId, user: &UserId, now_ms: u64) {
        if let Some(known) = self.0.borrow_mut().get_mut(campaign)
            && known.complete()
            && !known.holders.contains(&fingerprint(user.as_str()))
            && known.asked_until_ms <= now_ms
            && (known.deadline_ms..known.deadline_ms.saturating_add(STALE_MS)).contains(&now_ms)
        {
            known.asked_until_ms = now_ms.saturating_add(GRACE_MS);
        }
    }

    /// Redis, asked at `asked_ms`, said "full" and told the mark of the holders. True if the caller
    /// shall fetch them.
    #[must_use]
    pub fn record_full(&self, campaign: &CampaignId, held: HoldersVersion, asked_ms: u64) -> bool {
        let mut campaigns = self.0.borrow_mut();
        let known = campaigns.entry(campaign.clone()).or_insert_with(|| Campaign {
            deadline_ms: 0,
            asked_until_ms: 0,
            held,
            holders: HashSet::new(),
            fetched: None,
            fetching_until_ms: 0,
        });
        known.deadline_ms = known.deadline_ms.max(asked_ms.saturating_add(HOLDS_MS));
        known.held = held;
        let fetch = !known.complete() && held.claims <= MOST_HOLDERS && known.fetching_until_ms <= asked_ms;
        if fetch {
            known.fetching_until_ms = asked_ms.saturating_add(FETCH_MS);
        }
        fetch
    }

    /// Redis admitted somebody: not sold out, or no longer.
    pub fn clear(&self, campaign: &CampaignId) {
        self.0.borrow_mut().remove(campaign);
    }

    /// The holders, fetched after Redis told the mark `held`. Used only if there are as many as that
    /// says: two users of one fingerprint, or a claim more or less, leave the set incomplete.
    pub fn set_holders<'a>(&self, campaign: &CampaignId, held: HoldersVersion, users: impl Iterator<Item = &'a str>) {
        if let Some(known) = self.0.borrow_mut().get_mut(campaign) {
            known.holders = users.map(fingerprint).collect();
            let count = u64::try_from(known.holders.len()).ok();
            known.fetched = (count == Some(held.claims)).then_some(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: HoldersVersion = HoldersVersion { claims: 2, last_ms: 7 };

    fn id() -> CampaignId {
        CampaignId::parse("a").unwrap()
    }

    fn stranger(memory: &SoldOut, user: &str, now_ms: u64) -> bool {
        let user = UserId::parse(user).unwrap();
        let stranger = memory.is_sold_out_for(&id(), &user, now_ms);
        if !stranger {
            memory.begin_refresh(&id(), &user, now_ms);
        }
        stranger
    }

    fn sold_out() -> SoldOut {
        let memory = SoldOut::default();
        assert!(memory.record_full(&id(), TWO, 0));
        memory.set_holders(&id(), TWO, ["h1", "h2"].into_iter());
        memory
    }

    #[test]
    fn strangers_are_known_only_with_the_whole_set_of_holders() {
        let memory = SoldOut::default();
        assert!(!stranger(&memory, "s", 0));
        assert!(memory.record_full(&id(), TWO, 0));
        assert!(!memory.record_full(&id(), TWO, 0), "fetched twice at once");
        assert!(!stranger(&memory, "s", 0));
        memory.set_holders(&id(), TWO, ["h1"].into_iter());
        assert!(!stranger(&memory, "s", 0), "an incomplete set was used");
        assert!(!memory.record_full(&id(), TWO, 999), "fetched again at once");
        assert!(memory.record_full(&id(), TWO, 1_000));
        memory.set_holders(&id(), TWO, ["h1", "h2"].into_iter());
        assert!(stranger(&memory, "s", 1_000));
    }

    #[test]
    fn holders_always_ask() {
        let memory = sold_out();
        assert!(!stranger(&memory, "h1", 0) && !stranger(&memory, "h2", 799));
    }

    #[test]
    fn a_change_among_the_holders_ends_the_memory() {
        for changed in [HoldersVersion { claims: 3, ..TWO }, HoldersVersion { last_ms: 8, ..TWO }] {
            let memory = sold_out();
            assert!(stranger(&memory, "s", 10));
            let _ = memory.record_full(&id(), changed, 10);
            assert!(!stranger(&memory, "s", 10), "{changed:?}");
        }
    }

    #[test]
    fn one_asks_again_while_the_others_are_answered_but_never_for_two_seconds() {
        let memory = sold_out();
        assert!(stranger(&memory, "s", 799));
        assert!(!stranger(&memory, "s", 800), "nobody asked again");
        assert!(stranger(&memory, "s", 801));
        assert!(stranger(&memory, "s", 1_399));
        assert!(!stranger(&memory, "s", 1_400), "nobody answered, and the memory went on");

        let memory = sold_out();
        assert!(!stranger(&memory, "s", 999));
        assert!(stranger(&memory, "s", 1_598));
        assert!((1_599..10_000).all(|now_ms| !stranger(&memory, "s", now_ms)));
    }

    #[test]
    fn an_answer_that_nothing_changed_prolongs_it_without_fetching() {
        let memory = sold_out();
        assert!(!memory.record_full(&id(), TWO, 900), "the same holders were fetched again");
        assert!(stranger(&memory, "s", 1_699));
    }

    #[test]
    fn an_admission_ends_it() {
        let memory = sold_out();
        memory.clear(&id());
        assert!(!stranger(&memory, "s", 1));
    }
}
