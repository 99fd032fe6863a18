//! What the server has committed, for an oracle: past every fault, and without waiting.

use super::engine::Change;
use super::locks::Trx;
use super::server::Server;
use dropgate_issuer::store::rows::DeadLetterKey;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::ids::CampaignId;
use std::collections::{BTreeMap, BTreeSet};
use time::PrimitiveDateTime;

/// A committed campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignRow {
    pub id: String,
    pub state: CampaignState,
    pub opens_at: PrimitiveDateTime,
    pub closes_at: Option<PrimitiveDateTime>,
    pub created_at: PrimitiveDateTime,
}

/// A committed coupon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    pub slot: u32,
    pub allotment: u32,
    pub user: String,
    pub code: String,
    pub admitted_at: PrimitiveDateTime,
    pub issued_at: PrimitiveDateTime,
}

/// A committed refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub user: String,
    pub proposed_slot: u32,
    pub reason: String,
    pub admitted_at: PrimitiveDateTime,
    pub refused_at: PrimitiveDateTime,
}

/// A row that a failover has lost. (A lost change of a state is no row.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostRow {
    Campaign { campaign: String },
    Allotment { campaign: String, capacity: u32 },
    Coupon { campaign: String, user: String, slot: u32 },
    Refusal { campaign: String, user: String },
    Replay(DeadLetterKey),
    Waiting { campaign: String, user: String },
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
            Change::Waiting(name, user) => Self::Waiting { campaign: name.to_string(), user: user.as_str().to_owned() },
            Change::Revision { .. } | Change::User(_) => return None,
        })
    }
}

impl Server {
    /// A failover to an asynchronous replica that has not got the last `count` transactions: every connection ends, and
    /// they are undone. Returns the rows that are gone.
    pub fn lose_commits(&self, count: usize) -> Vec<LostRow> {
        self.kill_sessions();
        let lost: Vec<_> = self.0.engine.borrow_mut().lose_commits(count).iter().filter_map(LostRow::of).collect();
        if !lost.is_empty() {
            self.report("commits_lost", "");
        }
        lost
    }

    /// All campaigns, in the order of their ids.
    #[must_use]
    pub fn campaigns(&self) -> Vec<CampaignRow> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.campaigns.iter().filter_map(|(name, of)| Some((name, of.row.as_ref()?)));
        rows.filter(|(_, row)| row.owner == Trx::NONE)
            .map(|(name, row)| CampaignRow {
                id: name.to_string(),
                state: row.revision.state,
                opens_at: row.revision.opens_at,
                closes_at: row.revision.closes_at,
                created_at: row.created_at,
            })
            .collect()
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
                admitted_at: row.admitted_at,
                issued_at: row.issued_at,
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
                admitted_at: row.admitted_at,
                refused_at: row.refused_at,
            })
            .collect()
    }

    /// Users whose claim waits to be decided, or has waited.
    #[must_use]
    pub fn waiting_claims(&self, id: &CampaignId) -> BTreeSet<String> {
        let engine = self.0.engine.borrow();
        let rows = engine.tables.of(id.as_str()).into_iter().flat_map(|of| &of.waiting);
        rows.filter(|(_, row)| row.owner == Trx::NONE).map(|(user, _)| user.as_str().to_owned()).collect()
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
