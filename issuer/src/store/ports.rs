//! MySQL as the rules see it: sessions, and single statements on them. All rules (optimistic insert, search for free
//! slots, refusal, raise, creation) are code above these ports; below them stands `mysql`, or a model of its
//! constraints.

use super::rows::{
    Campaign, CampaignCounts, CampaignSummary, CouponRow, DeadLetterKey, Holder, NewCoupon, NewRefusal, NewWaiting,
    RefusalRow, Tally, WaitingRow,
};
use crate::labels;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot};
use std::collections::{HashMap, HashSet};
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
    /// A constraint or trigger that is not of dropgate's schema rejects a row. The text names it.
    OthersConstraint(String),
    /// The database is away, or rejects all writes: wait, lose nothing, blame no record.
    Away(Fault),
}

/// What a statement returns.
pub type StoreResult<T> = Result<T, StoreError>;

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(fault) => fault,
            StoreError::Contention => Self::unknown(Source::MySql, labels::CONTENTION, "others write the same rows"),
            StoreError::Constraint => {
                Self::none(Source::MySql, labels::CONSTRAINT, false, "a constraint rejected the row")
            }
            StoreError::OthersConstraint(text) => Self::none(Source::MySql, labels::OTHERS_CONSTRAINT, false, text),
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
    async fn session(&self) -> StoreResult<Self::Session>;

    /// A new session for an operator's verb: a failure names its cause and the remedy.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn connect(&self) -> StoreResult<Self::Session>;
}

/// A session: one connection, isolation level READ COMMITTED. A statement outside a transaction commits by itself. A
/// session that is dropped within a transaction rolls it back. Where the future of a statement is dropped before it has
/// completed, the state of the session is unknown: call [`Session::discard`].
///
/// Every method returns [`StoreError`]. After any error but [`StoreError::Away`] the session is usable, and a
/// transaction must be rolled back; so too after one of the label `refused`, which is an answer.
pub trait Session {
    /// Begins a transaction.
    async fn begin(&mut self) -> StoreResult<()>;

    /// Commits it.
    async fn commit(&mut self) -> StoreResult<()>;

    /// Rolls it back; does nothing outside a transaction.
    async fn rollback(&mut self) -> StoreResult<()>;

    /// Ends the session at once, so that it is not used again.
    fn discard(self);

    /// The greatest capacity that the campaign was granted; `None` if there is no such campaign.
    async fn newest_allotment(&mut self, id: &CampaignId) -> StoreResult<Option<u32>>;

    /// The same, and whether any of its claims was refused; both at one moment.
    async fn newest_allotment_and_refusals(&mut self, id: &CampaignId) -> StoreResult<Option<(u32, bool)>>;

    /// Locks the campaign's row until the transaction ends. False if there is none.
    async fn lock_campaign(&mut self, id: &CampaignId) -> StoreResult<bool>;

    /// The slots of those of `users` who have a coupon.
    async fn coupon_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<(String, Slot)>>;

    /// The proposed slots of those of `users` who have a refusal.
    async fn refusal_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<(String, Slot)>>;

    /// The coupons that have one of `slots`.
    async fn coupons_with_slots(&mut self, id: &CampaignId, slots: &[u32]) -> StoreResult<Vec<CouponRow>>;

    /// The `limit` highest taken slots that do not exceed `top`, highest first.
    async fn taken_slots_up_to(&mut self, id: &CampaignId, top: u32, limit: u32) -> StoreResult<Vec<u32>>;

    /// Inserts coupons in one statement. `recurs`: statements of this many rows recur, so keep it prepared.
    async fn insert_coupons(&mut self, coupons: &[NewCoupon<'_>], recurs: bool) -> StoreResult<()>;

    /// Inserts refusals in one statement.
    async fn insert_refusals(&mut self, refusals: &[NewRefusal<'_>]) -> StoreResult<()>;

    /// The ids of the campaigns that have refusals.
    async fn campaigns_with_refusals(&mut self) -> StoreResult<Vec<String>>;

    /// Those of `users` whose claim waits, or has waited.
    async fn waiting_among(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<String>>;

    /// Inserts claims that wait, in one statement.
    async fn insert_waiting(&mut self, claims: &[NewWaiting<'_>]) -> StoreResult<()>;

    /// Claims that wait, of one campaign or of all: their users have neither coupon nor refusal. By campaign, then in
    /// the order of their admission.
    async fn waiting(&mut self, id: Option<&CampaignId>, limit: u32) -> StoreResult<Vec<WaitingRow>>;

    /// Inserts a campaign's row; its capacity is an allotment.
    async fn insert_campaign(
        &mut self,
        id: &CampaignId,
        campaign: &Campaign,
        created_at: PrimitiveDateTime,
    ) -> StoreResult<()>;

    /// Inserts an allotment.
    async fn insert_allotment(
        &mut self,
        id: &CampaignId,
        capacity: u32,
        granted_at: PrimitiveDateTime,
    ) -> StoreResult<()>;

    /// Sets a campaign's version to the next, or to the one after `known` if that is greater.
    async fn next_version(&mut self, id: &CampaignId, known: u32) -> StoreResult<()>;

    /// Sets a campaign's state, and the next version, if it is one of `from`. False if it is in another state, or
    /// unknown.
    async fn set_state(&mut self, id: &CampaignId, from: &[CampaignState], to: CampaignState) -> StoreResult<bool>;

    /// Sets a campaign's opening and closing time, and the next version.
    async fn set_window(
        &mut self,
        id: &CampaignId,
        opens_at: PrimitiveDateTime,
        closes_at: Option<PrimitiveDateTime>,
    ) -> StoreResult<()>;

    /// Looks a campaign up. One without any allotment counts as none.
    async fn campaign(&mut self, id: &CampaignId) -> StoreResult<Option<Campaign>>;

    /// All campaigns, the latest to open first.
    async fn campaigns(&mut self) -> StoreResult<Vec<CampaignSummary>>;

    /// Counts a campaign's rows.
    async fn tally(&mut self, id: &CampaignId) -> StoreResult<Tally>;

    /// All counts of a campaign that has an allotment, at one point in time.
    async fn counts(&mut self, id: &CampaignId) -> StoreResult<CampaignCounts>;

    /// The next `limit` coupons in the order of their slots, after slot `after` (from the first: `None`).
    async fn coupons_after(&mut self, id: &CampaignId, after: Option<u32>, limit: u32) -> StoreResult<Vec<CouponRow>>;

    /// The next `limit` refusals in the order of the user ids, after user `after`.
    async fn refusals_after(&mut self, id: &CampaignId, after: &str, limit: u32) -> StoreResult<Vec<RefusalRow>>;

    /// The next `limit` users who have a refusal and no coupon, in the order of their ids, after user `after`. (A user
    /// with both was refused before a raise.)
    async fn refused_after(&mut self, id: &CampaignId, after: &str, limit: u32) -> StoreResult<Vec<Holder>>;

    /// Those of `users` who have a row, with the entry that Redis should hold for them. A coupon wins over a refusal.
    async fn settled(&mut self, id: &CampaignId, users: &[String]) -> StoreResult<HashMap<String, ClaimEntry>>;

    /// Those of `keys` that were replayed before.
    async fn replayed(&mut self, keys: &[DeadLetterKey]) -> StoreResult<HashSet<DeadLetterKey>>;

    /// Records that `keys` were replayed `at` this time. Those that were recorded before keep their time.
    async fn remember_replayed(&mut self, keys: &[DeadLetterKey], at: PrimitiveDateTime) -> StoreResult<()>;
}
