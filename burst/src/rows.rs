//! Reads what MySQL holds of the campaign. Never writes.

use crate::load::ledger::{Coupon, Refusal, Rows};
use sqlx::Connection as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use std::str::FromStr;
use std::time::Duration;
use time::PrimitiveDateTime;

/// The database, seen through one campaign.
pub struct Store {
    pool: MySqlPool,
    campaign: String,
}

/// The database address cannot be used. The address is not repeated: it holds a password.
#[derive(Debug, thiserror::Error)]
#[error("--database-url is no address of the form mysql://user:password@host:port/database: {0}")]
pub struct AddressError(sqlx::Error);

/// How many rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Rows of `coupons`.
    pub coupons: u64,
    /// Rows of `refusals`.
    pub refusals: u64,
}

/// A database that does not let us in within this time is not there.
const ACQUIRE: Duration = Duration::from_secs(5);

impl Store {
    /// Prepares to read `campaign`; connects with the first question.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn new(url: &str, campaign: &str) -> Result<Self, AddressError> {
        let options = MySqlConnectOptions::from_str(url).map_err(AddressError)?;
        let pool = MySqlPoolOptions::new().max_connections(2).acquire_timeout(ACQUIRE).connect_lazy_with(options);
        Ok(Self { pool, campaign: campaign.to_owned() })
    }

    /// Opens one connection, to learn at once why it cannot be had: a pool keeps trying instead.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn reach(&self) -> Result<(), sqlx::Error> {
        let options = self.pool.connect_options();
        let connecting = tokio::time::timeout(ACQUIRE, MySqlConnection::connect_with(&options));
        connecting.await.map_err(|_| sqlx::Error::PoolTimedOut)??.ping().await
    }

    /// The capacity in force: the greatest that was granted. None if there is no such campaign.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn capacity(&self) -> Result<Option<u32>, sqlx::Error> {
        sqlx::query_scalar("SELECT MAX(capacity) FROM allotments WHERE campaign_id = ?")
            .bind(&self.campaign)
            .fetch_one(&self.pool)
            .await
    }

    /// Counts the rows.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn count(&self) -> Result<Count, sqlx::Error> {
        let (coupons, refusals): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
                    (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
        )
        .bind(&self.campaign)
        .bind(&self.campaign)
        .fetch_one(&self.pool)
        .await?;
        Ok(Count { coupons: u64::try_from(coupons).unwrap_or(0), refusals: u64::try_from(refusals).unwrap_or(0) })
    }

    /// Reads all rows, coupons by slot.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn read(&self) -> Result<Rows, sqlx::Error> {
        let coupons: Vec<(u32, String, String, PrimitiveDateTime, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT slot, user_id, code, admitted_at, issued_at FROM coupons WHERE campaign_id = ? ORDER BY slot",
        )
        .bind(&self.campaign)
        .fetch_all(&self.pool)
        .await?;
        let refusals: Vec<(String, u32, String)> = sqlx::query_as(
            "SELECT user_id, proposed_slot, reason FROM refusals WHERE campaign_id = ? ORDER BY refused_at, user_id",
        )
        .bind(&self.campaign)
        .fetch_all(&self.pool)
        .await?;
        Ok(Rows {
            coupons: coupons
                .into_iter()
                .map(|(slot, user, code, admitted_at, issued_at)| Coupon {
                    slot,
                    user,
                    code,
                    admitted_ms: utc_ms(admitted_at),
                    issued_ms: utc_ms(issued_at),
                })
                .collect(),
            refusals: refusals
                .into_iter()
                .map(|(user, proposed_slot, reason)| Refusal { user, proposed_slot, reason })
                .collect(),
        })
    }
}

/// All times in the schema are UTC.
fn utc_ms(time: PrimitiveDateTime) -> i64 {
    i64::try_from(time.assume_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The address without its password, for messages.
#[must_use]
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://..@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn times_are_utc() {
        assert_eq!(utc_ms(datetime!(2025-11-21 04:40:00.123)), 1_763_700_000_123);
    }

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(without_password("mysql://root:p@ss@127.0.0.1:3306/shop"), "mysql://..@127.0.0.1:3306/shop");
        assert_eq!(without_password("mysql://127.0.0.1/shop"), "mysql://127.0.0.1/shop");
    }

    #[tokio::test]
    async fn a_wrong_address_is_said_without_repeating_it() {
        let error = Store::new("mysql://root:secret@127.0.0.1:port/shop", "c").err().unwrap().to_string();
        assert!(error.contains("--database-url") && !error.contains("secret"), "{error}");
    }
}
