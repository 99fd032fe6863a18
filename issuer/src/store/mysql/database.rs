//! Connections, and how long they stay open.

use super::connection::{Limits, Tracked};
use super::error::{fault_of, no_answer};
use super::pool::Pool;
use super::session::MySqlSession;
use super::settings::DatabaseSettings;
use crate::store::ports::{Store, StoreError, StoreResult};
use dropgate_shared::fault::Fault;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Executor};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a question may take that reads no rows of a campaign.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A session that was idle for longer is asked whether it still exists: a firewall or NAT may have forgotten it, and
/// then nothing ever comes back. Shorter than any of them waits; and rare enough that a busy loop never asks.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// How long it may take to answer that.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// A MySQL or MariaDB server's database.
#[derive(Clone)]
pub struct MySqlStore {
    options: Arc<MySqlConnectOptions>,
    pool: Arc<Pool>,
    limits: Limits,
    ask_after: Duration,
}

impl MySqlStore {
    /// Keeps at most `connections` open, none opened yet.
    #[must_use]
    pub fn new(settings: &DatabaseSettings, connections: u32) -> Self {
        Self {
            options: Arc::new(settings.options.clone()),
            pool: Arc::new(Pool::new(connections)),
            limits: Limits::SERVICE,
            ask_after: ASK_AFTER,
        }
    }

    /// Other limits for the sessions of batches, for tests.
    #[must_use]
    pub fn with_limits(self, limits: Limits, ask_after: Duration) -> Self {
        Self { limits, ask_after, ..self }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`Fault`] with the remedy.
    pub(super) async fn reach(&self) -> Result<MySqlConnection, Fault> {
        Ok(self.open(Limits::OPERATOR).await?.raw)
    }

    async fn open(&self, limits: Limits) -> Result<Tracked, Fault> {
        let connect = async {
            let mut connection = MySqlConnection::connect_with(&self.options).await?;
            prepare_session(&mut connection).await?;
            Tracked::new(connection, Arc::clone(&self.options), limits).await
        };
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(fault_of(&error)),
            Err(_) => Err(fault_of(&sqlx::Error::PoolTimedOut)),
        }
    }

    /// A question that must be answered soon, or counts as not answered.
    pub(super) async fn soon<T>(&self, ask: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        timeout(ANSWER_DEADLINE, ask).await.unwrap_or_else(|_| Err(no_answer(ANSWER_DEADLINE)))
    }

    /// Whether the database answers, over a connection of its own that is closed again.
    ///
    /// # Errors
    /// [`Fault`] with the remedy.
    pub async fn ping(&self) -> Result<(), Fault> {
        let ask = async {
            let mut connection = self.reach().await?;
            connection.ping().await.map_err(|error| fault_of(&error))?;
            // It has answered; how it ends changes nothing.
            let _ = connection.close().await;
            Ok(())
        };
        self.soon(ask).await
    }

    /// Closes every connection.
    pub async fn close(&self) {
        while let Some((connection, _)) = self.pool.take() {
            // The process ends, or the test: nothing depends on it.
            let _ = connection.raw.close().await;
        }
    }
}

impl Store for MySqlStore {
    type Session = MySqlSession;

    async fn session(&self) -> StoreResult<MySqlSession> {
        while let Some((mut connection, since)) = self.pool.take() {
            let is_alive = since.elapsed() < self.ask_after
                || timeout(ASK_DEADLINE, connection.raw.ping()).await.is_ok_and(|answer| answer.is_ok());
            if is_alive {
                return Ok(MySqlSession::new(connection, Some(Arc::clone(&self.pool))));
            }
        }
        let connection = self.open(self.limits).await.map_err(StoreError::Away)?;
        Ok(MySqlSession::new(connection, Some(Arc::clone(&self.pool))))
    }

    async fn connect(&self) -> StoreResult<MySqlSession> {
        let connection = self.open(Limits::OPERATOR).await.map_err(StoreError::Away)?;
        Ok(MySqlSession::new(connection, None))
    }
}

/// What the promises rest on, whatever the server's defaults are: constraints are checked, a value that does not fit is
/// an error and not cut off, a commit ends its transaction, and a read returns every row. What follows `/*M!` is for
/// MariaDB only.
const PINNED: &str = "SET SESSION foreign_key_checks = 1, SESSION unique_checks = 1, \
                      SESSION sql_mode = 'STRICT_TRANS_TABLES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
                      SESSION completion_type = 'NO_CHAIN', SESSION sql_select_limit = DEFAULT \
                      /*M!100202 , SESSION check_constraint_checks = 1 */";

/// READ COMMITTED: inserts take no gap locks, and a conflict is looked into with fresh eyes in the same
/// transaction. Autocommit is what a server may have switched off. A lock is waited for briefly; the
/// batch is tried again anyway.
async fn prepare_session(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE").await?;
    connection.execute(PINNED).await?;
    connection.execute("SET SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = 5").await?;
    Ok(())
}
