//! What the server has committed, for an oracle: past every fault, and without waiting.

use super::engine::Change;
use super::locks::Trx;
use super::server::Server;
use dropgate_issuer::store::rows::{CampaignSummary, DeadLetterKey};
use dropgate_issuer::timestamp;
use dropgate_shared::ids::CampaignId;
use std::collections::BTreeMap;
use time::PrimitiveDateTime;

/// A committed coupon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    pub slot: u32,
    pub allotment: u32,
    pub user: String,
    pub code: String,
    pub admitted_ms: u64,
    pub issued_ms: u64,
}

/// A committed refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub user: String,
    pub proposed_slot: u32,
    pub reason: String,
    pub admitted_ms: u64,
    pub refused_ms: u64,
}

/// A row that a failover has lost. (A lost change of a state is no row.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostRow {
    Campaign { campaign: String },
    Allotment { campaign: String, capacity: u32 },
    Coupon { campaign: String, user: String, slot: u32 },
    Refusal { campaign: String, user: String },
    Replay(DeadLetterKey),
}

impl LostRow {
    pub(super) fn of(change: &Change) -> Option<Self> {
        Some(match change {
            Change::Campaign(name) => Self::Campaign { campaign: name.to_string() },
            Change::Allotment(name, capacity) => Self::Allotment { campaign: name.to_string(), capacity: *capacity },
            Change::Slot(row) => {
                let user = row.user.as_str().to_owned();
                Self::Coupon { campaign: row.campaign.to_string(), user, slot: row.slot }
            }
            Change::Refusal(name, user) => Self::Refusal { campaign: name.to_string(), user: user.as_str().to_owned() },
            Change::Replay(key) => Self::Replay(*key),
            Change::Revision { .. } | Change::User(_) => return None,
        })
    }
}

impl Server {
    /// Campaigns that have an allotment, the latest to open first.
    #[must_use]
    pub fn campaigns(&self) -> Vec<CampaignSummary> {
        self.0.engine.borrow().view(Trx::NONE).campaigns()
    }

    /// Every capacity that the campaign was granted, and when.
    #[must_use]
    pub fn allotments(&self, id: &CampaignId) -> Vec<(u32, PrimitiveDateTime)> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.of(id.as_str()).into_iter().flat_map(|of| &of.allotments);
        rows.filter(|(_, row)| row.owner == Trx::NONE).map(|(capacity, row)| (*capacity, row.granted_at)).collect()
    }

    /// The coupons of a campaign, in the order of their slots.
    #[must_use]
    pub fn coupons(&self, id: &CampaignId) -> Vec<Coupon> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.of(id.as_str()).into_iter().flat_map(|of| of.by_slot.values());
        rows.filter(|row| row.owner.get() == Trx::NONE)
            .map(|row| Coupon {
                slot: row.slot,
                allotment: row.allotment,
                user: row.user.as_str().to_owned(),
                code: row.code.to_string(),
                admitted_ms: timestamp::to_ms(row.admitted_at),
                issued_ms: timestamp::to_ms(row.issued_at),
            })
            .collect()
    }

    /// The refusals of a campaign, in the order of the users.
    #[must_use]
    pub fn refusals(&self, id: &CampaignId) -> Vec<Refusal> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.of(id.as_str()).into_iter().flat_map(|of| &of.refusals);
        rows.filter(|(_, row)| row.owner == Trx::NONE)
            .map(|(user, row)| Refusal {
                user: user.as_str().to_owned(),
                proposed_slot: row.proposed_slot,
                reason: row.reason.to_string(),
                admitted_ms: timestamp::to_ms(row.admitted_at),
                refused_ms: timestamp::to_ms(row.refused_at),
            })
            .collect()
    }

    /// Dead letters that were sent again, and when.
    #[must_use]
    pub fn replays(&self) -> Vec<(DeadLetterKey, PrimitiveDateTime)> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.replays.iter();
        rows.filter(|(_, row)| row.owner == Trx::NONE).map(|(key, row)| (*key, row.replayed_at)).collect()
    }

    /// Statements that reached the server, by the name of the session's method.
    #[must_use]
    pub fn statements(&self) -> BTreeMap<&'static str, u64> {
        self.0.statements.borrow().clone()
    }

    /// Transactions that are open.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.0.engine.borrow().transactions().len()
    }

    /// Transactions that wait for a lock on a row.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.engine.borrow().waiting()
    }
}
