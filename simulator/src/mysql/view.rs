//! What a statement reads without locks: what was committed when it began, and what its own transaction has written
//! (a consistent read at READ COMMITTED).

use super::locks::Trx;
use super::tables::{CouponRow, OfCampaign, RefusalRow, Revision, Tables};
use super::text::Padded;
use dropgate_issuer::store::rows::{
    Campaign, CampaignCounts, CampaignSummary, CouponRow as Coupon, DeadLetterKey, Holder, RefusalRow as Refusal,
    Tally, WaitingRow as Waiting, entry,
};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::ids::Slot;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;

/// The tables as a transaction sees them.
pub(super) struct View<'a> {
    pub(super) tables: &'a Tables,
    pub(super) trx: Trx,
}

impl<'a> View<'a> {
    fn sees(&self, owner: Trx) -> bool {
        owner == Trx::NONE || owner == self.trx
    }

    pub(super) fn newest_allotment(&self, id: &str) -> Option<u32> {
        let of = self.tables.of(id)?;
        of.allotments.iter().rev().find(|(_, row)| self.sees(row.owner)).map(|(capacity, _)| *capacity)
    }

    fn coupon_of(&self, of: &'a OfCampaign, user: &str) -> impl Iterator<Item = &'a CouponRow> {
        let user = Padded::new(user);
        let rows = of.by_user.range((user.clone(), 0)..=(user, u32::MAX));
        rows.map(|(_, row)| &**row).filter(|row| self.sees(row.owner.get()))
    }

    fn refusal_of(&self, of: &'a OfCampaign, user: &str) -> Option<(&'a Padded, &'a RefusalRow)> {
        of.refusals.get_key_value(&Padded::new(user)).filter(|(_, row)| self.sees(row.owner))
    }

    pub(super) fn coupon_slots_of(&self, id: &str, users: &[String]) -> Vec<(String, Slot)> {
        let rows = self.tables.of(id).into_iter().flat_map(|of| users.iter().flat_map(|user| self.coupon_of(of, user)));
        rows.filter_map(|row| Some((row.user.as_str().to_owned(), Slot::new(row.slot).ok()?))).collect()
    }

    pub(super) fn refusal_slots_of(&self, id: &str, users: &[String]) -> Vec<(String, Slot)> {
        let of = self.tables.of(id).into_iter();
        let rows = of.flat_map(|of| users.iter().filter_map(|user| self.refusal_of(of, user)));
        rows.filter_map(|(user, row)| Some((user.as_str().to_owned(), Slot::new(row.proposed_slot).ok()?))).collect()
    }

    pub(super) fn coupons_with_slots(&self, id: &str, slots: &[u32]) -> Vec<Coupon> {
        let of = self.tables.of(id).into_iter();
        of.flat_map(|of| slots.iter().flat_map(|slot| of.by_slot.range((*slot, 0)..=(*slot, u32::MAX))))
            .filter(|(_, row)| self.sees(row.owner.get()))
            .map(|(_, row)| coupon(row))
            .collect()
    }

    pub(super) fn has_refusals(&self, id: &str) -> bool {
        self.refusals(id, "").next().is_some()
    }

    pub(super) fn campaigns_with_refusals(&self) -> Vec<String> {
        let names = self.tables.campaigns.keys().filter(|name| self.has_refusals(name));
        names.map(|name| name.to_string()).collect()
    }

    pub(super) fn waiting_among(&self, id: &str, users: &[String]) -> Vec<String> {
        let of = self.tables.of(id).into_iter();
        let rows =
            of.flat_map(|of| users.iter().filter_map(|user| of.waiting.get_key_value(&Padded::new(user.as_str()))));
        rows.filter(|(_, row)| self.sees(row.owner)).map(|(user, _)| user.as_str().to_owned()).collect()
    }

    pub(super) fn waiting(&self, id: Option<&str>, limit: u32) -> Vec<Waiting> {
        let of_one = |(name, of): (&Rc<str>, &'a OfCampaign)| {
            let waits = |user: &str| self.coupon_of(of, user).next().is_none() && self.refusal_of(of, user).is_none();
            let mut rows: Vec<Waiting> = (of.waiting.iter())
                .filter(|(user, row)| self.sees(row.owner) && waits(user.as_str()))
                .map(|(user, row)| Waiting {
                    campaign_id: name.to_string(),
                    user_id: user.as_str().to_owned(),
                    proposed_slot: row.proposed_slot,
                    code: row.code.to_string(),
                    admitted_at: row.admitted_at,
                })
                .collect();
            // Stable: equal ones stay in the order of the users.
            rows.sort_by_key(|row| row.admitted_at);
            rows
        };
        let all = self.tables.campaigns.iter().filter(|(name, _)| id.is_none_or(|id| id == &***name));
        all.flat_map(of_one).take(limit as usize).collect()
    }

    pub(super) fn taken_slots_up_to(&self, id: &str, top: u32, limit: u32) -> Vec<u32> {
        let rows = self.tables.of(id).into_iter().flat_map(|of| of.by_slot.range(..=(top, u32::MAX)).rev());
        rows.filter(|(_, row)| self.sees(row.owner.get())).map(|(_, row)| row.slot).take(limit as usize).collect()
    }

    pub(super) fn campaign(&self, id: &str) -> Option<Campaign> {
        let row = self.tables.of(id)?.row.as_ref().filter(|row| self.sees(row.owner))?;
        let Revision { state, version, opens_at, closes_at } = row.revision_for(self.trx);
        Some(Campaign { state, version, capacity: self.newest_allotment(id)?, opens_at, closes_at })
    }

    pub(super) fn campaigns(&self) -> Vec<CampaignSummary> {
        let mut all: Vec<_> = self
            .tables
            .campaigns
            .keys()
            .filter_map(|name| {
                let campaign = self.campaign(name)?;
                Some(CampaignSummary { id: name.to_string(), campaign, rows: self.tally(name) })
            })
            .collect();
        // Stable: equal ones stay in the order of their ids.
        all.sort_by_key(|summary| Reverse(summary.campaign.opens_at));
        all
    }

    fn coupons(&self, id: &str) -> impl DoubleEndedIterator<Item = &'a Rc<CouponRow>> {
        let rows = self.tables.of(id).into_iter().flat_map(|of| of.by_slot.values());
        rows.filter(|row| self.sees(row.owner.get()))
    }

