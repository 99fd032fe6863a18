//! What `verify`, `reconcile` and `export` read: figures, rows page by page, and the rows of given users.

use super::Database;
use super::error::fault_of;
use crate::timestamp;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, Slot};
use sqlx::{FromRow, MySql, QueryBuilder};
use std::collections::HashMap;
use time::PrimitiveDateTime;

/// Figures of a campaign's rows, all of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Figures {
    /// The newest allotment.
    pub capacity: u32,
    /// Coupon rows.
    pub coupons: i64,
    /// Users who have one.
    pub users: i64,
    /// Coupon rows whose slot lies beyond 1..capacity.
    pub beyond: i64,
    /// Refusal rows.
    pub refusals: i64,
    /// Users who have both.
    pub both: i64,
}

/// A coupon.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct CouponRow {
    /// Its slot, from 1.
    pub slot: u32,
    /// Who holds it.
    pub user_id: String,
    /// Its code.
    pub code: String,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub issued_at: PrimitiveDateTime,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct RefusalRow {
    /// Who was admitted and can have none.
    pub user_id: String,
    /// The slot that Redis proposed.
    pub proposed_slot: u32,
    /// Why.
    pub reason: String,
    /// By Redis's clock.
    pub admitted_at: PrimitiveDateTime,
    /// By the issuer's clock.
    pub refused_at: PrimitiveDateTime,
}

impl CouponRow {
    /// What Redis should hold for the user. `None` for slot 0, which the schema refuses.
    #[must_use]
    pub fn entry(&self) -> Option<ClaimEntry> {
        entry(self.slot, self.admitted_at, ClaimStatus::Issued)
    }
}

impl Database {
    /// The figures of a campaign that has an allotment.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn figures(&self, id: &CampaignId) -> Result<Figures, Fault> {
        sqlx::query_as(
            "SELECT a.capacity, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = a.campaign_id) AS coupons, \
             (SELECT COUNT(DISTINCT user_id) FROM coupons WHERE campaign_id = a.campaign_id) AS users, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = a.campaign_id \
                 AND (slot < 1 OR slot > a.capacity)) AS beyond, \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = a.campaign_id) AS refusals, \
             (SELECT COUNT(*) FROM refusals r JOIN coupons c \
                 ON c.campaign_id = r.campaign_id AND c.user_id = r.user_id \
                 WHERE r.campaign_id = a.campaign_id) AS `both` \
             FROM allotments a WHERE a.campaign_id = ? ORDER BY a.capacity DESC LIMIT 1",
        )
        .bind(id.as_str())
        .fetch_one(&mut self.reach().await?)
        .await
        .map_err(|error| fault_of(&error))
    }

    /// The next `limit` coupons in the order of their slots, after slot `after` (from the first: `None`).
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn coupons_after(
        &self,
        id: &CampaignId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<CouponRow>, Fault> {
        sqlx::query_as(
            "SELECT slot, user_id, code, admitted_at, issued_at FROM coupons \
             WHERE campaign_id = ? AND slot >= ? ORDER BY slot LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after.map_or(0, |after| u64::from(after) + 1))
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| fault_of(&error))
    }

    /// The next `limit` refusals in the order of the user ids, after user `after`.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn refusals_after(&self, id: &CampaignId, after: &str, limit: u32) -> Result<Vec<RefusalRow>, Fault> {
        sqlx::query_as(
            "SELECT user_id, proposed_slot, reason, admitted_at, refused_at FROM refusals \
             WHERE campaign_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| fault_of(&error))
    }

    /// Those of `users` who have a row, with what Redis should hold for them.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn settled(&self, id: &CampaignId, users: &[String]) -> Result<HashMap<String, ClaimEntry>, Fault> {
        let mut settled = HashMap::new();
        if users.is_empty() {
            return Ok(settled);
        }
        for (table, slot, status) in
            [("refusals", "proposed_slot", ClaimStatus::Refused), ("coupons", "slot", ClaimStatus::Issued)]
        {
            let mut sql = QueryBuilder::<MySql>::new("SELECT user_id, ");
            sql.push(slot).push(", admitted_at FROM ").push(table).push(" WHERE campaign_id = ");
            sql.push_bind(id.as_str()).push(" AND user_id IN (");
            let mut list = sql.separated(", ");
            for user in users {
                list.push_bind(user);
            }
            sql.push(")");
            let rows: Vec<(String, u32, PrimitiveDateTime)> =
                sql.build_query_as().persistent(false).fetch_all(&self.pool).await.map_err(|error| fault_of(&error))?;
            settled.extend(rows.into_iter().filter_map(|(user, slot, at)| Some((user, entry(slot, at, status)?))));
        }
        Ok(settled)
    }
}

/// What Redis should hold for a row. None for slot 0, which exists nowhere: the gate proposes from 1 up and the schema
/// checks it.
pub(super) fn entry(slot: u32, admitted_at: PrimitiveDateTime, status: ClaimStatus) -> Option<ClaimEntry> {
    Some(ClaimEntry { slot: Slot::new(slot).ok()?, admitted_ms: timestamp::to_ms(admitted_at), status })
}
