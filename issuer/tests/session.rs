//! Sessions on a server whose defaults are changed: alone in this file, since all its connections see that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, dead_code, unused_imports)]

#[path = "store/scratch.rs"]
mod scratch;

use dropgate_issuer::timestamp;
use scratch::scratch;
use sqlx::{AssertSqlSafe, Executor};

/// What the server's defaults are does not matter: each session has its own.
#[tokio::test]
async fn i1_a_session_checks_whatever_the_server_has_switched_off() {
    scratch(async |db| {
        // The driver sends what a URL cannot say as statements; a default of the server is what they change here.
        let is_mariadb = db.database().server().await.unwrap().is_mariadb;
        let mut off = vec![
            "foreign_key_checks = 0",
            "unique_checks = 0",
            "sql_mode = ''",
            "completion_type = 1",
            "sql_select_limit = 1",
        ];
        off.extend(is_mariadb.then_some("check_constraint_checks = 0"));
        let mut admin = db.pool.acquire().await.unwrap();
        let mut before = Vec::new();
        for setting in &off {
            let name = setting.split(' ').next().unwrap();
            let value: String = sqlx::query_scalar(AssertSqlSafe(format!("SELECT CAST(@@GLOBAL.{name} AS CHAR)")))
                .fetch_one(&mut *admin)
                .await
                .unwrap();
            before.push((name, value));
        }
        for setting in &off {
            admin.execute(AssertSqlSafe(format!("SET GLOBAL {setting}"))).await.unwrap();
        }
        let checked = db.database().check_constraints(timestamp::from_ms(5_000).unwrap(), 8).await;
        for (name, value) in before {
            let value = if value.parse::<u64>().is_ok() { value } else { format!("'{value}'") };
            admin.execute(AssertSqlSafe(format!("SET GLOBAL {name} = {value}"))).await.unwrap();
        }
        checked.unwrap();
    })
    .await;
}
