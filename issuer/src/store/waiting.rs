//! Claims that wait: another user holds the slot that Redis proposed for them, and other slots are free.
//!
//! A free slot may belong to a claim whose record is still under way. So a waiting claim is decided only when an
//! [`Approval`] says what is under way, in the order of admission: it gets a slot that nobody else has been given, or
//! waits on. Where every slot has its row nothing can change any more, and it is refused.

use super::approvals::Approval;
use super::coupon_writer::{CouponWriter, Known};
use super::ports::{Session, Store, StoreResult};
use super::resolve::{CAPACITY_EXHAUSTED, CHUNK};
use super::rows::{NewCoupon, NewRefusal, WaitingRow, entry};
use crate::consume::ports::Confirmation;
use crate::timestamp;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Waiting claims read at a time.
const PAGE: u32 = 10_000;
impl<S: Store> CouponWriter<S> {
    /// The claims that wait, by campaign, each in the order of admission. Learns which campaigns have refusals.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn waiting(&self) -> Result<BTreeMap<CampaignId, Vec<WaitingRow>>, Fault> {
        let (refused, rows) = self
            .run(async |session| Ok((session.campaigns_with_refusals().await?, session.waiting(None, PAGE).await?)))
            .await?;
        for campaign in refused {
            if let Ok(campaign) = CampaignId::parse(&campaign) {
                self.note_refusals(&campaign);
            }
        }
        let mut waiting = BTreeMap::<CampaignId, Vec<WaitingRow>>::new();
        for row in rows {
            // No other id is ever written.
            if let Ok(campaign) = CampaignId::parse(&row.campaign_id) {
                waiting.entry(campaign).or_default().push(row);
            }
        }
        Ok(waiting)
    }

    /// Those of `users` who have a row.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn settled(&self, campaign: &CampaignId, users: &[String]) -> Result<HashMap<String, ClaimEntry>, Fault> {
        self.run(async |session| settled(session, campaign, users).await).await
    }

    /// Lets the loop decide claims of a campaign that wait.
    pub fn approve(&self, campaign: CampaignId, approval: Approval) {
        self.approvals.give(campaign, approval);
    }

    pub(super) async fn holders_of(&self, slots: &BTreeSet<(&CampaignId, Slot)>) -> Result<Vec<Confirmation>, Fault> {
        let mut by_campaign = BTreeMap::<&CampaignId, Vec<u32>>::new();
        for (campaign, slot) in slots {
            by_campaign.entry(campaign).or_default().push(slot.get());
        }
        self.run(async |session| {
            let mut holders = Vec::with_capacity(slots.len());
            for (campaign, slots) in &by_campaign {
                for some in slots.chunks(CHUNK) {
                    let rows = session.coupons_with_slots(campaign, some).await?;
                    let holder = |(user, entry): (String, ClaimEntry)| {
                        let user = UserId::parse(&user).ok()?;
                        Some(Confirmation { campaign: (*campaign).clone(), user, entry })
                    };
                    holders.extend(rows.into_iter().filter_map(|row| holder(row.holder()?)));
                }
            }
            Ok(holders)
        })
        .await
    }

    /// Uses one approval. What another member has decided meanwhile is not decided again.
    pub(super) async fn decide_waiting(&self, limit: usize) -> Result<Vec<Confirmation>, Fault> {
        let Some((campaign, approval)) = self.approvals.take() else { return Ok(Vec::new()) };
        self.run(async |session| self.decide_in(session, &campaign, &approval, limit).await).await
    }

    async fn decide_in(
        &self,
        session: &mut S::Session,
        campaign: &CampaignId,
        approval: &Approval,
        limit: usize,
    ) -> StoreResult<Vec<Confirmation>> {
        session.begin().await?;
        // One decides for a campaign at a time, and no raise comes in between.
        session.lock_campaign(campaign).await?;
        let mut decided = Vec::new();
        if let Some(allotment) = session.newest_allotment(campaign).await? {
            let known = self.learn(campaign, allotment, None);
            let waiting = session.waiting(Some(campaign), PAGE).await?;
            let free = self.free_slots(session, campaign, &known, &HashSet::new(), 1).await?;
            let plan = if free.is_empty() {
                Plan { slots: Vec::new(), refused: waiting.iter().take(limit).collect() }
            } else {
                self.plan(session, (campaign, approval), &known, &waiting, limit).await?
            };
            decided = self.write_plan(session, campaign, allotment, &plan).await?;
        }
        session.commit().await?;
        Ok(decided)
    }

    /// Who gets which slot: in the order of admission, up to the first claim that has to wait on.
    async fn plan<'w>(
        &self,
        session: &mut S::Session,
        (campaign, approval): (&CampaignId, &Approval),
        known: &Known,
        waiting: &'w [WaitingRow],
        limit: usize,
    ) -> StoreResult<Plan<'w>> {
        let users: Vec<String> = approval.under_way.keys().cloned().collect();
        let settled = settled(session, campaign, &users).await?;
        let waits: HashSet<&str> = waiting.iter().map(|claim| claim.user_id.as_str()).collect();
        let under_way = || approval.under_way.iter().filter(|(user, _)| !settled.contains_key(*user));
        let others = under_way().filter(|(user, _)| !waits.contains(user.as_str()));
        let earliest = others.map(|(_, entry)| entry.admitted_ms).min();
        // Redis has given these slots to somebody, for whom they are kept.
        let kept: HashSet<u32> = under_way().map(|(_, entry)| entry.slot.get()).collect();
        let mut taken = HashSet::new();
        let all: Vec<u32> = kept.iter().copied().collect();
        for some in all.chunks(CHUNK) {
            taken.extend(session.coupons_with_slots(campaign, some).await?.into_iter().map(|row| row.slot));
        }
        let mut free = self.free_slots(session, campaign, known, &kept, limit.min(waiting.len())).await?.into_iter();
        let mut plan = Plan::default();
        for claim in waiting.iter().take(limit) {
            let is_next = approval.users.contains(&claim.user_id)
                && earliest.is_none_or(|earliest| timestamp::to_ms(claim.admitted_at) < earliest);
            if !is_next {
                break;
            }
            // Redis lost the claim, and the user was admitted again under a slot that is still theirs.
            let own = approval.under_way.get(&claim.user_id).map(|entry| entry.slot.get());
            let own = own.filter(|slot| *slot <= known.allotment && taken.insert(*slot));
            let Some(slot) = own.or_else(|| free.next()) else { break };
            plan.slots.push((claim, slot));
        }
        Ok(plan)
    }

    async fn write_plan(
        &self,
        session: &mut S::Session,
        campaign: &CampaignId,
        allotment: u32,
        plan: &Plan<'_>,
    ) -> StoreResult<Vec<Confirmation>> {
        let now = self.clock().now();
        let user = |claim: &WaitingRow| UserId::parse(&claim.user_id).ok();
        let issued: Vec<_> =
            plan.slots.iter().filter_map(|(claim, slot)| Some((user(claim)?, *claim, *slot))).collect();
        let refused: Vec<_> = plan.refused.iter().filter_map(|claim| Some((user(claim)?, *claim))).collect();
        let mut coupons: Vec<NewCoupon<'_>> = issued
            .iter()
            .map(|(user, claim, slot)| NewCoupon {
                campaign,
                slot: *slot,
                allotment,
                user,
                code: &claim.code,
                admitted_at: claim.admitted_at,
                issued_at: now,
            })
            .collect();
        coupons.sort_unstable_by_key(|coupon| coupon.slot);
        self.insert(session, &coupons).await?;
        let refusals: Vec<NewRefusal<'_>> = refused
            .iter()
            .map(|(user, claim)| NewRefusal {
                campaign,
                user,
                proposed_slot: claim.proposed_slot,
                reason: CAPACITY_EXHAUSTED,
                admitted_at: claim.admitted_at,
                refused_at: now,
            })
            .collect();
        for some in refusals.chunks(CHUNK) {
            session.insert_refusals(some).await?;
            self.note_refusals(campaign);
        }
        let issued = issued.into_iter().map(|(user, claim, slot)| (user, claim, slot, ClaimStatus::Issued));
        let refused = refused.into_iter().map(|(user, claim)| (user, claim, claim.proposed_slot, ClaimStatus::Refused));
        let confirmation = |(user, claim, slot, status): (UserId, &WaitingRow, u32, ClaimStatus)| {
            let entry = entry(slot, claim.admitted_at, status)?;
            Some(Confirmation { campaign: campaign.clone(), user, entry })
        };
        Ok(issued.chain(refused).filter_map(confirmation).collect())
    }
}

/// What becomes of claims that wait.
#[derive(Default)]
struct Plan<'w> {
    slots: Vec<(&'w WaitingRow, u32)>,
    refused: Vec<&'w WaitingRow>,
}

async fn settled(
    session: &mut impl Session,
    campaign: &CampaignId,
    users: &[String],
) -> StoreResult<HashMap<String, ClaimEntry>> {
    let mut settled = HashMap::new();
    for some in users.chunks(CHUNK) {
        settled.extend(session.settled(campaign, some).await?);
    }
    Ok(settled)
}
