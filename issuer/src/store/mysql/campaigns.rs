//! What the operator's verbs ask of MySQL.

use super::Database;
use super::audit::entry;
use super::error::{fault_of, number_of};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use sqlx::Connection;
use time::PrimitiveDateTime;

use crate::timestamp;

const DUPLICATE_ENTRY: u16 = 1062;

/// A campaign as MySQL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// `open`, `paused` or `closed`.
    pub state: String,
    /// The newest allotment.
    pub capacity: u32,
    /// From when on claims are admitted.
    pub opens_at: PrimitiveDateTime,
    /// Until when; `None`: until it is sold out.
    pub closes_at: Option<PrimitiveDateTime>,
}

/// How many rows a campaign has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Coupons.
    pub issued: u64,
    /// Refusals.
    pub refused: u64,
}

/// A campaign in a list.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// `open`, `paused` or `closed`.
    pub state: String,
    /// The newest allotment.
    pub capacity: u32,
    /// From when on claims are admitted.
    pub opens_at: PrimitiveDateTime,
    /// Until when.
    pub closes_at: Option<PrimitiveDateTime>,
    /// Coupon rows.
    pub issued: i64,
    /// Refusal rows.
    pub refused: i64,
}

/// What became of a wish to raise a capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raised {
    /// A new allotment was granted.
    Now {
        /// The one before.
        before: u32,
    },
    /// It is in force already.
    Before,
    /// A greater one is in force.
    Lower {
        /// That one.
        in_force: u32,
    },
    /// There is no such campaign.
    Unknown,
}

/// A user with the entry that Redis should hold for him.
pub type Holder = (String, ClaimEntry);

impl Database {
    /// Creates a campaign with its first allotment. False if the id is taken.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn create_campaign(&self, id: &CampaignId, campaign: &Campaign) -> Result<bool, Fault> {
        let mut connection = self.reach().await?;
        let create = async {
            let now = timestamp::now();
            let mut transaction = connection.begin().await?;
            sqlx::query("INSERT INTO campaigns (id, state, opens_at, closes_at, created_at) VALUES (?, ?, ?, ?, ?)")
                .bind(id.as_str())
                .bind(&campaign.state)
                .bind(campaign.opens_at)
                .bind(campaign.closes_at)
                .bind(now)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO allotments (campaign_id, capacity, granted_at) VALUES (?, ?, ?)")
                .bind(id.as_str())
                .bind(campaign.capacity)
                .bind(now)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        match create.await {
            Ok(()) => Ok(true),
            Err(error) if number_of(&error) == Some(DUPLICATE_ENTRY) => Ok(false),
            Err(error) => Err(fault_of(&error)),
        }
    }

