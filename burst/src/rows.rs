//! Reads the rows of the campaign from MySQL, and watches their number. Never writes.

use crate::load::progress::LiveCounters;
use serde::Serialize;
use sqlx::Connection as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use time::PrimitiveDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// A row of `coupons`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    pub slot: u32,
    pub user: String,
    pub code: String,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: i64,
    /// When the issuer wrote the row, by its clock, in ms since the epoch.
    pub issued_ms: i64,
}

/// A row of `refusals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub user: String,
    pub proposed_slot: u32,
    pub reason: String,
}

/// All rows of the campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// By slot.
    pub coupons: Vec<Coupon>,
    pub refusals: Vec<Refusal>,
}

/// The database, limited to one campaign.
pub struct RowReader {
    pool: MySqlPool,
    campaign: String,
}

/// The message does not repeat the URL, because it contains a password.
#[derive(Debug, thiserror::Error)]
#[error("--database-url is not valid; expected mysql://user:password@host:port/database: {0}")]
pub struct DatabaseUrlError(sqlx::Error);

/// How long the database may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two counts of the rows. Each is an index scan.
const COUNT_EVERY: Duration = Duration::from_millis(100);

impl RowReader {
    /// Connects with the first query.
    ///
    /// # Errors
    /// If `url` is not valid.
    pub fn new(url: &str, campaign: &str) -> Result<Self, DatabaseUrlError> {
        let options = MySqlConnectOptions::from_str(url).map_err(DatabaseUrlError)?;
        let pool =
            MySqlPoolOptions::new().max_connections(2).acquire_timeout(CONNECT_TIMEOUT).connect_lazy_with(options);
        Ok(Self { pool, campaign: campaign.to_owned() })
    }

    /// Opens one connection, to get its error at once: a pool keeps trying instead.
    ///
    /// # Errors
    /// Any error of the database; so for all queries below.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        let options = self.pool.connect_options();
        let connecting = timeout(CONNECT_TIMEOUT, MySqlConnection::connect_with(&options));
        connecting.await.map_err(|_| sqlx::Error::PoolTimedOut)??.ping().await
    }

    /// The current capacity: the greatest that was granted. None if there is no such campaign.
    pub async fn capacity(&self) -> Result<Option<u32>, sqlx::Error> {
        sqlx::query_scalar("SELECT MAX(capacity) FROM allotments WHERE campaign_id = ?")
            .bind(&self.campaign)
            .fetch_one(&self.pool)
            .await
    }

    /// The number of coupons and of refusals.
    pub async fn count(&self) -> Result<(u64, u64), sqlx::Error> {
        let (coupons, refusals): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
                    (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
        )
        .bind(&self.campaign)
        .bind(&self.campaign)
        .fetch_one(&self.pool)
        .await?;
        Ok((u64::try_from(coupons).unwrap_or(0), u64::try_from(refusals).unwrap_or(0)))
    }

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

/// A count of the rows that differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When it was taken, in ms since the start of the burst.
    pub at_ms: u64,
    pub coupons: u64,
    pub refusals: u64,
}

/// Counts the rows in the background until it is dropped.
pub struct RowWatcher {
    samples: watch::Receiver<Vec<Sample>>,
    task: JoinHandle<()>,
}

impl RowWatcher {
    /// A count that fails is repeated at the next tick.
    #[must_use]
    pub fn start(reader: Arc<RowReader>, live: Arc<LiveCounters>) -> Self {
        let (sender, samples) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut tick = interval(COUNT_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok((coupons, refusals)) = reader.count().await else {
                    continue;
                };
                let at_ms = u64::try_from(live.elapsed().as_millis()).unwrap_or(u64::MAX);
                live.rows(coupons);
                sender.send_if_modified(|samples: &mut Vec<Sample>| {
                    let changed =
                        samples.last().is_none_or(|last| (last.coupons, last.refusals) != (coupons, refusals));
                    if changed {
                        samples.push(Sample { at_ms, coupons, refusals });
                    }
                    changed
                });
            }
        });
        Self { samples, task }
    }

    /// Waits until there is a new sample, for `limit` at most. Returns whether there is one.
    pub async fn changed(&mut self, limit: Duration) -> bool {
        matches!(timeout(limit, self.samples.changed()).await, Ok(Ok(())))
    }

    /// The latest number of rows of both kinds.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.samples.borrow().last().map_or(0, |sample| sample.coupons + sample.refusals)
    }

    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.borrow().clone()
    }
}

impl Drop for RowWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All times in the schema are UTC.
fn utc_ms(time: PrimitiveDateTime) -> i64 {
    i64::try_from(time.assume_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// The URL without user and password, for messages.
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
    async fn an_invalid_url_is_reported_without_its_password() {
        let error = RowReader::new("mysql://root:secret@127.0.0.1:port/shop", "c").err().unwrap().to_string();
        assert!(error.contains("--database-url") && !error.contains("secret"), "{error}");
    }
}
