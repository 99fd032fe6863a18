//! The statements.

use super::connection::{Timed, Tracked};
use super::pool::Pool;
use super::values::{holders, list, parse_state};
use crate::store::ports::{Session, StoreResult};
use crate::store::rows::{
    Campaign, CampaignCounts, CampaignSummary, CouponRow, DeadLetterKey, Holder, NewCoupon, NewRefusal, NewWaiting,
    RefusalRow, Tally, WaitingRow,
};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};

use dropgate_shared::ids::{CampaignId, Slot};
use sqlx::{Executor, MySql, QueryBuilder};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use time::PrimitiveDateTime;

/// A connection. One of the service goes back to its pool if nothing is open on it.
pub struct MySqlSession {
    connection: Option<Tracked>,
    home: Option<Arc<Pool>>,
    in_transaction: bool,
}

impl Drop for MySqlSession {
    fn drop(&mut self) {
        match (self.connection.take(), &self.home) {
            (Some(connection), Some(home)) if !self.in_transaction && connection.is_idle() => {
                home.give_back(connection);
            }
            // The server rolls back when the connection ends.
            (Some(connection), _) => connection.abandon(),
            (None, _) => {}
        }
    }
}

type RawCoupon = (u32, String, String, PrimitiveDateTime, PrimitiveDateTime);

fn coupon_row((slot, user_id, code, admitted_at, issued_at): RawCoupon) -> CouponRow {
    CouponRow { slot, user_id, code, admitted_at, issued_at }
}

impl MySqlSession {
    pub(super) fn new(connection: Tracked, home: Option<Arc<Pool>>) -> Self {
        Self { connection: Some(connection), home, in_transaction: false }
    }

    // Unwrap safety: only `drop` takes it.
    #[allow(clippy::expect_used)]
    pub(super) fn raw(&mut self) -> Timed<'_> {
        self.connection.as_mut().expect("a session has its connection").timed()
    }

    /// The users of a campaign's coupons as bytes, without a conversion on their way back.
    pub(super) async fn user_ids_as_stored(&mut self, id: &CampaignId) -> StoreResult<Vec<Vec<u8>>> {
        let sql = "SELECT CAST(user_id AS BINARY) FROM coupons WHERE campaign_id = ? ORDER BY slot";
        Ok(sqlx::query_scalar(sql).bind(id.as_str()).persistent(false).fetch_all(self.raw()).await?)
    }

    async fn slots_of(
        &mut self,
        (table, column): (&str, &str),
        id: &CampaignId,
        users: &[&str],
    ) -> StoreResult<Vec<(String, Slot)>> {
        let mut sql = QueryBuilder::<MySql>::new("SELECT user_id, ");
        sql.push(column).push(" FROM ").push(table).push(" WHERE campaign_id = ");
        sql.push_bind(id.as_str()).push(" AND user_id IN ");
        list(&mut sql, users);
        let found: Vec<(String, u32)> = sql.build_query_as().persistent(false).fetch_all(self.raw()).await?;
        Ok(found.into_iter().filter_map(|(user, slot)| Some((user, Slot::new(slot).ok()?))).collect())
    }
}

impl Session for MySqlSession {
    async fn begin(&mut self) -> StoreResult<()> {
        // Whether the server has begun one is not known until it answers.
        self.in_transaction = true;
        self.raw().execute("BEGIN").await?;
        Ok(())
    }

    async fn commit(&mut self) -> StoreResult<()> {
        self.raw().execute("COMMIT").await?;
        self.in_transaction = false;
        Ok(())
    }

