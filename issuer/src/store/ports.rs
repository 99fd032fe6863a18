//! MySQL as the rules see it: sessions, and single statements on them. All rules (optimistic insert, search for free
//! slots, refusal, raise, creation) are code above these ports; below them stands `mysql`, or a model of its
//! constraints.

use super::rows::{
    Campaign, CampaignCounts, CampaignSummary, CouponRow, DeadLetterKey, Holder, NewCoupon, NewRefusal, RefusalRow,
    Tally,
};
use crate::labels;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot};
use std::collections::{HashMap, HashSet};
use std::future::Future;
use time::PrimitiveDateTime;

/// Why a statement failed, in the terms that decide what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// A constraint rejected a row: look up which, and choose another slot.
    Constraint,
    /// Deadlock or lock wait: the same transaction may succeed now.
    Contention,
    /// The database will never take this value. The text names column and reason.
    Data(String),
    /// The database is away, or rejects all writes: wait, lose nothing, blame no record.
    Away(Fault),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(fault) => fault,
            StoreError::Contention => Self::unknown(Source::MySql, labels::CONTENTION, "others write the same rows"),
            StoreError::Constraint => {
                Self::none(Source::MySql, labels::CONSTRAINT, false, "a constraint rejected the row")
            }
            StoreError::Data(text) => Self::none(Source::MySql, labels::DATA, false, text),
        }
    }
}

/// A database.
pub trait Store: Clone {
    /// Its sessions.
    type Session: Session;

    /// A session for a batch. It may have died while it was idle, which costs one retry.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    fn session(&self) -> impl Future<Output = Result<Self::Session, StoreError>>;

    /// A new session for an operator's verb: a failure names its cause and the remedy.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    fn connect(&self) -> impl Future<Output = Result<Self::Session, StoreError>>;
}

/// A session: one connection, isolation level READ COMMITTED. A statement outside a transaction commits by itself. A
/// session that is dropped within a transaction rolls it back. Where the future of a statement is dropped before it has
/// completed, the state of the session is unknown: call [`Session::discard`].
///
/// Every method returns [`StoreError`]. After any error but [`StoreError::Away`] the session is usable, and a
/// transaction must be rolled back.
pub trait Session {
    /// Begins a transaction.
    fn begin(&mut self) -> impl Future<Output = Result<(), StoreError>>;

    /// Commits it.
    fn commit(&mut self) -> impl Future<Output = Result<(), StoreError>>;

    /// Rolls it back; does nothing outside a transaction.
    fn rollback(&mut self) -> impl Future<Output = Result<(), StoreError>>;

    /// Ends the session without a word, so that nobody gets it again.
    fn discard(self);

    /// The greatest capacity that the campaign was granted; `None` if there is no such campaign.
    fn newest_allotment(&mut self, id: &CampaignId) -> impl Future<Output = Result<Option<u32>, StoreError>>;

    /// Locks the campaign's row until the transaction ends. False if there is none.
    fn lock_campaign(&mut self, id: &CampaignId) -> impl Future<Output = Result<bool, StoreError>>;

    /// The slots of those of `users` who have a coupon.
    fn coupon_slots_of(
        &mut self,
        id: &CampaignId,
        users: &[&str],
    ) -> impl Future<Output = Result<Vec<(String, Slot)>, StoreError>>;

    /// The proposed slots of those of `users` who have a refusal.
    fn refusal_slots_of(
        &mut self,
        id: &CampaignId,
        users: &[&str],
    ) -> impl Future<Output = Result<Vec<(String, Slot)>, StoreError>>;

    /// Those of `slots` that a coupon has.
    fn slots_taken_among(
        &mut self,
        id: &CampaignId,
        slots: &[u32],
    ) -> impl Future<Output = Result<Vec<u32>, StoreError>>;

    /// The `limit` highest taken slots that do not exceed `top`, highest first.
    fn taken_slots_up_to(
        &mut self,
        id: &CampaignId,
        top: u32,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<u32>, StoreError>>;

    /// Inserts coupons in one statement. `recurs`: statements of this many rows recur, so keep it prepared.
    fn insert_coupons(
        &mut self,
        coupons: &[NewCoupon<'_>],
        recurs: bool,
    ) -> impl Future<Output = Result<(), StoreError>>;

    /// Inserts refusals in one statement.
    fn insert_refusals(&mut self, refusals: &[NewRefusal<'_>]) -> impl Future<Output = Result<(), StoreError>>;

    /// Inserts a campaign's row; its capacity is an allotment.
    fn insert_campaign(
        &mut self,
        id: &CampaignId,
        campaign: &Campaign,
        created_at: PrimitiveDateTime,
    ) -> impl Future<Output = Result<(), StoreError>>;

    /// Inserts an allotment.
    fn insert_allotment(
        &mut self,
        id: &CampaignId,
        capacity: u32,
        granted_at: PrimitiveDateTime,
    ) -> impl Future<Output = Result<(), StoreError>>;

    /// Sets a campaign's state if it is one of `from`. False if it is in another state, or unknown.
    fn set_state(
        &mut self,
        id: &CampaignId,
        from: &[CampaignState],
        to: CampaignState,
    ) -> impl Future<Output = Result<bool, StoreError>>;

    /// Looks a campaign up. One without any allotment counts as none.
    fn campaign(&mut self, id: &CampaignId) -> impl Future<Output = Result<Option<Campaign>, StoreError>>;

    /// All campaigns, the latest to open first.
    fn campaigns(&mut self) -> impl Future<Output = Result<Vec<CampaignSummary>, StoreError>>;

    /// Counts a campaign's rows.
    fn tally(&mut self, id: &CampaignId) -> impl Future<Output = Result<Tally, StoreError>>;

    /// All counts of a campaign that has an allotment, at one point in time.
    fn counts(&mut self, id: &CampaignId) -> impl Future<Output = Result<CampaignCounts, StoreError>>;

    /// The next `limit` coupons in the order of their slots, after slot `after` (from the first: `None`).
    fn coupons_after(
        &mut self,
        id: &CampaignId,
        after: Option<u32>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<CouponRow>, StoreError>>;

    /// The next `limit` refusals in the order of the user ids, after user `after`.
    fn refusals_after(
        &mut self,
        id: &CampaignId,
        after: &str,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<RefusalRow>, StoreError>>;

    /// The next `limit` users who have a refusal and no coupon, in the order of their ids, after user `after`. (A user
    /// with both was refused before a raise.)
    fn refused_after(
        &mut self,
        id: &CampaignId,
        after: &str,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Holder>, StoreError>>;

    /// Those of `users` who have a row, with the entry that Redis should hold for them. A coupon wins over a refusal.
    fn settled(
        &mut self,
        id: &CampaignId,
        users: &[String],
    ) -> impl Future<Output = Result<HashMap<String, ClaimEntry>, StoreError>>;

    /// Those of `keys` that were replayed before.
    fn replayed(&mut self, keys: &[DeadLetterKey]) -> impl Future<Output = Result<HashSet<DeadLetterKey>, StoreError>>;

    /// Records that `keys` were replayed `at` this time. Those that were recorded before keep their time.
    fn remember_replayed(
        &mut self,
        keys: &[DeadLetterKey],
        at: PrimitiveDateTime,
    ) -> impl Future<Output = Result<(), StoreError>>;
}
