//! `migrate` in databases that are not empty, and after it was interrupted.

use super::scratch::{Scratch, scratch};
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::store::mysql::schema::MigrationState;
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

/// The tables there are.
async fn tables(db: &Scratch) -> Vec<String> {
    let sql =
        "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(&db.pool).await.unwrap()
}

async fn empty(db: &Scratch) {
    let sql =
        format!("SET foreign_key_checks = 0; DROP TABLE {}; SET foreign_key_checks = 1", tables(db).await.join(", "));
    db.pool.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// All that `migrate` reports before it changes anything, which must be what a dry run says.
async fn problems(db: &Scratch) -> String {
    let before = tables(db).await;
    let fault = db.database().migrate().await.unwrap_err();
    assert_eq!(tables(db).await, before, "changed before the report: {fault}");
    assert!(!fault.retry, "{fault}");
    let plan = db.database().plan(false).await.unwrap();
    assert!(!plan.problems.is_empty());
    for problem in plan.problems {
        assert!(fault.detail.contains(&problem), "{problem} is missing in {fault}");
    }
    assert!(!db.database().is_migrated().await.unwrap());
    fault.detail
}

#[tokio::test]
async fn a_table_of_others_is_reported_and_migrate_works_once_it_is_gone() {
    scratch(async |db| {
        let all = tables(&db).await;
        empty(&db).await;
        db.pool.execute("CREATE TABLE coupons (id INT PRIMARY KEY, percent INT)").await.unwrap();
        let text = problems(&db).await;
        assert!(text.contains("table coupons exists and is not dropgate's"), "{text}");
        db.pool.execute("ALTER TABLE coupons RENAME TO vouchers").await.unwrap();
        assert!(!db.database().migrate().await.unwrap().is_empty());
        assert!(db.database().is_migrated().await.unwrap());
        assert_eq!(tables(&db).await.len(), all.len() + 1);
    })
    .await;
}

#[tokio::test]
async fn a_table_without_its_constraints_is_not_taken_over() {
    scratch(async |db| {
        db.pool.execute("DROP TABLE dropgate_migrations").await.unwrap();
        db.pool.execute("ALTER TABLE coupons DROP CONSTRAINT coupon_slot").await.unwrap();
        for fault in [db.database().migrate().await.unwrap_err(), db.database().repair().await.unwrap_err()] {
            assert!(fault.detail.contains("no constraint coupon_slot"), "{fault}");
        }
    })
    .await;
}

#[tokio::test]
async fn sqlx_migrations_of_another_program_are_neither_accepted_nor_touched() {
    scratch(async |db| {
        empty(&db).await;
        let theirs = "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on \
             TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, \
             execution_time BIGINT NOT NULL)";
        db.pool.execute(theirs).await.unwrap();
        let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                      SELECT n, 'theirs', TRUE, 'x', 1 FROM (SELECT 1 n UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
                      UNION SELECT 5 UNION SELECT 6) versions";
        db.pool.execute(insert).await.unwrap();
        assert!(!db.database().is_migrated().await.unwrap(), "their record is not ours");
        assert!(!db.database().migrate().await.unwrap().is_empty());
        assert!(db.database().is_migrated().await.unwrap());
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations").fetch_one(&db.pool).await.unwrap();
        assert_eq!(rows, 6);
    })
    .await;
}

#[tokio::test]
async fn an_installation_of_an_earlier_version_is_taken_over() {
    scratch(async |db| {
        empty(&db).await;
        sqlx::migrate!("../migrations").run(&db.pool).await.unwrap();
        // The comments of the first file were others.
        let former = "UPDATE _sqlx_migrations SET checksum = UNHEX('FORMER') WHERE version = 1";
        db.pool.execute(AssertSqlSafe(former.replace("FORMER", FORMER))).await.unwrap();
        db.campaign("kept", 5).await;
        let plan = db.database().plan(false).await.unwrap();
        assert!(plan.migrations.iter().all(|migration| migration.state == MigrationState::Elsewhere), "{plan:?}");
        assert_eq!((plan.pending(), plan.problems), (vec![], vec![]));
        assert!(!db.database().is_migrated().await.unwrap());
        assert_eq!(db.database().migrate().await.unwrap(), Vec::<String>::new());
        assert!(db.database().is_migrated().await.unwrap());

        db.pool.execute("DROP TABLE dropgate_migrations, dead_letter_replays").await.unwrap();
        let text = problems(&db).await;
        assert!(text.contains("table dead_letter_replays is missing"), "{text}");
        assert_eq!(db.database().repair().await.unwrap(), ["0002 dead letter replays"]);
    })
    .await;
}

const FORMER: &str = "fec922047608c7f8f05f18888e7907a40eea875c121c464db1000da6b6083318c877bd0baf71f4e21eccf35bafdae7dc";

#[tokio::test]
async fn what_an_earlier_version_left_half_done_is_repaired() {
    scratch(async |db| {
        empty(&db).await;
        sqlx::migrate!("../migrations").run(&db.pool).await.unwrap();
        // It died within the first migration, before its third table.
        let undo = "DELETE FROM _sqlx_migrations WHERE version > 1; UPDATE _sqlx_migrations SET success = FALSE; \
                    ALTER TABLE campaigns DROP COLUMN version; DROP TABLE coupons, refusals, dead_letter_replays";
        db.pool.execute(undo).await.unwrap();
        let text = problems(&db).await;
        assert!(text.contains("table campaigns exists, looks like dropgate's") && text.contains("--repair"), "{text}");
        assert!(!db.database().repair().await.unwrap().is_empty());
        assert!(db.database().is_migrated().await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn interrupted_before_or_after_any_statement_it_is_run_again() {
    scratch(async |db| {
        db.pool.execute("UPDATE dropgate_migrations SET applied_at = NULL").await.unwrap();
        assert!(!db.database().is_migrated().await.unwrap());
        assert_eq!(db.database().migrate().await.unwrap(), Vec::<String>::new(), "every statement was done");
        assert!(db.database().is_migrated().await.unwrap());
        let undo = "UPDATE dropgate_migrations SET applied_at = NULL WHERE version = 2; DROP TABLE dead_letter_replays";
        db.pool.execute(undo).await.unwrap();
        assert_eq!(db.database().migrate().await.unwrap(), ["0002 dead letter replays"]);
        assert!(db.database().is_migrated().await.unwrap());
        let undo = "DELETE FROM dropgate_migrations WHERE version = 1 AND step > 3; DROP TABLE refusals";
        db.pool.execute(undo).await.unwrap();
        assert_eq!(db.database().migrate().await.unwrap(), ["0001 coupons"]);

        db.pool.execute("UPDATE dropgate_migrations SET checksum = 'x' WHERE version = 3").await.unwrap();
        let text = problems(&db).await;
        assert!(text.contains("0003 is altered"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn missing_rights_are_named_before_the_first_statement() {
    scratch(async |db| {
        empty(&db).await;
        let user = format!("t{:016x}", Jitter::system().next());
        let database = db.options.get_database().unwrap();
        db.pool.execute(AssertSqlSafe(format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'"))).await.unwrap();
        let grant = format!("GRANT SELECT, INSERT, UPDATE, CREATE ON {database}.* TO '{user}'@'%'");
        db.pool.execute(AssertSqlSafe(grant)).await.unwrap();
        let limited = Scratch { options: db.options.clone().username(&user).password("pw"), pool: db.pool.clone() };
        let text = problems(&limited).await;
        assert!(text.contains("ALTER") && text.contains("GRANT"), "{text}");
        let grant = format!("GRANT ALTER, REFERENCES, INDEX ON {database}.* TO '{user}'@'%'");
        db.pool.execute(AssertSqlSafe(grant)).await.unwrap();
        assert!(!limited.database().migrate().await.unwrap().is_empty());
        assert!(limited.database().is_migrated().await.unwrap());
        db.pool.execute(AssertSqlSafe(format!("DROP USER '{user}'@'%'"))).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn two_at_once_do_not_disturb_each_other() {
    scratch(async |db| {
        empty(&db).await;
        let (one, other) = (db.database(), db.database());
        let (one, other) = tokio::join!(one.migrate(), other.migrate());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.is_empty() != other.is_empty(), "{one:?} {other:?}");
        assert!(db.database().is_migrated().await.unwrap());
        let mut session = MySqlConnection::connect_with(&db.options).await.unwrap();
        session.execute("SELECT GET_LOCK(CONCAT('dropgate ', LEFT(DATABASE(), 50)), 0)").await.unwrap();
        let fault = db.database().migrate().await.unwrap_err();
        assert!(fault.detail.contains("another `issuer migrate` is running"), "{fault}");
    })
    .await;
}
