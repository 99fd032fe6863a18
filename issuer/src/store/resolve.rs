//! A batch that a constraint rejected: who has a row already, and what becomes of the others?
//!
//! All in one transaction under the lock of the campaign's row, so that there is one resolver of a campaign at a time.
//! Optimistic inserts of other issuers take no such lock; where one comes in between, a constraint rejects the insert
//! below, and everything is read anew. The order of the questions is that of the promises: a row that exists stays as
//! it is (I5, I6); then the proposed slot, which the user may have been shown. Two users with one slot mean that Redis
//! has lost claims, so a free slot may belong to a claim that is still under way: the second user waits (see
//! [`super::waiting`]). A refusal only where every slot under the newest allotment is taken (I10).

use super::coupon_writer::{CouponWriter, Known, Placed, Row, unknown_campaign};
use super::free_slots::Gaps;
use super::ports::{Session, Store, StoreResult};
use super::rows::{NewRefusal, NewWaiting};
use crate::consume::ports::ClaimOutcome;
use dropgate_shared::ids::{CampaignId, Slot};
use std::collections::{BTreeMap, HashMap, HashSet};
use time::PrimitiveDateTime;

/// Values in one `IN (..)`, and rows of one INSERT.
pub(super) const CHUNK: usize = 1_000;
/// Taken slots read at a time in search of a free one.
const PAGE: u32 = 5_000;
/// The reason that a refusal row gives.
pub const CAPACITY_EXHAUSTED: &str = "capacity_exhausted";