    async fn rollback(&mut self) -> StoreResult<()> {
        if self.in_transaction {
            self.raw().execute("ROLLBACK").await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    fn discard(mut self) {
        self.in_transaction = true;
    }

    async fn newest_allotment(&mut self, id: &CampaignId) -> StoreResult<Option<u32>> {
        Ok(sqlx::query_scalar("SELECT MAX(capacity) FROM allotments WHERE campaign_id = ?")
            .bind(id.as_str())
            .fetch_one(self.raw())
            .await?)
    }

    async fn newest_allotment_and_refusals(&mut self, id: &CampaignId) -> StoreResult<Option<(u32, bool)>> {
        let (capacity, refused): (Option<u32>, i64) = sqlx::query_as(
            "SELECT MAX(capacity), EXISTS (SELECT 1 FROM refusals WHERE campaign_id = ?) FROM allotments \
             WHERE campaign_id = ?",
        )
        .bind(id.as_str())
        .bind(id.as_str())
        .fetch_one(self.raw())
        .await?;
        Ok(capacity.map(|capacity| (capacity, refused != 0)))
    }

    async fn lock_campaign(&mut self, id: &CampaignId) -> StoreResult<bool> {
        let locked: Option<String> = sqlx::query_scalar("SELECT id FROM campaigns WHERE id = ? FOR UPDATE")
            .bind(id.as_str())
            .fetch_optional(self.raw())
            .await?;
        Ok(locked.is_some())
    }

    async fn coupon_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<(String, Slot)>> {
        self.slots_of(("coupons", "slot"), id, users).await
    }

    async fn refusal_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<(String, Slot)>> {
        self.slots_of(("refusals", "proposed_slot"), id, users).await
    }

    async fn coupons_with_slots(&mut self, id: &CampaignId, slots: &[u32]) -> StoreResult<Vec<CouponRow>> {
        let mut sql = QueryBuilder::<MySql>::new(
            "SELECT slot, user_id, code, admitted_at, issued_at FROM coupons WHERE campaign_id = ",
        );
        sql.push_bind(id.as_str()).push(" AND slot IN ");
        list(&mut sql, slots);
        let rows: Vec<RawCoupon> = sql.build_query_as().persistent(false).fetch_all(self.raw()).await?;
        Ok(rows.into_iter().map(coupon_row).collect())
    }

    async fn taken_slots_up_to(&mut self, id: &CampaignId, top: u32, limit: u32) -> StoreResult<Vec<u32>> {
        Ok(sqlx::query_scalar(
            "SELECT slot FROM coupons WHERE campaign_id = ? AND slot <= ? ORDER BY slot DESC LIMIT ?",
        )
        .bind(id.as_str())
        .bind(top)
        .bind(limit)
        .fetch_all(self.raw())
        .await?)
    }

    async fn insert_coupons(&mut self, coupons: &[NewCoupon<'_>], recurs: bool) -> StoreResult<()> {
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) ",
        );
        sql.push_values(coupons, |mut tuple, coupon| {
            tuple
                .push_bind(coupon.campaign.as_str())
                .push_bind(coupon.slot)
                .push_bind(coupon.allotment)
                .push_bind(coupon.user.as_str())
                .push_bind(coupon.code)
                .push_bind(coupon.admitted_at)
                .push_bind(coupon.issued_at);
        });
        sql.build().persistent(recurs).execute(self.raw()).await?;
        Ok(())
    }

    async fn insert_refusals(&mut self, refusals: &[NewRefusal<'_>]) -> StoreResult<()> {
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT INTO refusals (campaign_id, user_id, proposed_slot, reason, admitted_at, refused_at) ",
        );
        sql.push_values(refusals, |mut tuple, refusal| {
            tuple
                .push_bind(refusal.campaign.as_str())
                .push_bind(refusal.user.as_str())
                .push_bind(refusal.proposed_slot)
                .push_bind(refusal.reason)
                .push_bind(refusal.admitted_at)
                .push_bind(refusal.refused_at);
        });
        sql.build().persistent(false).execute(self.raw()).await?;
        Ok(())
    }

    async fn campaigns_with_refusals(&mut self) -> StoreResult<Vec<String>> {
        let sql = "SELECT DISTINCT campaign_id FROM refusals ORDER BY campaign_id";
        Ok(sqlx::query_scalar(sql).fetch_all(self.raw()).await?)
    }

    async fn waiting_among(&mut self, id: &CampaignId, users: &[&str]) -> StoreResult<Vec<String>> {
        let mut sql = QueryBuilder::<MySql>::new("SELECT user_id FROM waiting_claims WHERE campaign_id = ");
        sql.push_bind(id.as_str()).push(" AND user_id IN ");
        list(&mut sql, users);
        Ok(sql.build_query_scalar().persistent(false).fetch_all(self.raw()).await?)
    }

    async fn insert_waiting(&mut self, claims: &[NewWaiting<'_>]) -> StoreResult<()> {
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT INTO waiting_claims (campaign_id, user_id, proposed_slot, code, admitted_at, waiting_since) ",
        );
        sql.push_values(claims, |mut tuple, claim| {
            tuple
                .push_bind(claim.campaign.as_str())
                .push_bind(claim.user.as_str())
                .push_bind(claim.proposed_slot)
                .push_bind(claim.code)
                .push_bind(claim.admitted_at)
                .push_bind(claim.waiting_since);
        });
        sql.build().persistent(false).execute(self.raw()).await?;
        Ok(())
    }

    async fn waiting(&mut self, id: Option<&CampaignId>, limit: u32) -> StoreResult<Vec<WaitingRow>> {
        let mut sql = QueryBuilder::<MySql>::new(
            "SELECT w.campaign_id, w.user_id, w.proposed_slot, w.code, w.admitted_at FROM waiting_claims w \
             LEFT JOIN coupons c ON c.campaign_id = w.campaign_id AND c.user_id = w.user_id \
             LEFT JOIN refusals r ON r.campaign_id = w.campaign_id AND r.user_id = w.user_id \
             WHERE c.user_id IS NULL AND r.user_id IS NULL",
        );
        if let Some(id) = id {
            sql.push(" AND w.campaign_id = ").push_bind(id.as_str());
        }
        sql.push(" ORDER BY w.campaign_id, w.admitted_at, w.user_id LIMIT ").push_bind(limit);
        let rows: Vec<(String, String, u32, String, PrimitiveDateTime)> =
            sql.build_query_as().fetch_all(self.raw()).await?;
        let row = |(campaign_id, user_id, proposed_slot, code, admitted_at)| WaitingRow {
            campaign_id,
            user_id,
            proposed_slot,
            code,
            admitted_at,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn insert_campaign(
        &mut self,
        id: &CampaignId,
        campaign: &Campaign,
        created_at: PrimitiveDateTime,
    ) -> StoreResult<()> {
        sqlx::query("INSERT INTO campaigns (id, state, opens_at, closes_at, created_at) VALUES (?, ?, ?, ?, ?)")
            .bind(id.as_str())
            .bind(campaign.state.as_str())
            .bind(campaign.opens_at)
            .bind(campaign.closes_at)
            .bind(created_at)
            .execute(self.raw())
            .await?;
        Ok(())
    }

    async fn insert_allotment(
        &mut self,
        id: &CampaignId,
        capacity: u32,
        granted_at: PrimitiveDateTime,
    ) -> StoreResult<()> {
        sqlx::query("INSERT INTO allotments (campaign_id, capacity, granted_at) VALUES (?, ?, ?)")
            .bind(id.as_str())
            .bind(capacity)
            .bind(granted_at)
            .execute(self.raw())
            .await?;
        Ok(())
    }

    async fn next_version(&mut self, id: &CampaignId, known: u32) -> StoreResult<()> {
        sqlx::query("UPDATE campaigns SET version = GREATEST(version, ?) + 1 WHERE id = ?")
            .bind(known)
            .bind(id.as_str())
            .execute(self.raw())
            .await?;
        Ok(())
    }

    async fn set_state(&mut self, id: &CampaignId, from: &[CampaignState], to: CampaignState) -> StoreResult<bool> {
        let mut sql = QueryBuilder::<MySql>::new("UPDATE campaigns SET version = version + 1, state = ");
        sql.push_bind(to.as_str()).push(" WHERE id = ").push_bind(id.as_str()).push(" AND state IN ");
        let from: Vec<&str> = from.iter().map(|state| state.as_str()).collect();
        list(&mut sql, &from);
        let done = sql.build().persistent(false).execute(self.raw()).await?;
        Ok(done.rows_affected() > 0)
    }

    async fn set_window(
        &mut self,
        id: &CampaignId,
        opens_at: PrimitiveDateTime,
        closes_at: Option<PrimitiveDateTime>,
    ) -> StoreResult<()> {
        sqlx::query("UPDATE campaigns SET version = version + 1, opens_at = ?, closes_at = ? WHERE id = ?")
            .bind(opens_at)
            .bind(closes_at)
            .bind(id.as_str())
            .execute(self.raw())
            .await?;
        Ok(())
    }

    async fn campaign(&mut self, id: &CampaignId) -> StoreResult<Option<Campaign>> {
        let row: Option<(String, PrimitiveDateTime, Option<PrimitiveDateTime>, u32, u32)> = sqlx::query_as(
            "SELECT c.state, c.opens_at, c.closes_at, c.version, a.capacity FROM campaigns c \
             JOIN allotments a ON a.campaign_id = c.id WHERE c.id = ? ORDER BY a.capacity DESC LIMIT 1",
        )
        .bind(id.as_str())
        .fetch_optional(self.raw())
        .await?;
        row.map(|(state, opens_at, closes_at, version, capacity)| {
            Ok(Campaign { state: parse_state(&state)?, capacity, opens_at, closes_at, version })
        })
        .transpose()
    }

    async fn campaigns(&mut self) -> StoreResult<Vec<CampaignSummary>> {
        type Row = (String, String, u32, PrimitiveDateTime, Option<PrimitiveDateTime>, u32, i64, i64);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT c.id, c.state, MAX(a.capacity) AS capacity, c.opens_at, c.closes_at, c.version, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = c.id) AS issued, \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = c.id) AS refused \
             FROM campaigns c JOIN allotments a ON a.campaign_id = c.id \
             GROUP BY c.id, c.state, c.opens_at, c.closes_at, c.version ORDER BY c.opens_at DESC, c.id",
        )
        .fetch_all(self.raw())
        .await?;
        rows.into_iter()
            .map(|(id, state, capacity, opens_at, closes_at, version, issued, refused)| {
                let campaign = Campaign { state: parse_state(&state)?, capacity, opens_at, closes_at, version };
                let rows = Tally { issued: issued.unsigned_abs(), refused: refused.unsigned_abs() };
                Ok(CampaignSummary { id, campaign, rows })
            })
            .collect()
    }

