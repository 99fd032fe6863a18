//! What an isolate remembers of sold-out campaigns: enough to answer 410 without any call.
//!
//! Once a campaign is sold out its set of holders does not change, so an isolate fetches the set once, as fingerprints.
//! Each "full" of Redis comes with the version of the set. While that equals the version at which the fingerprints were
//! fetched, the set is *complete*: a user without a fingerprint in it holds no claim. A user with one may hold one, so
//! their claim goes to Redis.
//!
//! The memory answers for less than two seconds after Redis was last asked: a raised capacity, and a user whom another
//! isolate admits after it, are not seen here for that long. The age counts from the moment at which Redis was asked
//! ("full" or "refresh" set it back):
//!
//! | age | while no claim refreshes | after a claim began to refresh (lasts `REFRESH`) |
//! |---|---|---|
//! | up to `FRESH` (0.8 s) | answers | - |
//! | then for `STALE` (0.2 s) | the next claim goes to Redis for all: it begins to refresh | answers |
//! | later (1.0 s) | every claim goes to Redis | answers until the refresh is 0.6 s old (1.6 s in all) |
//!
//! A "full" starts again from age 0. An admission removes the entry. An incomplete set answers nobody, whatever its age.

use crate::upstream::admission::HoldersVersion;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::time::Millis;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How long "full" holds from the moment Redis was asked.
const FRESH: Millis = Millis(800);
/// How long after that one claim may refresh it for all.
const STALE: Millis = Millis(200);
/// How long the others are answered from memory while one claim refreshes it.
const REFRESH: Millis = Millis(600);
/// Time between two attempts to fetch the holders.
const FETCH_INTERVAL: Millis = Millis(1_000);
/// With more claims than this an isolate does not keep the holders, and every claim goes to Redis.
const HOLDERS_LIMIT: u64 = 100_000;

#[derive(Debug)]
struct Entry {
    fresh_until: Millis,
    refresh_until: Millis,
    /// The version that came with the last "full".
    version: HoldersVersion,
    holders: HashSet<u64>,
    /// The version at which `holders` were fetched, if as many were found as it says.
    fetched: Option<HoldersVersion>,
    /// No other fetch begins before.
    fetch_reserved_until: Millis,
}

impl Entry {
    /// Whether a user without a fingerprint holds no claim.
    fn is_complete(&self) -> bool {
        self.fetched == Some(self.version)
    }

    /// Whether `user` certainly holds no claim.
    fn excludes(&self, user: &UserId) -> bool {
        self.is_complete() && !self.holders.contains(&fingerprint(user.as_str()))
    }
}

/// Owns the entries of one isolate. Only campaigns that Redis knows have one, so their number is bounded by those.
#[derive(Debug, Default)]
pub struct SoldOutMemory(RefCell<BTreeMap<CampaignId, Entry>>);

fn fingerprint(user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}

impl SoldOutMemory {
    /// Whether the campaign is sold out and `user` certainly holds no claim. False: ask Redis.
    #[must_use]
    pub fn is_sold_out_for(&self, campaign: &CampaignId, user: &UserId, now: Millis) -> bool {
        let entries = self.0.borrow();
        entries
            .get(campaign)
            .is_some_and(|entry| (now < entry.fresh_until || now < entry.refresh_until) && entry.excludes(user))
    }

    /// Called when a claim of `user` is about to go to Redis: if it goes there only because the memory is stale, it
    /// refreshes the memory for all others. Only a claim whose token is valid, as far as that is known without I/O, may:
    /// it must be certain that Redis will be asked.
    pub fn begin_refresh(&self, campaign: &CampaignId, user: &UserId, now: Millis) {
        if let Some(entry) = self.0.borrow_mut().get_mut(campaign)
            && entry.refresh_until <= now
            && (entry.fresh_until..entry.fresh_until + STALE).contains(&now)
            && entry.excludes(user)
        {
            entry.refresh_until = now + REFRESH;
        }
    }

