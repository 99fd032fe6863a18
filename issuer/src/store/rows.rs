//! What crosses the ports of the store.

use crate::timestamp;
use dropgate_shared::campaign::{CampaignSettings, CampaignState};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use time::PrimitiveDateTime;

/// A campaign as MySQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    pub state: CampaignState,
    /// The newest allotment.
    pub capacity: u32,
    /// Claims are admitted from this time on.
    pub opens_at: PrimitiveDateTime,
    /// Claims are admitted before this time; `None`: until the campaign is sold out.
    pub closes_at: Option<PrimitiveDateTime>,
    /// Grows with every change of the campaign.
    pub version: u32,
}

impl Campaign {
    /// The version of a campaign that was not changed yet.
    pub const FIRST_VERSION: u32 = 1;

    /// The arguments of `publish.lua` and `update.lua`.
    #[must_use]
    pub fn script_args(&self) -> [String; 5] {
        let [state, capacity, opens_ms, closes_ms] = self.settings().script_args();
        [state, capacity, opens_ms, closes_ms, self.version.to_string()]
    }

    /// What Redis should hold of it.
    #[must_use]
    pub fn settings(&self) -> CampaignSettings {
        CampaignSettings {
            state: self.state,
            capacity: self.capacity.into(),
            opens_ms: timestamp::to_ms(self.opens_at),
            closes_ms: self.closes_at.map_or(0, timestamp::to_ms),
        }
    }
}

/// A campaign in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignSummary {
    pub id: String,
    pub campaign: Campaign,
    pub rows: Tally,
}

/// How many rows a campaign has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub issued: u64,
    pub refused: u64,
}

/// Counts of a campaign's rows, as `verify` needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CampaignCounts {
    /// The newest allotment.
    pub capacity: u32,
    /// Coupon rows.
    pub coupons: u64,
    /// Users who have a coupon.
    pub users: u64,
    /// Coupon rows whose slot lies beyond 1..capacity, or whose own allotment was never granted.
    pub beyond: u64,
    /// Refusal rows.
    pub refusals: u64,
    /// Users who have a coupon and a refusal.
    pub both: u64,
}

/// A coupon to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewCoupon<'a> {
    pub campaign: &'a CampaignId,
    pub slot: u32,
    /// The capacity under which it is issued.
    pub allotment: u32,
    pub user: &'a UserId,
    pub code: &'a str,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub issued_at: PrimitiveDateTime,
}

/// A refusal to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewRefusal<'a> {
    pub campaign: &'a CampaignId,
    pub user: &'a UserId,
    /// The slot that Redis proposed.
    pub proposed_slot: u32,
    pub reason: &'a str,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub refused_at: PrimitiveDateTime,
}

/// A claim that waits, to be written. Its user has no row.
#[derive(Debug, Clone, Copy)]
pub struct NewWaiting<'a> {
    pub campaign: &'a CampaignId,
    pub user: &'a UserId,
    /// The slot that Redis proposed.
    pub proposed_slot: u32,
    pub code: &'a str,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub waiting_since: PrimitiveDateTime,
}

/// A claim that waits, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    pub campaign_id: String,
    pub user_id: String,
    /// The slot that Redis proposed.
    pub proposed_slot: u32,
    pub code: String,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
}

/// A coupon as it was read. Nothing in it is trusted to be valid: `verify` looks for what should not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CouponRow {
    pub slot: u32,
    pub user_id: String,
    pub code: String,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub issued_at: PrimitiveDateTime,
}

impl CouponRow {
    /// What Redis should hold for the user. `None` for slot 0, which the schema rejects.
    #[must_use]
    pub fn holder(self) -> Option<Holder> {
        Some((self.user_id, entry(self.slot, self.admitted_at, ClaimStatus::Issued)?))
    }
}

/// A refusal as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    pub user_id: String,
    /// The slot that Redis proposed.
    pub proposed_slot: u32,
    pub reason: String,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub refused_at: PrimitiveDateTime,
}

/// A user, and the entry that Redis should hold for them.
pub type Holder = (String, ClaimEntry);

/// A dead letter: partition, offset, and the time it was given up. The time is part of the key, since a topic that is
/// created anew counts from 0 again.
pub type DeadLetterKey = (i32, i64, PrimitiveDateTime);

/// What Redis should hold for a row. `None` for slot 0, which exists nowhere: the gate proposes from 1 up and the
/// schema checks it.
#[must_use]
pub fn entry(slot: u32, admitted_at: PrimitiveDateTime, status: ClaimStatus) -> Option<ClaimEntry> {
    Some(ClaimEntry { slot: Slot::new(slot).ok()?, admitted_ms: timestamp::to_ms(admitted_at), status })
}
