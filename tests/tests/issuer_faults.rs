//! The issuer on real servers while it is killed, its database is away or read-only, Kafka restarts and
//! Redis is not there at all: every record ends in exactly one row, or in one dead letter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::issuers::{
    Issuer, assert_no_offset_is_ahead, committed, dead_letters, produce, produce_bytes, settled, until_no_lag, users,
};
use dropgate_tests::{System, until};
use std::time::Duration;

const KILLS: u32 = 20;
/// How long the database is away: longer than a session of the group, and than any single try.
const OUTAGE: Duration = Duration::from_secs(60);

/// I1, I2, I3, I6, I7: `kill -9`, twenty times, of one or the other of two members.
#[tokio::test]
async fn an_issuer_killed_at_any_moment_writes_every_record_once() {
    let mut system = System::start("issuer-killed").await;
    system.stack.end("issuer").await.unwrap();
    let campaign = system.campaign(20_000);
    let sent = produce(&system, &campaign, users("u", 20_000), 1, None).await;

    // With a name of their own they take their partitions back at once, instead of after a session.
    let start = |name: &'static str, budget: &str| {
        Issuer::start(&system, name, &[("KAFKA_INSTANCE_ID", name), ("WRITE_BUDGET", budget)])
    };
    let names = ["issuer-a", "issuer-b"];
    let mut members = names.map(|name| start(name, "500/s")).map(Some);
    let (mut rows, mut done) = (0, 0);
    for nth in 0..KILLS {
        until("there is progress", async || system.rows(&campaign).await.unwrap() > rows).await;
        // Most members die before they have committed anything; some shall not.
        if nth % 5 == 4 {
            let before = committed(&system).await;
            until("offsets are committed", async || committed(&system).await != before).await;
        }
        // Any moment: not the one at which progress was seen.
        tokio::time::sleep(Duration::from_millis(u64::from(nth * 37 % 200))).await;
        let member = usize::try_from(nth % 2).unwrap();
        members[member].take().unwrap().part.kill().unwrap();
        rows = system.rows(&campaign).await.unwrap();
        done = assert_no_offset_is_ahead(&system, &campaign, &sent).await;
        members[member] = Some(start(names[member], "500/s"));
    }
    assert!(rows < 20_000, "all was done before the last kill: nothing was tested");
    assert!(done > 0, "nothing was committed in between: nothing was tested");
    for member in members.into_iter().flatten() {
        member.part.kill().unwrap();
    }
    let members = names.map(|name| start(name, "unlimited"));
    until("every record is a row", async || settled(&system, &campaign).await == (20_000, 0)).await;
    until_no_lag(&system, &sent).await;
    for member in members {
        assert!(member.part.stop().await.unwrap().success(), "SIGTERM ends it with 0");
    }
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I6, I7: members come and go while others write, so that partitions change hands in the middle of batches.
#[tokio::test]
async fn members_that_come_and_go_under_load_lose_and_repeat_nothing() {
    let mut system = System::start("issuer-rebalance").await;
    system.stack.end("issuer").await.unwrap();
    let campaign = system.campaign(20_000);
    let sent = produce(&system, &campaign, users("u", 20_000), 1, None).await;
    let start = |name: &'static str, budget: &str| Issuer::start(&system, name, &[("WRITE_BUDGET", budget)]);
    let owns = async |member: &Issuer| member.metric("dropgate_issuer_partitions").await > 0.0;

    let first = start("issuer-a", "1000/s");
    until("the first member works", async || system.rows(&campaign).await.unwrap() > 0).await;
    for _ in 0..4 {
        let guest = start("issuer-b", "1000/s");
        until("partitions have moved to the guest", async || owns(&guest).await).await;
        let rows = system.rows(&campaign).await.unwrap();
        until("both write", async || system.rows(&campaign).await.unwrap() > rows + 200).await;
        assert!(owns(&first).await, "the first member has nothing left: nothing was shared");
        assert_no_offset_is_ahead(&system, &campaign, &sent).await;
        assert!(guest.part.stop().await.unwrap().success(), "SIGTERM ends it with 0");
        assert_no_offset_is_ahead(&system, &campaign, &sent).await;
    }
    assert!(
        system.rows(&campaign).await.unwrap() < 20_000,
        "all was done before the last one left: nothing was tested"
    );
    let last = start("issuer-b", "unlimited");
    assert!(first.part.stop().await.unwrap().success());
    until("every record is a row", async || settled(&system, &campaign).await == (20_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert!(last.part.stop().await.unwrap().success());
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I3, I8, I9: the database away, read-only, and cutting connections; Kafka restarted; no Redis at all.
#[tokio::test]
async fn whatever_is_away_nothing_is_lost_written_twice_or_dead_lettered() {
    let mut system = System::start("issuer-outages").await;
    system.stack.end("issuer").await.unwrap();
    let campaign = system.campaign(15_000);
    let sent = produce(&system, &campaign, users("u", 15_000), 1, None).await;
    // Nobody listens on port 1.
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

    // Away.
    system
        .stack
        .without("mysql", false, async {
            tokio::time::sleep(OUTAGE).await;
            let faults = members[0].metric("dropgate_issuer_database_faults_total").await;
            assert!(faults > 0.0, "the first member did not notice: the fault did not strike");
            assert_eq!(members[0].get("/livez").await.0, 200, "a restart would not mend it");
            let (status, reasons) = members[0].get("/readyz").await;
            assert!(status == 503 && reasons.contains("the database"), "{status} {reasons}");
            Ok(())
        })
        .await
        .unwrap();
    let before = rows().await;
    progress(before).await;
    assert_no_offset_is_ahead(&system, &campaign, &sent).await;

    // Read-only, as after a failover. MariaDB knows no super_read_only, and spares administrators.
    if std::env::var("DATABASE_KIND").as_deref() != Ok("mariadb") {
        sqlx::query("SET GLOBAL super_read_only = 1").execute(&mysql).await.unwrap();
        let read_only = async || {
            let page = [members[0].get("/metrics").await.1, members[1].get("/metrics").await.1].concat();
            page.contains("database_faults_total{reason=\"read_only\"}")
        };
        until("a member meets the read-only server", read_only).await;
        let before = rows().await;
        sqlx::query("SET GLOBAL super_read_only = 0").execute(&mysql).await.unwrap();
        sqlx::query("SET GLOBAL read_only = 0").execute(&mysql).await.unwrap();
        progress(before).await;
    }

    // Its connections cut, in the middle of whatever they do.
    for _ in 0..10 {
        let before = rows().await;
        let query = "SELECT CAST(id AS UNSIGNED) FROM information_schema.processlist WHERE user = 'dropgate' AND id <> CONNECTION_ID()";
        let ids: Vec<u64> = sqlx::query_scalar(query).fetch_all(&mysql).await.unwrap();
        assert!(ids.len() >= 2, "nobody is connected: the fault did not strike");
        for id in ids {
            // One may be gone already.
            let _ = sqlx::query(sqlx::AssertSqlSafe(format!("KILL {id}"))).execute(&mysql).await;
        }
        progress(before).await;
    }
    assert_no_offset_is_ahead(&system, &campaign, &sent).await;

    // Kafka restarted.
    assert!(rows().await < 15_000, "all was done before Kafka was restarted: nothing was tested");
    system.stack.without("kafka", false, async { Ok(()) }).await.unwrap();
    until("every record is a row", async || settled(&system, &campaign).await == (15_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert!(faults("dropgate_issuer_redis_faults_total").await > 0.0, "Redis was there: the fault did not strike");
    for member in members {
        assert!(member.part.stop().await.unwrap().success());
    }
    assert!(dead_letters(&system).await.is_empty());
    system.stop().await;
}

/// I3: poison goes to the dead-letter topic with its cause, and holds nobody up; a topic full of it stops
/// the service instead.
#[tokio::test]
async fn poison_is_dead_lettered_and_too_much_of_it_stops_the_service() {
    let mut system = System::start("issuer-poison").await;
    system.stack.end("issuer").await.unwrap();
    let campaign = system.campaign(10_000);
    let sent = produce(&system, &campaign, users("u", 10_000), 1, Some("{\"v\":9}")).await;
    assert_eq!(sent.len(), 11_000);
    let mut issuer = Issuer::start(&system, "issuer-a", &[("WRITE_BUDGET", "unlimited")]);
    issuer.part.ready().await.unwrap();
    until("every good record is a row", async || settled(&system, &campaign).await == (10_000, 0)).await;
    until_no_lag(&system, &sent).await;
    assert_eq!(dead_letters(&system).await, [("unknown_version".to_owned(), 1_000)].into());
    assert!((issuer.metric("dropgate_issuer_dead_letters_total").await - 1_000.0).abs() < 0.5);

    // As large as a broker takes a record: with the headers of a dead letter it is too large.
    let large = format!("{{\"v\":1,\"slot\":\"{}\"}}", "x".repeat(1_048_000));
    produce_bytes(&system, large.as_bytes()).await;
    until("it is given up", async || dead_letters(&system).await.get("malformed") == Some(&1)).await;
    let replayed = system.stack.issuer(&["dlq", "replay", "--cause", "malformed"]).unwrap();
    assert!(replayed.contains("1 dead letters hold only the beginning of a large record"), "{replayed}");

    // The wrong topic, or the wrong database: nothing but poison.
    let others = produce(&system, "nowhere", users("v", 500), 1, None).await;
    until("the service ends", async || issuer.part.ended().unwrap().is_some()).await;
    let status = issuer.part.ended().unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    let output = issuer.part.output();
    assert!(output.contains("100 records in a row can never become rows"), "{output}");
    let buried = dead_letters(&system).await.get("unknown_campaign").copied().unwrap_or(0);
    assert!(buried < 100, "{buried} of them were sent to the dead-letter topic");

    let issuer = Issuer::start(&system, "issuer-a", &[("DEAD_LETTER_LIMIT", "0")]);
    until_no_lag(&system, &others).await;
    assert_eq!(dead_letters(&system).await.get("unknown_campaign"), Some(&500));

    // Mended: what can be issued is issued, the rest stays.
    system.stack.issuer(&["campaign", "create", "nowhere", "--capacity", "500"]).unwrap();
    system.stack.issuer(&["campaign", "publish", "nowhere"]).unwrap();
    let replayed = system.stack.issuer(&["dlq", "replay"]).unwrap();
    assert!(replayed.contains("1500 dead letters were sent again"), "{replayed}");
    until("the mended ones are coupons", async || settled(&system, "nowhere").await == (500, 0)).await;
    until("the others are given up again", async || dead_letters(&system).await.get("unknown_version") == Some(&2_000))
        .await;
    assert_eq!(settled(&system, &campaign).await, (10_000, 0));
    assert!(issuer.part.stop().await.unwrap().success());
    system.stop().await;
}
