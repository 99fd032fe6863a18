//! The rights of deploy/mysql/grants.sql: enough for every command, and not enough to cheat.

use super::scratch::{Scratch, batch, decide, issued, persist, refused, rejected, rows, scratch};
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::ports::ClaimOutcome;
use dropgate_issuer::store::ports::{Session, Store};
use dropgate_issuer::timestamp::{self, Clock};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::ids::CampaignId;
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, Connection, Executor};

const GRANTS: &str = include_str!("../../../deploy/mysql/grants.sql");
const GUARD: &str = include_str!("../../../deploy/mysql/guard.sql");

/// A user of this test alone, with the rights of `name` in the file.
async fn user(db: &Scratch, name: &str) -> (Scratch, String) {
    let user = format!("t{:016x}", Jitter::system().next());
    db.pool.execute(AssertSqlSafe(format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'pw'"))).await.unwrap();
    let sql: String = GRANTS.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    for grant in sql.split(';').map(str::trim).filter(|grant| grant.contains(name)) {
        db.pool.execute(AssertSqlSafe(grant.replace(name, &user))).await.unwrap();
    }
    let options = db.options.clone().username(&user).password("pw");
    (Scratch { options, pool: db.pool.clone() }, user)
}

async fn drop_user(db: &Scratch, user: &str) {
    db.pool.execute(AssertSqlSafe(format!("DROP USER '{user}'@'%'"))).await.unwrap();
}

async fn error_of(connection: &mut MySqlConnection, sql: &str) -> u16 {
    let error = connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_err();
    error.as_database_error().unwrap().downcast_ref::<MySqlDatabaseError>().number()
}

#[tokio::test]
async fn the_service_can_work_and_can_neither_move_a_coupon_nor_grant_a_capacity() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        let (service, name) = user(&db, "dropgate_service").await;
        assert!(service.database().is_migrated().await.unwrap());
        service.database().check_constraints(Clock::system().now(), Jitter::system().next()).await.unwrap();
        // All paths of a batch: new rows, a conflict with its lock, claims that wait and are decided, a refusal.
        let store = service.store();
        assert_eq!(persist(&store, &batch(&[("a", 1)])).await, [issued(1)]);
        assert_eq!(persist(&store, &batch(&[("b", 1), ("c", 1)])).await, [const { ClaimOutcome::Waiting }; 2]);
        assert_eq!(store.waiting().await.unwrap().values().map(Vec::len).sum::<usize>(), 2);
        assert_eq!(decide(&store, &["b", "c"], &[]).await, ["b 2:1763700000123:i"]);
        assert_eq!(decide(&store, &[], &[]).await, ["c 1:1763700000123:r"]);
        assert_eq!(persist(&store, &batch(&[("d", 1)])).await, [refused(1)]);
        // A row that is rejected with an unknown error, and the trial row beside it.
        let ddl = "CREATE TRIGGER shop BEFORE INSERT ON refusals FOR EACH ROW IF NEW.user_id = 'e' THEN \
                   SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 5999; END IF";
        (&db.pool).execute(ddl).await.unwrap();
        assert_eq!(rejected(&persist(&store, &batch(&[("e", 1)])).await[0]), "row_refused");
        (&db.pool).execute("DROP TRIGGER shop").await.unwrap();

        let mut session = MySqlConnection::connect_with(&service.options).await.unwrap();
        for attempt in [
            "UPDATE coupons SET user_id = 'mallory'",
            "DELETE FROM coupons",
            "DELETE FROM waiting_claims",
            "INSERT INTO coupons VALUES ('c', 1, 2, 'a', 'x', NOW(), NOW()) ON DUPLICATE KEY UPDATE user_id = 'mallory'",
            "REPLACE INTO coupons VALUES ('c', 1, 2, 'mallory', 'x', NOW(), NOW())",
            "INSERT INTO allotments VALUES ('c', 3, NOW())",
            "UPDATE allotments SET capacity = 3",
            "INSERT INTO campaigns (id, opens_at, created_at) VALUES ('d', NOW(), NOW())",
            "ALTER TABLE coupons DROP CONSTRAINT coupon_slot",
            "DROP TABLE coupons",
            "TRUNCATE coupons",
        ] {
            assert_eq!(error_of(&mut session, attempt).await, 1142, "{attempt}");
        }
        assert_eq!(error_of(&mut session, "UPDATE campaigns SET state = 'open'").await, 1143);
        session.execute("SET FOREIGN_KEY_CHECKS = 0").await.unwrap();
        assert_eq!(error_of(&mut session, "UPDATE coupons SET user_id = 'mallory'").await, 1142);
        drop_user(&db, &name).await;
    })
    .await;
}

#[tokio::test]
async fn the_service_notices_what_it_may_not_try() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        let (service, name) = user(&db, "dropgate_service").await;
        let found = async || {
            let (now, random) = (Clock::system().now(), Jitter::system().next());
            service.database().check_constraints(now, random).await.map_err(|fault| fault.to_string())
        };
        for (broken, repaired, named) in [
            (
                "ALTER TABLE coupons DROP INDEX coupon_user",
                "ALTER TABLE coupons ADD CONSTRAINT coupon_user UNIQUE (campaign_id, user_id)",
                "coupons has no UNIQUE KEY coupon_user",
            ),
            (
                "ALTER TABLE refusals MODIFY user_id VARCHAR(128) CHARACTER SET latin1 NOT NULL",
                "ALTER TABLE refusals MODIFY user_id VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
                "refusals.user_id must have the collation utf8mb4_bin",
            ),
        ] {
            db.pool.execute(broken).await.unwrap();
            let fault = found().await.unwrap_err();
            assert!(fault.contains(named), "{fault}");
            db.pool.execute(repaired).await.unwrap();
            found().await.unwrap();
        }
        drop_user(&db, &name).await;
    })
    .await;
}

