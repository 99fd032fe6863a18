//! The real server: a database for each case, and what it says of its locks and rows.

use crate::operations::Rows;
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::store::mysql::settings::DatabaseSettings;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::str::FromStr;
use time::PrimitiveDateTime;

const SERVER: &str = "DROPGATE_TEST_DATABASE_URL";

/// A migrated database of its own. [`Real::drop_database`] removes it; the folder of the server that runs the tests
/// is removed anyway.
pub struct Real {
    pub store: MySqlStore,
    name: String,
    admin: MySqlConnection,
    is_mariadb: bool,
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
        let store = MySqlStore::new(&DatabaseSettings { options: options.database(&name), shown: String::new() }, 4);
        store.migrate().await.unwrap();
        Self { store, name, admin, is_mariadb: version.contains("MariaDB") }
    }

    pub fn is_mariadb(&self) -> bool {
        self.is_mariadb
    }

    pub async fn execute(&mut self, sql: &'static str) {
        self.admin.execute(sql).await.unwrap();
    }

    /// How many transactions wait for a lock on a row.
    pub async fn waiting(&mut self) -> usize {
        if self.is_mariadb {
            let (_, waits): (String, String) =
                sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
                    .fetch_one(&mut self.admin)
                    .await
                    .unwrap();
            return waits.parse().unwrap();
        }
        let waits: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM performance_schema.data_locks \
             WHERE OBJECT_SCHEMA = DATABASE() AND LOCK_STATUS = 'WAITING'",
        )
        .fetch_one(&mut self.admin)
        .await
        .unwrap();
        usize::try_from(waits).unwrap()
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
