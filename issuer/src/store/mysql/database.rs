//! The pool, connections, and the migrations.

use super::error::{NO_SUCH_TABLE, fault_of, number_of};
use super::session::MySqlSession;
use super::settings::DatabaseSettings;
use crate::labels;
use crate::store::ports::{Store, StoreError, StoreResult};
use dropgate_shared::fault::{Fault, Source};
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::{Connection, Executor};
use std::collections::HashSet;
use std::time::Duration;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

pub(super) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

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

    /// Brings the schema up to date. Returns `version name` of each migration that was applied now.
    ///
    /// MariaDB does not serialise two migrators (`GET_LOCK` with no limit is NULL there), so this is a
    /// command of its own and nothing that every instance does at its start.
    pub async fn migrate(&self) -> Result<Vec<String>, Fault> {
        let mut connection = self.reach().await?;
        let before = applied(&mut connection).await?;
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|error| {
            Fault::none(
                Source::MySql,
                labels::MIGRATION,
                false,
                format!("a migration failed, nothing after it was run: {error}"),
            )
        })?;
        let new = MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version));
        Ok(new.map(|migration| format!("{:04} {}", migration.version, migration.description)).collect())
    }

    /// Whether every migration that this build knows has been applied.
    pub async fn is_migrated(&self) -> Result<bool, Fault> {
        let mut connection = self.reach().await?;
        let applied = applied(&mut connection).await?;
        Ok(MIGRATIONS.iter().all(|migration| applied.contains(&migration.version)))
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

async fn applied(connection: &mut MySqlConnection) -> Result<HashSet<i64>, Fault> {
    let query = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success = TRUE");
    match query.fetch_all(connection).await {
        Ok(versions) => Ok(versions.into_iter().collect()),
        Err(error) if number_of(&error) == Some(NO_SUCH_TABLE) => Ok(HashSet::new()),
        Err(error) => Err(fault_of(&error)),
    }
}