#[tokio::test]
async fn the_operator_can_run_every_command_and_write_no_coupon() {
    scratch(async |db| {
        let (operator, name) = user(&db, "dropgate_operator").await;
        operator.campaign("c", 2).await;
        persist(&db.store(), &batch(&[("a", 1)])).await;
        let id = CampaignId::parse("c").unwrap();
        let now = timestamp::from_ms(1_763_700_000_000).unwrap();
        let mut session = operator.database().connect().await.unwrap();
        session.begin().await.unwrap();
        assert!(session.lock_campaign(&id).await.unwrap());
        session.insert_allotment(&id, 3, now).await.unwrap();
        session.next_version(&id, 0).await.unwrap();
        session.commit().await.unwrap();
        session.set_window(&id, now, None).await.unwrap();
        assert!(session.set_state(&id, &[CampaignState::Open], CampaignState::Closed).await.unwrap());
        let counts = session.counts(&id).await.unwrap();
        assert_eq!((counts.capacity, counts.coupons, counts.beyond), (3, 1, 0));
        assert_eq!(session.campaigns().await.unwrap().len(), 1);
        assert_eq!(session.coupons_after(&id, None, 10).await.unwrap().len(), 1);
        assert_eq!(session.refusals_after(&id, "", 10).await.unwrap().len(), 0);
        assert_eq!(session.refused_after(&id, "", 10).await.unwrap().len(), 0);
        assert_eq!(session.settled(&id, &["a".to_owned()]).await.unwrap().len(), 1);
        assert_eq!(session.waiting(None, 10).await.unwrap().len(), 0);
        // A replay twice, as two operators at once would do it: the first time stays.
        let later = timestamp::from_ms(1_763_700_009_000).unwrap();
        for at in [now, later] {
            session.remember_replayed(&[(0, 7, now)], at).await.unwrap();
        }
        assert_eq!(session.replayed(&[(0, 7, now), (0, 8, now)]).await.unwrap().len(), 1);
        let kept: time::PrimitiveDateTime =
            sqlx::query_scalar("SELECT replayed_at FROM dead_letter_replays").fetch_one(&db.pool).await.unwrap();
        assert_eq!(kept, now);

        let mut session = MySqlConnection::connect_with(&operator.options).await.unwrap();
        for attempt in [
            "INSERT INTO coupons VALUES ('c', 3, 3, 'mallory', 'x', NOW(), NOW())",
            "UPDATE coupons SET user_id = 'mallory'",
            "UPDATE allotments SET capacity = 9",
            "DELETE FROM refusals",
        ] {
            assert_eq!(error_of(&mut session, attempt).await, 1142, "{attempt}");
        }
        drop_user(&db, &name).await;
    })
    .await;
}

/// With checks off, the plain schema accepts such rows: then `verify` finds them, and with the guard there are none.
#[tokio::test]
async fn i1_a_row_beyond_what_was_granted_is_found_and_with_the_guard_rejected() {
    const OFF: &str = "SET foreign_key_checks = 0";
    let switches = async |session: &mut MySqlConnection| {
        session.execute(OFF).await.unwrap();
        let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut *session).await.unwrap();
        let is_mariadb = version.contains("MariaDB");
        if is_mariadb {
            session.execute("SET check_constraint_checks = 0").await.unwrap();
        }
        is_mariadb
    };
    let insert = |slot: u32, allotment: u32, user: &str| {
        format!("INSERT INTO coupons VALUES ('c', {slot}, {allotment}, '{user}', 'x', NOW(), NOW())")
    };
    scratch(async move |db| {
        db.campaign("c", 2).await;
        let (service, name) = user(&db, "dropgate_service").await;
        let mut session = MySqlConnection::connect_with(&service.options).await.unwrap();
        let is_mariadb = switches(&mut session).await;
        // Within the capacity, but under an allotment without a date.
        session.execute(AssertSqlSafe(insert(1, 9, "a"))).await.unwrap();
        if is_mariadb {
            session.execute(AssertSqlSafe(insert(3, 2, "b"))).await.unwrap();
        }
        let id = CampaignId::parse("c").unwrap();
        let counts = db.database().connect().await.unwrap().counts(&id).await.unwrap();
        assert_eq!(counts.beyond, 1 + u64::from(is_mariadb));

        db.pool.execute("DELETE FROM coupons").await.unwrap();
        let guard = GUARD.split_once("DELIMITER //\n").unwrap().1.split_once("//\n").unwrap().0;
        db.pool.execute(AssertSqlSafe(guard.to_owned())).await.unwrap();
        assert_eq!(error_of(&mut session, &insert(3, 2, "a")).await, 3819);
        assert_eq!(error_of(&mut session, &insert(3, 3, "a")).await, 1452);
        assert_eq!(error_of(&mut session, &insert(1, 9, "a")).await, 1452);
        session.execute(AssertSqlSafe(insert(1, 2, "a"))).await.unwrap();
        session.execute("SET unique_checks = 0").await.unwrap();
        assert_eq!(error_of(&mut session, &insert(2, 2, "b")).await, 1062);
        // Whoever switches nothing off sees no difference.
        assert_eq!(persist(&service.store(), &batch(&[("x", 1), ("y", 2)])).await, [refused(1), issued(2)]);
        assert_eq!(db.coupons("c").await, rows(&[(1, "a"), (2, "y")]));
        drop_user(&db, &name).await;
    })
    .await;
}
