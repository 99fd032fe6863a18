//! The issuer on real servers while it is killed, its database is down or read-only, Kafka restarts and Redis
//! is unreachable: every record ends in exactly one row, or in one dead letter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::issuers::{
    Issuer, assert_no_offset_is_ahead, committed, coupons_and_refusals, dead_letters, produce, produce_bytes,
    until_no_lag, users,
};
use dropgate_tests::{System, until};
use std::time::Duration;

const KILLS: u32 = 20;
/// How long the database is down: longer than the session timeout of the group, and than any single attempt.
const OUTAGE: Duration = Duration::from_secs(60);

/// I1, I2, I3, I6, I7: SIGKILL, twenty times, of one or the other of two members.
#[tokio::test]
async fn an_issuer_killed_at_any_moment_writes_every_record_once() {
    let mut system = System::start("issuer-killed").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(20_000);
    let sent = produce(&system, &campaign, users("u", 20_000), 1, None).await;

    // With a static instance id they get their partitions back at once, not after the session timeout.
    let start = |name: &'static str, budget: &str| {
        Issuer::start(&system, name, &[("KAFKA_INSTANCE_ID", name), ("WRITE_BUDGET", budget)])
    };
    let names = ["issuer-a", "issuer-b"];
    let mut members = names.map(|name| start(name, "500/s")).map(Some);
    let (mut rows, mut done) = (0, 0);
    for nth in 0..KILLS {
        until("there is progress", async || system.coupon_count(&campaign).await.unwrap() > rows).await;
        // Most members are killed before they have committed anything; some must have committed.
        if nth % 5 == 4 {
            let before = committed(&system).await;
            until("offsets are committed", async || committed(&system).await != before).await;
        }
        // At any moment, not only right after a row was written.
        tokio::time::sleep(Duration::from_millis(u64::from(nth * 37 % 200))).await;
        let member = usize::try_from(nth % 2).unwrap();
        members[member].take().unwrap().process.kill().unwrap();
        rows = system.coupon_count(&campaign).await.unwrap();
        done = assert_no_offset_is_ahead(&system, &campaign, &sent).await;
        members[member] = Some(start(names[member], "500/s"));
    }
    assert!(rows < 20_000, "all rows were written before the last kill: the kills were not tested");
    assert!(done > 0, "no offset was committed in between: the offsets were not tested");
    for member in members.into_iter().flatten() {
        member.process.kill().unwrap();
    }
    let members = names.map(|name| start(name, "unlimited"));
    until("every record is a row", async || coupons_and_refusals(&system, &campaign).await == (20_000, 0)).await;
    until_no_lag(&system, &sent).await;
    for member in members {
        assert!(member.process.stop().await.unwrap().success(), "exit status 0 after SIGTERM");
    }
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I6, I7: members join and leave while others write, so that partitions move in the middle of batches.
#[tokio::test]
async fn members_that_join_and_leave_under_load_lose_and_repeat_nothing() {
    let mut system = System::start("issuer-rebalance").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(20_000);
    let sent = produce(&system, &campaign, users("u", 20_000), 1, None).await;
    let start = |name: &'static str, budget: &str| Issuer::start(&system, name, &[("WRITE_BUDGET", budget)]);
    let owns = async |member: &Issuer| member.metric("dropgate_issuer_partitions").await > 0.0;

    let first = start("issuer-a", "1000/s");
    until("the first member writes", async || system.coupon_count(&campaign).await.unwrap() > 0).await;
    for _ in 0..4 {
        let second = start("issuer-b", "1000/s");
        until("partitions have moved to the second member", async || owns(&second).await).await;
        let rows = system.coupon_count(&campaign).await.unwrap();
        until("both write", async || system.coupon_count(&campaign).await.unwrap() > rows + 200).await;
        assert!(owns(&first).await, "the first member has no partition: they were not shared");
        assert_no_offset_is_ahead(&system, &campaign, &sent).await;
        assert!(second.process.stop().await.unwrap().success(), "exit status 0 after SIGTERM");
        assert_no_offset_is_ahead(&system, &campaign, &sent).await;
    }
    assert!(
        system.coupon_count(&campaign).await.unwrap() < 20_000,
        "all rows were written before the last member left: the rebalances were not tested"
    );
    let last = start("issuer-b", "unlimited");
    assert!(first.process.stop().await.unwrap().success());
    until("every record is a row", async || coupons_and_refusals(&system, &campaign).await == (20_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert!(last.process.stop().await.unwrap().success());
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I3, I8, I9: the database is down, read-only, and closes connections; Kafka restarts; Redis is unreachable.
#[tokio::test]
async fn no_outage_loses_repeats_or_dead_letters_a_record() {
    let mut system = System::start("issuer-outages").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(15_000);
    let sent = produce(&system, &campaign, users("u", 15_000), 1, None).await;
    // Nothing listens on port 1.
    let no_redis = ("UPSTASH_REDIS_REST_URL", "http://127.0.0.1:1");
    let start = |name: &'static str| Issuer::start(&system, name, &[no_redis, ("WRITE_BUDGET", "500/s")]);
    let members = [start("issuer-a"), start("issuer-b")];
    let faults = async |name: &str| members[0].metric(name).await + members[1].metric(name).await;
    let mysql = system.mysql.clone();
    let rows = async || -> i64 {
        let query = "SELECT COUNT(*) FROM coupons WHERE campaign_id = ?";
        sqlx::query_scalar(query).bind(&campaign).fetch_one(&mysql).await.unwrap_or(0)
    };
    let progress = async |since: i64| until("rows are written again", async || rows().await > since).await;
    progress(0).await;

    // Down.
    system
        .stack
        .without("mysql", false, async {
            tokio::time::sleep(OUTAGE).await;
            let faults = members[0].metric("dropgate_issuer_database_faults_total").await;
            assert!(faults > 0.0, "the first member reports no fault: the database was not down");
            assert_eq!(members[0].get("/livez").await.0, 200, "the issuer is alive: a restart would not help");
            let (status, reasons) = members[0].get("/readyz").await;
            assert!(status == 503 && reasons.contains("the database"), "{status} {reasons}");
            Ok(())
        })
        .await
        .unwrap();
    let before = rows().await;
    progress(before).await;
    assert_no_offset_is_ahead(&system, &campaign, &sent).await;

    // Read-only, as after a failover. MariaDB has no super_read_only, and its read_only exempts administrators.
    if std::env::var("DATABASE_KIND").as_deref() != Ok("mariadb") {
        sqlx::query("SET GLOBAL super_read_only = 1").execute(&mysql).await.unwrap();
        let read_only = async || {
            let page = [members[0].get("/metrics").await.1, members[1].get("/metrics").await.1].concat();
            page.contains("database_faults_total{reason=\"read_only\"}")
        };
        until("a member reports the read-only server", read_only).await;
        let before = rows().await;
        sqlx::query("SET GLOBAL super_read_only = 0").execute(&mysql).await.unwrap();
        sqlx::query("SET GLOBAL read_only = 0").execute(&mysql).await.unwrap();
        progress(before).await;
    }

    // Its connections are closed, in the middle of any statement.
    for _ in 0..10 {
        let before = rows().await;
        let query = "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist WHERE user = 'dropgate' AND id <> CONNECTION_ID()";
        let ids: Vec<u64> = sqlx::query_scalar(query).fetch_all(&mysql).await.unwrap();
        assert!(ids.len() >= 2, "no issuer is connected: no connection was closed");
        for id in ids {
            // An error means that it is already closed.
            let _ = sqlx::query(sqlx::AssertSqlSafe(format!("KILL {id}"))).execute(&mysql).await;
        }
        progress(before).await;
    }
    assert_no_offset_is_ahead(&system, &campaign, &sent).await;

    // Kafka restarts.
    assert!(rows().await < 15_000, "all rows were written before Kafka restarted: the restart was not tested");
    system.stack.without("kafka", false, async { Ok(()) }).await.unwrap();
    until("every record is a row", async || coupons_and_refusals(&system, &campaign).await == (15_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert!(
        faults("dropgate_issuer_redis_faults_total").await > 0.0,
        "no fault of Redis was reported: Redis was reachable"
    );
    for member in members {
        assert!(member.process.stop().await.unwrap().success());
    }
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I3: poison goes to the dead-letter topic with its cause and does not delay other records; too much of it
/// in a row is held instead.
#[tokio::test]
async fn poison_is_dead_lettered_and_too_much_of_it_is_held() {
    let mut system = System::start("issuer-poison").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(10_000);
    let sent = produce(&system, &campaign, users("u", 10_000), 1, Some("{\"v\":9}")).await;
    assert_eq!(sent.len(), 11_000);
    let mut issuer = Issuer::start(&system, "issuer-a", &[("WRITE_BUDGET", "unlimited")]);
    issuer.process.ready().await.unwrap();
    until("every good record is a row", async || coupons_and_refusals(&system, &campaign).await == (10_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert_eq!(dead_letters(&system).await, [("unknown_version".to_owned(), 1_000)].into());
    assert!((issuer.metric("dropgate_issuer_dead_letters_total").await - 1_000.0).abs() < 0.5);

    // As large as a broker accepts a record: with the headers of a dead letter it is too large.
    let large = format!("{{\"v\":1,\"slot\":\"{}\"}}", "x".repeat(1_048_000));
    produce_bytes(&system, large.as_bytes()).await;
    until("it is a dead letter", async || dead_letters(&system).await.get("malformed") == Some(&1)).await;
    let replayed = system.stack.run_issuer(&["dlq", "replay", "--cause", "malformed"]).unwrap();
    assert!(replayed.contains("1 dead letters hold only the beginning of a large record"), "{replayed}");

    // The wrong topic or the wrong database: every record is poison.
    let orphans = produce(&system, "nowhere", users("v", 500), 1, None).await;
    let held = async || issuer.get("/readyz").await;
    until("the service holds", async || held().await.1.contains("100 records in a row can never become rows")).await;
    assert_eq!(held().await.0, 503);
    assert!((issuer.metric("dropgate_issuer_held").await - 1.0).abs() < 0.5);
    let output = issuer.process.output();
    assert!(output.contains("100 records in a row can never become rows"), "{output}");
    let published = dead_letters(&system).await.get("unknown_campaign").copied().unwrap_or(0);
    assert!(published < 100, "{published} of them were sent to the dead-letter topic");
    assert!(issuer.process.exit_status().unwrap().is_none(), "it has ended");
    assert!(issuer.process.stop().await.unwrap().success());

    let issuer = Issuer::start(&system, "issuer-a", &[("DEAD_LETTER_LIMIT", "0")]);
    until_no_lag(&system, &orphans).await;
    assert_eq!(dead_letters(&system).await.get("unknown_campaign"), Some(&500));

    // After the repair: records that can be issued are issued, the others stay.
    system.stack.run_issuer(&["campaign", "create", "nowhere", "--capacity", "500"]).unwrap();
    system.stack.run_issuer(&["campaign", "publish", "nowhere"]).unwrap();
    let replayed = system.stack.run_issuer(&["dlq", "replay"]).unwrap();
    assert!(replayed.contains("1500 dead letters were sent again"), "{replayed}");
    until("the repaired ones are coupons", async || coupons_and_refusals(&system, "nowhere").await == (500, 0)).await;
    until("the others are dead letters again", async || {
        dead_letters(&system).await.get("unknown_version") == Some(&2_000)
    })
    .await;
    assert_eq!(coupons_and_refusals(&system, &campaign).await, (10_000, 0));
    assert!(issuer.process.stop().await.unwrap().success());
    system.stop().await;
}