    /// Redis, asked at `asked`, answered "full" with the version of the holders. Returns whether the caller shall fetch
    /// them now.
    #[must_use]
    pub fn record_full(&self, campaign: &CampaignId, version: HoldersVersion, asked: Millis) -> bool {
        let mut entries = self.0.borrow_mut();
        let entry = entries.entry(campaign.clone()).or_insert_with(|| Entry {
            fresh_until: Millis(0),
            refresh_until: Millis(0),
            version,
            holders: HashSet::new(),
            fetched: None,
            fetch_reserved_until: Millis(0),
        });
        // Of two calls the later reply may belong to the earlier question.
        entry.fresh_until = entry.fresh_until.max(asked + FRESH);
        entry.version = version;
        let fetch = !entry.is_complete() && version.claims <= HOLDERS_LIMIT && entry.fetch_reserved_until <= asked;
        if fetch {
            entry.fetch_reserved_until = asked + FETCH_INTERVAL;
        }
        fetch
    }

    /// Redis admitted a user: the campaign is not sold out, or no longer.
    pub fn clear(&self, campaign: &CampaignId) {
        self.0.borrow_mut().remove(campaign);
    }

    /// Sets the holders, which were fetched after Redis returned `version`. They are used only if there are as many as
    /// the version says: with two users of one fingerprint, or a claim more or less, the set stays incomplete.
    pub fn set_holders<'a>(
        &self,
        campaign: &CampaignId,
        version: HoldersVersion,
        users: impl Iterator<Item = &'a str>,
    ) {
        if let Some(entry) = self.0.borrow_mut().get_mut(campaign) {
            entry.holders = users.map(fingerprint).collect();
            let count = u64::try_from(entry.holders.len()).ok();
            entry.fetched = (count == Some(version.claims)).then_some(version);
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

    fn record_full(memory: &SoldOutMemory, version: HoldersVersion, asked_ms: u64) -> bool {
        memory.record_full(&id(), version, Millis(asked_ms))
    }

    /// What the gate does for a claim: the memory answers, or the claim goes to Redis.
    fn answers(memory: &SoldOutMemory, user: &str, now_ms: u64) -> bool {
        let (user, now) = (UserId::parse(user).unwrap(), Millis(now_ms));
        let answers = memory.is_sold_out_for(&id(), &user, now);
        if !answers {
            memory.begin_refresh(&id(), &user, now);
        }
        answers
    }

    fn sold_out() -> SoldOutMemory {
        let memory = SoldOutMemory::default();
        assert!(record_full(&memory, TWO, 0));
        memory.set_holders(&id(), TWO, ["h1", "h2"].into_iter());
        memory
    }

    #[test]
    fn answers_only_with_the_whole_set_of_holders() {
        let memory = SoldOutMemory::default();
        assert!(!answers(&memory, "s", 0));
        assert!(record_full(&memory, TWO, 0));
        assert!(!record_full(&memory, TWO, 0), "fetched twice at once");
        assert!(!answers(&memory, "s", 0));
        memory.set_holders(&id(), TWO, ["h1"].into_iter());
        assert!(!answers(&memory, "s", 0), "an incomplete set was used");
        assert!(!record_full(&memory, TWO, 999), "fetched again at once");
        assert!(record_full(&memory, TWO, 1_000));
        memory.set_holders(&id(), TWO, ["h1", "h2"].into_iter());
        assert!(answers(&memory, "s", 1_000));
    }

    #[test]
    fn claims_of_holders_go_to_redis() {
        let memory = sold_out();
        assert!(!answers(&memory, "h1", 0) && !answers(&memory, "h2", 799));
    }

    #[test]
    fn a_change_among_the_holders_ends_the_memory() {
        for changed in [HoldersVersion { claims: 3, ..TWO }, HoldersVersion { last_ms: 8, ..TWO }] {
            let memory = sold_out();
            assert!(answers(&memory, "s", 10));
            let _ = record_full(&memory, changed, 10);
            assert!(!answers(&memory, "s", 10), "{changed:?}");
        }
    }

    #[test]
    fn one_refreshes_while_the_others_are_answered_but_never_for_two_seconds() {
        let memory = sold_out();
        assert!(answers(&memory, "s", 799));
        assert!(!answers(&memory, "s", 800), "no claim refreshed it");
        assert!(answers(&memory, "s", 801));
        assert!(answers(&memory, "s", 1_399));
        assert!(!answers(&memory, "s", 1_400), "no reply came, and the memory went on");

        let memory = sold_out();
        assert!(!answers(&memory, "s", 999));
        assert!(answers(&memory, "s", 1_598));
        assert!((1_599..10_000).all(|now_ms| !answers(&memory, "s", now_ms)));
    }

    #[test]
    fn a_full_of_the_same_version_extends_it_without_a_fetch() {
        let memory = sold_out();
        assert!(!record_full(&memory, TWO, 900), "the same holders were fetched again");
        assert!(answers(&memory, "s", 1_699));
    }

    #[test]
    fn an_admission_ends_it() {
        let memory = sold_out();
        memory.clear(&id());
        assert!(!answers(&memory, "s", 1));
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    const USERS: usize = 8;
    /// The greatest age of an answer from memory, as the table at the top says.
    const OLDEST_MS: u64 = 1_600;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Pass(u64),
        /// A user claims at this isolate: the memory answers, or Redis does.
        Claim(usize),
        /// Another isolate admits a user, if a slot is left.
        ElsewhereAdmitted(usize),
        Raised,
        /// The holders, as Redis had them at the last "full", arrive; or one is missing.
        HoldersFetched {
            is_whole: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u64..700).prop_map(Step::Pass),
            6 => (0..USERS).prop_map(Step::Claim),
            2 => (0..USERS).prop_map(Step::ElsewhereAdmitted),
            1 => Just(Step::Raised),
            2 => any::<bool>().prop_map(|is_whole| Step::HoldersFetched { is_whole }),
        ]
    }

    proptest! {
        /// I5, I8: a 410 from memory was true not long ago: at some moment of the last 1.6 s the campaign was full, and
        /// the user held no claim.
        #[test]
        fn a_410_from_memory_was_true_not_long_ago(steps in prop::collection::vec(step(), 1..120)) {
            let campaign = CampaignId::parse("a").unwrap();
            let user = |n: usize| UserId::parse(&format!("u{n}")).unwrap();
            let memory = SoldOutMemory::default();
            let (mut capacity, mut holders, mut last_ms, mut now) = (2, Vec::<usize>::new(), 0, 10_000_u64);
            // When the answer was last true, for each user.
            let mut true_at = [0_u64; USERS];
            let mut fetching: Option<(HoldersVersion, Vec<usize>)> = None;
            for step in steps {
                match step {
                    Step::Pass(ms) => now += ms,
                    Step::Claim(n) => {
                        if memory.is_sold_out_for(&campaign, &user(n), Millis(now)) {
                            prop_assert!(now - true_at[n] < OLDEST_MS, "u{} at {}, true at {}", n, now, true_at[n]);
                            continue;
                        }
                        memory.begin_refresh(&campaign, &user(n), Millis(now));
                        if holders.contains(&n) {
                            continue;
                        }
                        if holders.len() < capacity {
                            holders.push(n);
                            last_ms = now;
                            memory.clear(&campaign);
                        } else {
                            let version = HoldersVersion { claims: holders.len() as u64, last_ms };
                            if memory.record_full(&campaign, version, Millis(now)) {
                                fetching = Some((version, holders.clone()));
                            }
                        }
                    }
                    Step::ElsewhereAdmitted(n) => {
                        if holders.len() < capacity && !holders.contains(&n) {
                            holders.push(n);
                            // No two admissions of a campaign are told apart by less.
                            now += 1;
                            last_ms = now;
                        }
                    }
                    Step::Raised => capacity += 1,
                    Step::HoldersFetched { is_whole } => {
                        if let Some((version, users)) = fetching.take() {
                            let names: Vec<String> = users.iter().map(|n| format!("u{n}")).collect();
                            let names = names.iter().map(String::as_str).skip(usize::from(!is_whole));
                            memory.set_holders(&campaign, version, names);
                        }
                    }
                }
                for (n, at) in true_at.iter_mut().enumerate() {
                    if holders.len() >= capacity && !holders.contains(&n) {
                        *at = now;
                    }
                }
            }
        }
    }
}