    async fn tally(&mut self, id: &CampaignId) -> StoreResult<Tally> {
        let (issued, refused): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
        )
        .bind(id.as_str())
        .bind(id.as_str())
        .fetch_one(self.raw())
        .await?;
        Ok(Tally { issued: issued.unsigned_abs(), refused: refused.unsigned_abs() })
    }

    async fn counts(&mut self, id: &CampaignId) -> StoreResult<CampaignCounts> {
        let (capacity, coupons, users, beyond, refusals, both): (u32, i64, i64, i64, i64, i64) = sqlx::query_as(
            "SELECT a.capacity, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = a.campaign_id) AS coupons, \
             (SELECT COUNT(DISTINCT user_id) FROM coupons WHERE campaign_id = a.campaign_id) AS users, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = a.campaign_id \
                 AND (slot < 1 OR slot > a.capacity OR allotment NOT IN \
                     (SELECT capacity FROM allotments WHERE campaign_id = a.campaign_id))) AS beyond, \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = a.campaign_id) AS refusals, \
             (SELECT COUNT(*) FROM refusals r JOIN coupons c \
                 ON c.campaign_id = r.campaign_id AND c.user_id = r.user_id \
                 WHERE r.campaign_id = a.campaign_id) AS `both` \
             FROM allotments a WHERE a.campaign_id = ? ORDER BY a.capacity DESC LIMIT 1",
        )
        .bind(id.as_str())
        .fetch_one(self.raw())
        .await?;
        let [coupons, users, beyond, refusals, both] = [coupons, users, beyond, refusals, both].map(i64::unsigned_abs);
        Ok(CampaignCounts { capacity, coupons, users, beyond, refusals, both })
    }

    async fn coupons_after(&mut self, id: &CampaignId, after: Option<u32>, limit: u32) -> StoreResult<Vec<CouponRow>> {
        let rows: Vec<RawCoupon> = sqlx::query_as(
            "SELECT slot, user_id, code, admitted_at, issued_at FROM coupons \
             WHERE campaign_id = ? AND slot >= ? ORDER BY slot LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after.map_or(0, |after| u64::from(after) + 1))
        .bind(limit)
        .fetch_all(self.raw())
        .await?;
        Ok(rows.into_iter().map(coupon_row).collect())
    }

    async fn refusals_after(&mut self, id: &CampaignId, after: &str, limit: u32) -> StoreResult<Vec<RefusalRow>> {
        let rows: Vec<(String, u32, String, PrimitiveDateTime, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT user_id, proposed_slot, reason, admitted_at, refused_at FROM refusals \
             WHERE campaign_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(self.raw())
        .await?;
        let row = |(user_id, proposed_slot, reason, admitted_at, refused_at)| RefusalRow {
            user_id,
            proposed_slot,
            reason,
            admitted_at,
            refused_at,
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn refused_after(&mut self, id: &CampaignId, after: &str, limit: u32) -> StoreResult<Vec<Holder>> {
        let rows: Vec<(String, u32, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT user_id, proposed_slot, admitted_at FROM refusals r WHERE campaign_id = ? AND user_id > ? \
             AND NOT EXISTS (SELECT 1 FROM coupons c WHERE c.campaign_id = r.campaign_id AND c.user_id = r.user_id) \
             ORDER BY user_id LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(self.raw())
        .await?;
        Ok(holders(rows, ClaimStatus::Refused).collect())
    }

    async fn settled(&mut self, id: &CampaignId, users: &[String]) -> StoreResult<HashMap<String, ClaimEntry>> {
        let mut settled = HashMap::new();
        if users.is_empty() {
            return Ok(settled);
        }
        for (table, slot, status) in
            [("refusals", "proposed_slot", ClaimStatus::Refused), ("coupons", "slot", ClaimStatus::Issued)]
        {
            let mut sql = QueryBuilder::<MySql>::new("SELECT user_id, ");
            sql.push(slot).push(", admitted_at FROM ").push(table).push(" WHERE campaign_id = ");
            sql.push_bind(id.as_str()).push(" AND user_id IN ");
            list(&mut sql, users);
            let rows: Vec<(String, u32, PrimitiveDateTime)> =
                sql.build_query_as().persistent(false).fetch_all(self.raw()).await?;
            settled.extend(holders(rows, status));
        }
        Ok(settled)
    }

    async fn replayed(&mut self, keys: &[DeadLetterKey]) -> StoreResult<HashSet<DeadLetterKey>> {
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = QueryBuilder::<MySql>::new(
            "SELECT partition_id, record_offset, dead_at FROM dead_letter_replays \
             WHERE (partition_id, record_offset, dead_at) IN ",
        );
        sql.push_tuples(keys, |mut tuple, (partition, offset, dead_at)| {
            tuple.push_bind(*partition).push_bind(*offset).push_bind(*dead_at);
        });
        let found: Vec<DeadLetterKey> = sql.build_query_as().persistent(false).fetch_all(self.raw()).await?;
        Ok(found.into_iter().collect())
    }

    async fn remember_replayed(&mut self, keys: &[DeadLetterKey], at: PrimitiveDateTime) -> StoreResult<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT IGNORE INTO dead_letter_replays (partition_id, record_offset, dead_at, replayed_at) ",
        );
        sql.push_values(keys, |mut tuple, (partition, offset, dead_at)| {
            tuple.push_bind(*partition).push_bind(*offset).push_bind(*dead_at).push_bind(at);
        });
        sql.build().persistent(false).execute(self.raw()).await?;
        Ok(())
    }
}