impl<S: Store> CouponWriter<S> {
    /// Settles every row in one transaction. `Constraint` if another issuer wrote a row in between
    /// that this one wanted to write: roll back and look again.
    pub(super) async fn resolve(&self, session: &mut S::Session, rows: &[Row<'_>]) -> StoreResult<Placed> {
        // In the order of their ids, so that two resolvers lock them in the same order.
        let mut campaigns = BTreeMap::<&CampaignId, Vec<&Row<'_>>>::new();
        for row in rows {
            campaigns.entry(row.campaign()).or_default().push(row);
        }
        session.begin().await?;
        let mut placed = Placed::with_capacity(rows.len());
        for (campaign, rows) in campaigns {
            placed.extend(self.resolve_campaign(session, campaign, &rows).await?);
        }
        session.commit().await?;
        Ok(placed)
    }

    /// The same for the rows of one campaign, in a transaction that the caller has begun and ends.
    pub(super) async fn resolve_campaign(
        &self,
        session: &mut S::Session,
        campaign: &CampaignId,
        rows: &[&Row<'_>],
    ) -> StoreResult<Placed> {
        // Without the lock two resolvers would find the same highest free slot. A raise holds it too, so the allotment
        // stays the newest one until the end.
        let newest = match session.lock_campaign(campaign).await? {
            true => session.newest_allotment(campaign).await?,
            false => None,
        };
        let Some(allotment) = newest else {
            return Ok(rows.iter().map(|row| (row.index, unknown_campaign())).collect());
        };

        let (issued, refused) = slots_of_users(session, campaign, rows).await?;
        let mut placed = Placed::with_capacity(rows.len());
        let mut open = Vec::new();
        for row in rows.iter().copied() {
            if let Some(slot) = issued.get(row.user().as_str()) {
                placed.push((row.index, ClaimOutcome::Already { slot: *slot }));
            } else if let Some(slot) = refused.get(row.user().as_str()) {
                // Whatever slot has become free meanwhile: never a coupon and a refusal.
                placed.push((row.index, ClaimOutcome::Refused { slot: *slot }));
            } else {
                open.push(row);
            }
        }

        // The proposed slot where it is free. It is reserved from now on; two users with the same proposal are served in
        // the order of the batch.
        let mut reserved = taken_among(session, campaign, &open).await?;
        let mut settled = Vec::with_capacity(open.len());
        // Users whose proposed slot another user holds, or that lies beyond the allotment.
        let mut displaced = Vec::new();
        for row in open {
            if row.slot() <= allotment && reserved.insert(row.slot()) {
                settled.push((row, row.slot()));
            } else {
                displaced.push(row);
            }
        }
        let is_full = !displaced.is_empty()
            && self
                .free_slots(session, campaign, &self.learn(campaign, allotment, None), &reserved, 1)
                .await?
                .is_empty();
        let now = self.clock().now();
        if is_full {
            // Whatever is under way, nobody can get a slot any more.
            let refusals: Vec<_> = displaced.iter().map(|row| row.refusal(now)).collect();
            for some in refusals.chunks(CHUNK) {
                session.insert_refusals(some).await?;
            }
            self.note_refusals(campaign);
            placed.extend(displaced.iter().map(|row| {
                let slot = row.admission.record.slot;
                (row.index, ClaimOutcome::Refused { slot })
            }));
        } else {
            for some in displaced.chunks(CHUNK) {
                let users: Vec<&str> = some.iter().map(|row| row.user().as_str()).collect();
                // Nobody else writes any while the campaign's row is locked.
                let before: HashSet<String> = session.waiting_among(campaign, &users).await?.into_iter().collect();
                let new = some.iter().filter(|row| !before.contains(row.user().as_str()));
                let claims: Vec<_> = new.map(|row| row.waiting(now)).collect();
                if !claims.is_empty() {
                    session.insert_waiting(&claims).await?;
                }
            }
            placed.extend(displaced.iter().map(|row| (row.index, ClaimOutcome::Waiting)));
        }

        settled.sort_unstable_by_key(|(_, slot)| *slot);
        let coupons: Vec<_> = settled.iter().map(|(row, slot)| row.coupon(*slot, allotment, now)).collect();
        self.insert(session, &coupons).await?;
        for (row, slot) in settled {
            // No slot below 1 is ever found or proposed.
            let slot = Slot::new(slot).unwrap_or(row.admission.record.slot);
            placed.push((row.index, ClaimOutcome::Issued { slot }));
        }
        Ok(placed)
    }

    /// The highest free slots, at most `needed`, none of them in `reserved`.
    pub(super) async fn free_slots(
        &self,
        session: &mut S::Session,
        campaign: &CampaignId,
        known: &Known,
        reserved: &HashSet<u32>,
        needed: usize,
    ) -> StoreResult<Vec<u32>> {
        let mut gaps = Gaps::new(known.full_above, reserved, needed);
        search(session, campaign, &mut gaps).await?;
        let (free, full_above) = gaps.found();
        if free.len() >= needed || known.full_above >= known.allotment {
            self.learn(campaign, known.allotment, Some(full_above));
            return Ok(free);
        }
        // By what is remembered there are too few. Before a claim is refused, look at all slots again: an operator may
        // have deleted rows.
        let mut gaps = Gaps::new(known.allotment, reserved, needed);
        search(session, campaign, &mut gaps).await?;
        let (free, full_above) = gaps.found();
        self.relearn(campaign, known.allotment, full_above);
        Ok(free)
    }
}

impl<'a> Row<'a> {
    fn refusal(&'a self, refused_at: PrimitiveDateTime) -> NewRefusal<'a> {
        NewRefusal {
            campaign: self.campaign(),
            user: self.user(),
            proposed_slot: self.slot(),
            reason: CAPACITY_EXHAUSTED,
            admitted_at: self.admission.admitted_at,
            refused_at,
        }
    }

    fn waiting(&'a self, waiting_since: PrimitiveDateTime) -> NewWaiting<'a> {
        NewWaiting {
            campaign: self.campaign(),
            user: self.user(),
            proposed_slot: self.slot(),
            code: &self.code,
            admitted_at: self.admission.admitted_at,
            waiting_since,
        }
    }
}

/// The slots of those users who have a coupon, and of those who have a refusal.
async fn slots_of_users(
    session: &mut impl Session,
    campaign: &CampaignId,
    rows: &[&Row<'_>],
) -> StoreResult<(HashMap<String, Slot>, HashMap<String, Slot>)> {
    let (mut issued, mut refused) = (HashMap::new(), HashMap::new());
    for some in rows.chunks(CHUNK) {
        let users: Vec<&str> = some.iter().map(|row| row.user().as_str()).collect();
        issued.extend(session.coupon_slots_of(campaign, &users).await?);
        refused.extend(session.refusal_slots_of(campaign, &users).await?);
    }
    Ok((issued, refused))
}

/// Those of the proposed slots that another user holds.
async fn taken_among(
    session: &mut impl Session,
    campaign: &CampaignId,
    rows: &[&Row<'_>],
) -> StoreResult<HashSet<u32>> {
    let mut taken = HashSet::with_capacity(rows.len());
    for some in rows.chunks(CHUNK) {
        let slots: Vec<u32> = some.iter().map(|row| row.slot()).collect();
        taken.extend(session.coupons_with_slots(campaign, &slots).await?.into_iter().map(|row| row.slot));
    }
    Ok(taken)
}

/// Reads taken slots from the top down until enough free ones are known.
async fn search(session: &mut impl Session, campaign: &CampaignId, gaps: &mut Gaps<'_>) -> StoreResult<()> {
    while gaps.wants_more() {
        let page = session.taken_slots_up_to(campaign, gaps.next(), PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        page.into_iter().for_each(|slot| gaps.taken(slot));
        if is_last {
            gaps.end();
            break;
        }
    }
    Ok(())
}
