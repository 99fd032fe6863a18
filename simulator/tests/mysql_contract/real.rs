//! The real server: a database for each case, and what it says of its locks and rows.

use crate::operations::Rows;
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::store::mysql::settings::DatabaseSettings;
use dropgate_simulator::mysql::{Flavor, Table, TableLock};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::cell::Cell;
use std::rc::Rc;
use std::str::FromStr;
use time::PrimitiveDateTime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const SERVER: &str = "DROPGATE_TEST_DATABASE_URL";

/// A migrated database of its own. [`Real::drop_database`] removes it; the folder of the server that runs the tests
/// is removed anyway.
pub struct Real {
    pub store: MySqlStore,
    options: MySqlConnectOptions,
    name: String,
    admin: MySqlConnection,
    is_mariadb: bool,
    /// Who locks tables: the id of the connection, what ends it, its task.
    foreign: Option<(u64, oneshot::Sender<()>, JoinHandle<()>)>,
}

fn name_of(table: Table) -> &'static str {
    match table {
        Table::Campaigns => "campaigns",
        Table::Allotments => "allotments",
        Table::Coupons => "coupons",
        Table::Refusals => "refusals",
        Table::Replays => "dead_letter_replays",
        Table::Waiting => "waiting_claims",
    }
}

impl Real {
    pub async fn new() -> Self {
        let url = std::env::var(SERVER)
            .unwrap_or_else(|_| panic!("{SERVER} names no MySQL server; `make unit` starts one and provides it"));
        let options = MySqlConnectOptions::from_str(&url).unwrap();
        let mut admin = MySqlConnection::connect_with(&options).await.unwrap();
        let name = format!("dropgate_test_{:016x}", Jitter::system().next());
        admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        admin.execute(AssertSqlSafe(format!("USE {name}"))).await.unwrap();
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut admin).await.unwrap();
        let options = options.database(&name);
        let store = MySqlStore::new(&DatabaseSettings { options: options.clone(), shown: String::new() }, 4);
        store.migrate().await.unwrap();
        Self { store, options, name, admin, is_mariadb: version.contains("MariaDB"), foreign: None }
    }

    pub fn flavor(&self) -> Flavor {
        if self.is_mariadb { Flavor::MariaDb } else { Flavor::MySql }
    }

    pub async fn execute(&mut self, sql: &'static str) {
        self.admin.execute(sql).await.unwrap();
    }

    /// Somebody else locks tables, or waits to do so.
    pub async fn lock(&mut self, lock: TableLock) {
        let sql = match lock {
            TableLock::Reading(table) => format!("LOCK TABLES {} READ", name_of(table)),
            TableLock::Writing(table) => format!("LOCK TABLES {} WRITE", name_of(table)),
            TableLock::Everything => "FLUSH TABLES WITH READ LOCK".to_owned(),
        };
        let mut session = MySqlConnection::connect_with(&self.options).await.unwrap();
        let id: u64 =
            sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)").fetch_one(&mut session).await.unwrap();
        let (unlock, unlocked) = oneshot::channel::<()>();
        let has_lock = Rc::new(Cell::new(false));
        let flag = has_lock.clone();
        let task = tokio::task::spawn_local(async move {
            session.execute(AssertSqlSafe(sql)).await.unwrap();
            flag.set(true);
            let _ = unlocked.await;
            // How it ends changes nothing: its locks end with it.
            let _ = session.close().await;
        });
        self.foreign = Some((id, unlock, task));
        while !has_lock.get() && self.count(&format!("id = {id} AND state LIKE 'Waiting for %lock'")).await == 0 {}
    }

    pub async fn unlock(&mut self) {
        if let Some((_, unlock, task)) = self.foreign.take() {
            unlock.send(()).unwrap();
            task.await.unwrap();
        }
    }

    /// MySQL only: MariaDB's `read_only` leaves alone whoever may do everything.
    pub async fn set_read_only(&mut self, is_read_only: bool) {
        let sql = format!("SET GLOBAL super_read_only = {0}, GLOBAL read_only = {0}", u8::from(is_read_only));
        self.admin.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    /// Connections of which this holds.
    async fn count(&mut self, condition: &str) -> usize {
        let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE {condition}");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.admin).await.unwrap();
        usize::try_from(count).unwrap()
    }

    /// How many statements of sessions wait for a lock.
    pub async fn waiting(&mut self) -> usize {
        let foreign = self.foreign.as_ref().map_or(0, |(id, ..)| *id);
        let on_tables = format!("db = DATABASE() AND id <> {foreign} AND state LIKE 'Waiting for %lock'");
        let on_tables = self.count(&on_tables).await;
        let on_rows = if self.is_mariadb {
            let (_, waits): (String, String) =
                sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
                    .fetch_one(&mut self.admin)
                    .await
                    .unwrap();
            waits.parse().unwrap()
        } else {
            let waits: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM performance_schema.data_locks \
                 WHERE OBJECT_SCHEMA = DATABASE() AND LOCK_STATUS = 'WAITING'",
            )
            .fetch_one(&mut self.admin)
            .await
            .unwrap();
            usize::try_from(waits).unwrap()
        };
        on_tables + on_rows
    }

    /// All tables.
    pub async fn rows(&mut self) -> Rows {
        let admin = &mut self.admin;
        let campaigns: Vec<(String, String, PrimitiveDateTime, Option<PrimitiveDateTime>, PrimitiveDateTime)> =
            sqlx::query_as("SELECT id, state, opens_at, closes_at, created_at FROM campaigns ORDER BY id")
                .fetch_all(&mut *admin)
                .await
                .unwrap();
        let allotments: Vec<(String, u32, PrimitiveDateTime)> =
            sqlx::query_as("SELECT campaign_id, capacity, granted_at FROM allotments ORDER BY 1, 2")
                .fetch_all(&mut *admin)
                .await
                .unwrap();
        let coupons: Vec<(String, u32, u32, String, String, PrimitiveDateTime, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT campaign_id, slot, allotment, user_id, code, admitted_at, issued_at FROM coupons ORDER BY 1, 2",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
        let refusals: Vec<(String, String, u32, String, PrimitiveDateTime, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT campaign_id, user_id, proposed_slot, reason, admitted_at, refused_at FROM refusals ORDER BY 1, 2",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
        let replays: Vec<(i32, i64, PrimitiveDateTime, PrimitiveDateTime)> = sqlx::query_as(
            "SELECT partition_id, record_offset, dead_at, replayed_at FROM dead_letter_replays ORDER BY 1, 2, 3",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
        let mut rows = Rows::new();
        rows.extend(campaigns.into_iter().map(|row| format!("campaign {row:?}")));
        rows.extend(allotments.into_iter().map(|row| format!("allotment {row:?}")));
        rows.extend(coupons.into_iter().map(|row| format!("coupon {row:?}")));
        rows.extend(refusals.into_iter().map(|row| format!("refusal {row:?}")));
        rows.extend(replays.into_iter().map(|row| format!("replay {row:?}")));
        rows
    }

    pub async fn drop_database(mut self) {
        self.store.close().await;
        // Of sessions that still wait for a lock; the server has not noticed that they are gone.
        let left: Vec<u64> = sqlx::query_scalar(
            "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist \
             WHERE db = DATABASE() AND id <> CONNECTION_ID()",
        )
        .fetch_all(&mut self.admin)
        .await
        .unwrap();
        for id in left {
            // It may have ended by itself.
            let _ = self.admin.execute(AssertSqlSafe(format!("KILL {id}"))).await;
        }
        self.admin.execute(AssertSqlSafe(format!("DROP DATABASE {}", self.name))).await.unwrap();
    }
}