    /// Looks a campaign up. One without any allotment counts as none.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn campaign(&self, id: &CampaignId) -> Result<Option<Campaign>, Fault> {
        let row: Option<(String, PrimitiveDateTime, Option<PrimitiveDateTime>, u32)> = sqlx::query_as(
            "SELECT c.state, c.opens_at, c.closes_at, a.capacity FROM campaigns c \
             JOIN allotments a ON a.campaign_id = c.id WHERE c.id = ? ORDER BY a.capacity DESC LIMIT 1",
        )
        .bind(id.as_str())
        .fetch_optional(&mut self.reach().await?)
        .await
        .map_err(|error| fault_of(&error))?;
        Ok(row.map(|(state, opens_at, closes_at, capacity)| Campaign { state, capacity, opens_at, closes_at }))
    }

    /// All campaigns, the latest to open first.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn campaigns(&self) -> Result<Vec<Listed>, Fault> {
        sqlx::query_as(
            "SELECT c.id, c.state, MAX(a.capacity) AS capacity, c.opens_at, c.closes_at, \
             (SELECT COUNT(*) FROM coupons WHERE campaign_id = c.id) AS issued, \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = c.id) AS refused \
             FROM campaigns c JOIN allotments a ON a.campaign_id = c.id \
             GROUP BY c.id, c.state, c.opens_at, c.closes_at ORDER BY c.opens_at DESC, c.id",
        )
        .fetch_all(&mut self.reach().await?)
        .await
        .map_err(|error| fault_of(&error))
    }

    /// Sets a campaign's state if it is one of `from`. False if it is in another state, or unknown.
    ///
    /// # Errors
    /// [`Fault`]; to set it again is right.
    pub async fn set_state(&self, id: &CampaignId, from: &[&str], to: &str) -> Result<bool, Fault> {
        let mut sql = sqlx::QueryBuilder::<sqlx::MySql>::new("UPDATE campaigns SET state = ");
        sql.push_bind(to).push(" WHERE id = ").push_bind(id.as_str()).push(" AND state IN (");
        let mut states = sql.separated(", ");
        for state in from {
            states.push_bind(*state);
        }
        sql.push(")");
        let done = sql.build().persistent(false).execute(&mut self.reach().await?).await;
        Ok(done.map_err(|error| fault_of(&error))?.rows_affected() > 0)
    }

    /// Grants a greater capacity, with a date.
    ///
    /// # Errors
    /// [`Fault`]; to grant it again is right.
    pub async fn raise(&self, id: &CampaignId, capacity: u32) -> Result<Raised, Fault> {
        let mut connection = self.reach().await?;
        let raise = async {
            let mut transaction = connection.begin().await?;
            // The lock that whoever looks for free slots holds: they see the old allotment or the new one.
            let locked: Option<String> = sqlx::query_scalar("SELECT id FROM campaigns WHERE id = ? FOR UPDATE")
                .bind(id.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
            let before: Option<u32> = sqlx::query_scalar(
                "SELECT capacity FROM allotments WHERE campaign_id = ? ORDER BY capacity DESC LIMIT 1",
            )
            .bind(id.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
            let raised = match before.filter(|_| locked.is_some()) {
                None => Raised::Unknown,
                Some(in_force) if in_force > capacity => Raised::Lower { in_force },
                Some(in_force) if in_force == capacity => Raised::Before,
                Some(before) => {
                    sqlx::query("INSERT INTO allotments (campaign_id, capacity, granted_at) VALUES (?, ?, ?)")
                        .bind(id.as_str())
                        .bind(capacity)
                        .bind(timestamp::now())
                        .execute(&mut *transaction)
                        .await?;
                    Raised::Now { before }
                }
            };
            transaction.commit().await?;
            Ok(raised)
        };
        raise.await.map_err(|error: sqlx::Error| fault_of(&error))
    }

    /// Counts a campaign's rows.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn tally(&self, id: &CampaignId) -> Result<Tally, Fault> {
        let (issued, refused): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
             (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
        )
        .bind(id.as_str())
        .bind(id.as_str())
        .fetch_one(&mut self.reach().await?)
        .await
        .map_err(|error| fault_of(&error))?;
        Ok(Tally { issued: issued.unsigned_abs(), refused: refused.unsigned_abs() })
    }

    /// The next `limit` coupon holders, in the order of their slots, after slot `after`.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn issued_after(&self, id: &CampaignId, after: u32, limit: u32) -> Result<Vec<Holder>, Fault> {
        let rows: Vec<(String, u32, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT user_id, slot, admitted_at FROM coupons WHERE campaign_id = ? AND slot > ? ORDER BY slot LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| fault_of(&error))?;
        Ok(holders(rows, ClaimStatus::Issued))
    }

    /// The next `limit` refused users, in the order of their ids, after user `after`. Who was refused and has got
    /// a coupon since (a raise came in between) is none of them.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn refused_after(&self, id: &CampaignId, after: &str, limit: u32) -> Result<Vec<Holder>, Fault> {
        let rows: Vec<(String, u32, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT user_id, proposed_slot, admitted_at FROM refusals r WHERE campaign_id = ? AND user_id > ? \
             AND NOT EXISTS (SELECT 1 FROM coupons c WHERE c.campaign_id = r.campaign_id AND c.user_id = r.user_id) \
             ORDER BY user_id LIMIT ?",
        )
        .bind(id.as_str())
        .bind(after)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|error| fault_of(&error))?;
        Ok(holders(rows, ClaimStatus::Refused))
    }
}

fn holders(rows: Vec<(String, u32, PrimitiveDateTime)>, status: ClaimStatus) -> Vec<Holder> {
    rows.into_iter().filter_map(|(user, slot, admitted_at)| Some((user, entry(slot, admitted_at, status)?))).collect()
}
