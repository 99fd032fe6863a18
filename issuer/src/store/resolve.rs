//! A batch that a constraint rejected: who has a row already, and which slot do the others get?

use super::coupon_writer::{CouponWriter, Placed, Row, unknown_campaign};
use super::free_slots::Gaps;
use super::ports::{Session, Store, StoreError};
use super::rows::NewRefusal;
use crate::consume::ports::ClaimOutcome;
use dropgate_shared::ids::{CampaignId, Slot};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Values in one `IN (..)`, and rows of one INSERT.
const CHUNK: usize = 1_000;
/// Taken slots read at a time in search of a free one.
const PAGE: u32 = 5_000;
/// The reason that a refusal row gives.
pub const CAPACITY_EXHAUSTED: &str = "capacity_exhausted";

impl<S: Store> CouponWriter<S> {
    /// Settles every row in one transaction. `Constraint` if another issuer wrote a row in between
    /// that this one wanted to write: roll back and look again.
    pub(super) async fn resolve(&self, session: &mut S::Session, rows: &[Row<'_>]) -> Result<Placed, StoreError> {
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

    async fn resolve_campaign(
        &self,
        session: &mut S::Session,
        campaign: &CampaignId,
        rows: &[&Row<'_>],
    ) -> Result<Placed, StoreError> {
        // One resolver of a campaign at a time: two would find the same highest free slot.
        let newest = match session.lock_campaign(campaign).await? {
            true => session.newest_allotment(campaign).await?,
            false => None,
        };
        let Some(allotment) = newest else {
            return Ok(rows.iter().map(|row| (row.index, unknown_campaign())).collect());
        };
        let known = self.learn(campaign, allotment, None);

        let (issued, refused) = slots_of_users(session, campaign, rows).await?;
        let mut placed = Placed::with_capacity(rows.len());
        let mut open = Vec::new();
        for row in rows.iter().copied() {
            if let Some(slot) = issued.get(row.user().as_str()) {
                placed.push((row.index, ClaimOutcome::Already { slot: *slot }));
            } else if let Some(slot) = refused.get(row.user().as_str()) {
                placed.push((row.index, ClaimOutcome::Refused { slot: *slot }));
            } else {
                open.push(row);
            }
        }

        // The proposed slot where it can be had; what is kept here is reserved for the search below.
        let mut reserved = taken_among(session, campaign, &open).await?;
        let mut settled = Vec::with_capacity(open.len());
        let mut homeless = Vec::new();
        for row in open {
            if row.slot() <= allotment && reserved.insert(row.slot()) {
                settled.push((row, row.slot()));
            } else {
                homeless.push(row);
            }
        }
        let mut gaps = Gaps::new(known.full_above, &reserved, homeless.len());
        search(session, campaign, &mut gaps).await?;
        let (mut free, mut full_above) = gaps.found();
        if free.len() < homeless.len() && known.full_above < allotment {
            // What is remembered says that there is none. Before anybody is refused for it, look at all
            // of them again: an operator may have deleted rows.
            let mut gaps = Gaps::new(allotment, &reserved, homeless.len());
            search(session, campaign, &mut gaps).await?;
            (free, full_above) = gaps.found();
            self.relearn(campaign, allotment, full_above);
        } else {
            self.learn(campaign, allotment, Some(full_above));
        }
        let now = self.clock().now();
        let mut free = free.into_iter();
        let mut refusals = Vec::new();
        for row in homeless {
            if let Some(slot) = free.next() {
                settled.push((row, slot));
                continue;
            }
            refusals.push(NewRefusal {
                campaign,
                user: row.user(),
                proposed_slot: row.slot(),
                reason: CAPACITY_EXHAUSTED,
                admitted_at: row.admission.admitted_at,
                refused_at: now,
            });
            placed.push((row.index, ClaimOutcome::Refused { slot: row.admission.record.slot }));
        }

        settled.sort_unstable_by_key(|(_, slot)| *slot);
        let coupons: Vec<_> = settled.iter().map(|(row, slot)| row.coupon(*slot, allotment, now)).collect();
        self.insert(session, &coupons).await?;
        for some in refusals.chunks(CHUNK) {
            session.insert_refusals(some).await?;
        }
        for (row, slot) in settled {
            // No slot below 1 is ever found or proposed.
            let slot = Slot::new(slot).unwrap_or(row.admission.record.slot);
            placed.push((row.index, ClaimOutcome::Issued { slot }));
        }
        Ok(placed)
    }
}

/// The slots of those users who have a coupon, and of those who have a refusal.
async fn slots_of_users(
    session: &mut impl Session,
    campaign: &CampaignId,
    rows: &[&Row<'_>],
) -> Result<(HashMap<String, Slot>, HashMap<String, Slot>), StoreError> {
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
) -> Result<HashSet<u32>, StoreError> {
    let mut taken = HashSet::with_capacity(rows.len());
    for some in rows.chunks(CHUNK) {
        let slots: Vec<u32> = some.iter().map(|row| row.slot()).collect();
        taken.extend(session.slots_taken_among(campaign, &slots).await?);
    }
    Ok(taken)
}

/// Reads taken slots from the top down until enough free ones are known.
async fn search(session: &mut impl Session, campaign: &CampaignId, gaps: &mut Gaps<'_>) -> Result<(), StoreError> {
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
