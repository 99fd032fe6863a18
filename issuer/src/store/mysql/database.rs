//! The pool and connections.

use super::error::fault_of;
use super::session::MySqlSession;
use super::settings::DatabaseSettings;
use crate::store::ports::{Store, StoreError, StoreResult};
use dropgate_shared::fault::Fault;
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{Connection, Executor};
use std::time::Duration;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A MySQL or MariaDB server's database.
#[derive(Clone)]
pub struct MySqlStore {
    pool: MySqlPool,
}

impl MySqlStore {
    /// A pool of at most `connections`, none opened yet.
    #[must_use]
    pub fn new(settings: &DatabaseSettings, connections: u32) -> Self {
        let pool = MySqlPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_DEADLINE)
            // A round trip a batch saved. A connection that died while idle costs one retry.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(prepare_session(connection)))
            .connect_lazy_with(settings.options.clone());
        Self { pool }
    }

    /// Opens a connection outside the pool: the pool would report every failure as "timed out".
    ///
    /// # Errors
    /// [`Fault`] with the remedy.
    pub(super) async fn reach(&self) -> Result<MySqlConnection, Fault> {
        let connect = async {
            let mut connection = MySqlConnection::connect_with(&self.pool.connect_options()).await?;
            prepare_session(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(fault_of(&error)),
            Err(_) => Err(fault_of(&sqlx::Error::PoolTimedOut)),
        }
    }

    /// Whether the database answers, over a connection of its own that is closed again.
    ///
    /// # Errors
    /// [`Fault`] with the remedy.
    pub async fn ping(&self) -> Result<(), Fault> {
        let mut connection = self.reach().await?;
        connection.ping().await.map_err(|error| fault_of(&error))?;
        // It has answered; how it ends changes nothing.
        let _ = connection.close().await;
        Ok(())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Store for MySqlStore {
    type Session = MySqlSession;

    async fn session(&self) -> StoreResult<MySqlSession> {
        Ok(self.pool.acquire().await?.into())
    }

    async fn connect(&self) -> StoreResult<MySqlSession> {
        Ok(self.reach().await.map_err(StoreError::Away)?.into())
    }
}

/// READ COMMITTED: inserts take no gap locks, and a conflict is looked into with fresh eyes in the same
/// transaction. Autocommit is what a server may have switched off. A lock is waited for briefly; the
/// batch is tried again anyway.
async fn prepare_session(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    connection.execute("SET SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = 5").await?;
    Ok(())
}