    fn refusals(&self, id: &str, after: &str) -> impl Iterator<Item = (&'a Padded, &'a RefusalRow)> {
        let after = Padded::new(after);
        let rows = self.tables.of(id).into_iter().flat_map(move |of| of.refusals.range((Excluded(&after), Unbounded)));
        rows.filter(|(_, row)| self.sees(row.owner))
    }

    pub(super) fn tally(&self, id: &str) -> Tally {
        let refused =
            self.tables.of(id).map_or(0, |of| of.refusals.values().filter(|row| self.sees(row.owner)).count());
        Tally { issued: self.coupons(id).count() as u64, refused: refused as u64 }
    }

    pub(super) fn counts(&self, id: &str) -> Option<CampaignCounts> {
        let capacity = self.newest_allotment(id)?;
        let of = self.tables.of(id)?;
        let tally = self.tally(id);
        let mut users: Vec<&Padded> = self.coupons(id).map(|row| &row.user).collect();
        users.sort_unstable();
        let has_refusal = |user: &Padded| of.refusals.get(user).is_some_and(|row| self.sees(row.owner));
        let both = users.iter().filter(|user| has_refusal(user)).count() as u64;
        users.dedup();
        let beyond = self.coupons(id).filter(|row| !(1..=capacity).contains(&row.slot)).count() as u64;
        let users = users.len() as u64;
        Some(CampaignCounts { capacity, coupons: tally.issued, users, beyond, refusals: tally.refused, both })
    }

    pub(super) fn coupons_after(&self, id: &str, after: Option<u32>, limit: u32) -> Vec<Coupon> {
        let from = after.map_or(0, |after| u64::from(after) + 1);
        let rows = self.coupons(id).filter(|row| u64::from(row.slot) >= from).take(limit as usize);
        rows.map(|row| coupon(row)).collect()
    }

    pub(super) fn refusals_after(&self, id: &str, after: &str, limit: u32) -> Vec<Refusal> {
        let rows = self.refusals(id, after).take(limit as usize);
        rows.map(|(user, row)| Refusal {
            user_id: user.as_str().to_owned(),
            proposed_slot: row.proposed_slot,
            reason: row.reason.to_string(),
            admitted_at: row.admitted_at,
            refused_at: row.refused_at,
        })
        .collect()
    }

    pub(super) fn refused_after(&self, id: &str, after: &str, limit: u32) -> Vec<Holder> {
        let Some(of) = self.tables.of(id) else { return Vec::new() };
        self.refusals(id, after)
            .filter(|(user, _)| self.coupon_of(of, user.as_str()).next().is_none())
            .take(limit as usize)
            .filter_map(|(user, row)| {
                Some((user.as_str().to_owned(), entry(row.proposed_slot, row.admitted_at, ClaimStatus::Refused)?))
            })
            .collect()
    }

    /// The users of `users` who have a refusal, with their entries.
    pub(super) fn settled_refusals(&self, id: &str, users: &[String]) -> HashMap<String, ClaimEntry> {
        let of = self.tables.of(id).into_iter();
        let rows = of.flat_map(|of| users.iter().filter_map(|user| self.refusal_of(of, user)));
        rows.filter_map(|(user, row)| {
            Some((user.as_str().to_owned(), entry(row.proposed_slot, row.admitted_at, ClaimStatus::Refused)?))
        })
        .collect()
    }

    /// The users of `users` who have a coupon, with their entries.
    pub(super) fn settled_coupons(&self, id: &str, users: &[String]) -> HashMap<String, ClaimEntry> {
        let rows = self.tables.of(id).into_iter().flat_map(|of| users.iter().flat_map(|user| self.coupon_of(of, user)));
        rows.filter_map(|row| {
            Some((row.user.as_str().to_owned(), entry(row.slot, row.admitted_at, ClaimStatus::Issued)?))
        })
        .collect()
    }

    pub(super) fn replayed(&self, keys: &[DeadLetterKey]) -> HashSet<DeadLetterKey> {
        let stands = |key: &&DeadLetterKey| self.tables.replays.get(key).is_some_and(|row| self.sees(row.owner));
        keys.iter().filter(stands).copied().collect()
    }
}

fn coupon(row: &CouponRow) -> Coupon {
    Coupon {
        slot: row.slot,
        user_id: row.user.as_str().to_owned(),
        code: row.code.to_string(),
        admitted_at: row.admitted_at,
        issued_at: row.issued_at,
    }
}
