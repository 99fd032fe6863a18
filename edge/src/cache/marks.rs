//! How an isolate notices that Redis went back in time: a failover to a replica that lacks the last writes, or a restart
//! from a snapshot.
//!
//! Some counters of a campaign only grow. An isolate remembers the greatest values that it has seen. A lower value in a
//! reply to a later question shows that acknowledged writes are lost, and with them perhaps admissions. For a while no
//! denial of this campaign is certain (I5, I8): the lost claims come back with their records, by way of Kafka, MySQL and
//! the issuer's confirmation. Then the lower values are the new marks.

use crate::upstream::admission::Growing;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::time::Millis;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// How long denials are withheld: a sweeper sends what Redis still has after 15 s, and the issuer confirms it.
pub const DISTRUST: Millis = Millis(30_000);

#[derive(Debug, Default)]
struct Seen {
    greatest: Growing,
    /// When that was learned. A reply to an earlier question may have less.
    learned: Millis,
    distrusted_until: Millis,
}

/// Owns the marks of the campaigns that this isolate has seen in Redis, so made-up ids do not fill it.
#[derive(Debug, Default)]
pub struct Marks(RefCell<BTreeMap<CampaignId, Seen>>);

impl Marks {
    /// Takes what a reply to a question of time `asked` shows. Returns what was seen before, if Redis went back in time
    /// since: once for each time.
    #[must_use]
    pub fn observe(&self, campaign: &CampaignId, new: Growing, asked: Millis, now: Millis) -> Option<Growing> {
        let mut all = self.0.borrow_mut();
        if !all.contains_key(campaign) {
            all.insert(campaign.clone(), Seen::default());
        }
        let seen = all.get_mut(campaign)?;
        let before = seen.greatest;
        if new.is_behind(&before) {
            // Several calls are in flight, and their replies come in any order.
            if asked <= seen.learned {
                return None;
            }
            *seen = Seen { greatest: new, learned: now, distrusted_until: now + DISTRUST };
            return Some(before);
        }
        let greatest = Growing {
            version: new.version.or(before.version),
            last_ms: new.last_ms.or(before.last_ms),
            slots: new.slots.or(before.slots),
        };
        if greatest != before {
            (seen.greatest, seen.learned) = (greatest, now);
        }
        None
    }

    #[must_use]
    pub fn has_seen(&self, campaign: &CampaignId) -> bool {
        self.0.borrow().contains_key(campaign)
    }

    /// Whether a denial may contradict an admission that Redis has lost.
    #[must_use]
    pub fn is_distrusted(&self, campaign: &CampaignId, now: Millis) -> bool {
        self.0.borrow().get(campaign).is_some_and(|seen| now < seen.distrusted_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(marks: &Marks, last_ms: u64, asked_ms: u64, now_ms: u64) -> Option<u64> {
        let id = CampaignId::parse("a").unwrap();
        let new = Growing { last_ms: Some(last_ms), ..Growing::default() };
        marks.observe(&id, new, Millis(asked_ms), Millis(now_ms))?.last_ms
    }

    #[test]
    fn a_lower_mark_is_reported_once_and_ends_by_itself() {
        let (marks, id) = (Marks::default(), CampaignId::parse("a").unwrap());
        assert_eq!(observe(&marks, 100, 0, 5), None);
        assert_eq!(observe(&marks, 90, 6, 10), Some(100));
        assert_eq!(observe(&marks, 90, 11, 12), None, "reported twice");
        assert!(marks.is_distrusted(&id, Millis(10)));
        assert!(!marks.is_distrusted(&id, Millis(10) + DISTRUST));
        assert_eq!(observe(&marks, 80, 20, 21), Some(90), "a second time");
    }

    /// Several calls are in flight: a reply to the earlier question may come later.
    #[test]
    fn a_late_reply_to_an_earlier_question_is_no_step_back() {
        let marks = Marks::default();
        assert_eq!(observe(&marks, 100, 3, 5), None);
        assert_eq!(observe(&marks, 90, 4, 6), None);
        assert_eq!(observe(&marks, 90, 5, 6), None, "asked in the same millisecond");
        assert_eq!(observe(&marks, 90, 6, 7), Some(100));
    }

    #[test]
    fn a_lower_version_is_a_step_back_and_a_missing_one_is_none() {
        let (marks, id) = (Marks::default(), CampaignId::parse("a").unwrap());
        let observe = |version, ms| {
            marks.observe(&id, Growing { version, ..Growing::default() }, Millis(ms), Millis(ms)).is_some()
        };
        assert!(!observe(Some(3), 1) && !observe(None, 2) && !observe(Some(3), 3));
        assert!(observe(Some(2), 4));
    }

    /// Redis lost the last admission, and gave its slot to another user: the times alone show nothing.
    #[test]
    fn a_slot_that_is_handed_out_again_is_a_step_back() {
        let (marks, id) = (Marks::default(), CampaignId::parse("a").unwrap());
        let observe = |lowest, highest, ms| {
            let new = Growing { last_ms: Some(ms), slots: Some((lowest, highest)), version: None };
            marks.observe(&id, new, Millis(ms), Millis(ms)).is_some()
        };
        assert!(!observe(1, 2, 1) && !observe(3, 3, 2) && !observe(7, 9, 3), "other isolates hand out slots too");
        assert!(observe(9, 10, 4));
        assert!(!observe(11, 12, 5));
    }
}
