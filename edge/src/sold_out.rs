//! What an isolate remembers of campaigns that are sold out: enough to send strangers away without
//! any call, and never a holder.
//!
//! Once a campaign is sold out its set of holders no longer changes, so it is fetched once, as
//! fingerprints. Redis tells with every "full" how many holders there are: while that number is the
//! one that was fetched, the set is complete. A fingerprint that is found goes to Redis for the truth.

use dropgate_shared::ids::{CampaignId, UserId};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How long "sold out" holds without asking Redis again, ms: a raised capacity is seen after this.
const HOLDS_MS: u64 = 1_000;
/// While one claim asks Redis again, the others are answered from memory for this long, ms.
const GRACE_MS: u64 = 700;
/// How long fetching the holders may take before another request tries, ms.
const FETCH_MS: u64 = 10_000;
/// Beyond so many holders an isolate does not keep them, and every claim asks Redis.
pub const MOST_HOLDERS: u64 = 100_000;

#[derive(Debug, Default)]
struct Campaign {
    until_ms: u64,
    /// Somebody asks Redis again; until then the memory is good for the others.
    asked_until_ms: u64,
    holders: HashSet<u64>,
    fetching_until_ms: u64,
    /// The number of holders that Redis told last.
    held: u64,
}

impl Campaign {
    fn complete(&self) -> bool {
        self.held > 0 && u64::try_from(self.holders.len()).is_ok_and(|known| known == self.held)
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
    pub fn stranger(&self, campaign: &CampaignId, user: &UserId, now_ms: u64) -> bool {
        let mut campaigns = self.0.borrow_mut();
        let Some(known) = campaigns.get_mut(campaign) else { return false };
        if !known.complete() || known.holders.contains(&fingerprint(user.as_str())) {
            return false;
        }
        if now_ms < known.until_ms || now_ms < known.asked_until_ms {
            return true;
        }
        if now_ms < known.until_ms.saturating_add(HOLDS_MS) {
            // This one asks; those who come while it does need not.
            known.asked_until_ms = now_ms.saturating_add(GRACE_MS);
        }
        false
    }

    /// Redis said "full", and how many holders there are. True if the caller shall fetch them.
    #[must_use]
    pub fn full(&self, campaign: &CampaignId, held: u64, now_ms: u64) -> bool {
        let mut campaigns = self.0.borrow_mut();
        let known = campaigns.entry(campaign.clone()).or_default();
        known.until_ms = now_ms.saturating_add(HOLDS_MS);
        known.held = held;
        let fetch = !known.complete() && held <= MOST_HOLDERS && known.fetching_until_ms <= now_ms;
        if fetch {
            known.fetching_until_ms = now_ms.saturating_add(FETCH_MS);
        }
        fetch
    }

    /// Redis admitted somebody: not sold out, or no longer.
    pub fn open(&self, campaign: &CampaignId) {
        self.0.borrow_mut().remove(campaign);
    }

    /// The holders, as fetched. Two users of one fingerprint, or a holder who came meanwhile, leave the
    /// set incomplete, and the memory unused.
    pub fn fetched<'a>(&self, campaign: &CampaignId, users: impl Iterator<Item = &'a str>) {
        if let Some(known) = self.0.borrow_mut().get_mut(campaign) {
            known.holders = users.map(fingerprint).collect();
            known.fetching_until_ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> CampaignId {
        CampaignId::parse("a").unwrap()
    }

    fn stranger(memory: &SoldOut, user: &str, now_ms: u64) -> bool {
        memory.stranger(&id(), &UserId::parse(user).unwrap(), now_ms)
    }

    fn sold_out(now_ms: u64) -> SoldOut {
        let memory = SoldOut::default();
        assert!(memory.full(&id(), 2, now_ms));
        memory.fetched(&id(), ["h1", "h2"].into_iter());
        memory
    }

    #[test]
    fn strangers_are_known_only_with_the_whole_set_of_holders() {
        let memory = SoldOut::default();
        assert!(!stranger(&memory, "s", 0));
        assert!(memory.full(&id(), 2, 0));
        assert!(!memory.full(&id(), 2, 0), "fetched twice at once");
        assert!(!stranger(&memory, "s", 0));
        memory.fetched(&id(), ["h1"].into_iter());
        assert!(!stranger(&memory, "s", 0), "an incomplete set was used");
        assert!(memory.full(&id(), 2, 0));
        memory.fetched(&id(), ["h1", "h2"].into_iter());
        assert!(stranger(&memory, "s", 0));
    }

    #[test]
    fn holders_always_ask() {
        let memory = sold_out(0);
        assert!(!stranger(&memory, "h1", 0) && !stranger(&memory, "h2", 999));
    }

    #[test]
    fn a_holder_that_redis_has_gained_ends_the_memory() {
        let memory = sold_out(0);
        assert!(memory.full(&id(), 3, 10));
        assert!(!stranger(&memory, "s", 10));
    }

    #[test]
    fn after_a_second_one_asks_again_while_the_others_are_answered() {
        let memory = sold_out(0);
        assert!(stranger(&memory, "s", 999));
        assert!(!stranger(&memory, "s", 1_000), "nobody asked again");
        assert!(stranger(&memory, "s", 1_001));
        assert!(stranger(&memory, "s", 1_699));
        assert!(!stranger(&memory, "s", 1_700), "nobody answered, and the memory went on");
        assert!(!memory.full(&id(), 2, 1_750), "the same holders were fetched again");
        assert!(stranger(&memory, "s", 1_751));
    }

    #[test]
    fn memory_that_was_long_unused_is_not_believed() {
        let memory = sold_out(0);
        assert!(!stranger(&memory, "s", 60_000));
        assert!(!stranger(&memory, "t", 60_000));
    }

    #[test]
    fn an_admission_ends_it() {
        let memory = sold_out(0);
        memory.open(&id());
        assert!(!stranger(&memory, "s", 1));
    }
}
