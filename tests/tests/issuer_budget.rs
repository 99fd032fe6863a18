//! The write budget on real servers: the limit that protects the other users of the database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::issuers::{Issuer, produce, users};
use dropgate_tests::{System, until};

/// When each row was written, in ms, ascending.
async fn issue_times_ms(system: &System, campaign: &str) -> Vec<i64> {
    let query = "SELECT CAST(ROUND(UNIX_TIMESTAMP(issued_at) * 1000) AS SIGNED) FROM coupons \
                 WHERE campaign_id = ? ORDER BY issued_at";
    sqlx::query_scalar(query).bind(campaign).fetch_all(&system.mysql).await.unwrap()
}

#[tokio::test]
async fn a_budget_holds_in_every_window_for_all_members_together() {
    let mut system = System::start("issuer-budget").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(1_000);
    produce(&system, &campaign, users("u", 1_000), 1, None).await;
    let budget = ("WRITE_BUDGET", "600/min");
    let members = [Issuer::start(&system, "issuer-a", &[budget]), Issuer::start(&system, "issuer-b", &[budget])];
    until("both have partitions", async || {
        let partitions = [
            members[0].metric("dropgate_issuer_partitions").await,
            members[1].metric("dropgate_issuer_partitions").await,
        ];
        partitions.iter().all(|owned| *owned > 0.0)
    })
    .await;
    let since = system.coupon_count(&campaign).await.unwrap();
    until("120 more rows are written", async || system.coupon_count(&campaign).await.unwrap() >= since + 120).await;

    let times = issue_times_ms(&system, &campaign).await;
    for width_ms in [100, 500, 1_000, 5_000, 10_000] {
        // 10 rows per second, and one batch (one row) of each member.
        let allowed = usize::try_from((width_ms + 100) / 100 + 2).unwrap();
        for (first, at) in times.iter().enumerate() {
            let rows = times[first..].iter().take_while(|other| **other < at + width_ms).count();
            assert!(rows <= allowed, "{rows} rows within {width_ms} ms, {allowed} allowed");
        }
    }
    let mut shares = 0.0;
    for member in &members {
        shares += member.metric("dropgate_issuer_budget_share_ratio").await;
        assert_eq!(member.get("/livez").await, (200, "alive\n".to_owned()));
        assert_eq!(member.get("/readyz").await, (200, "ready\n".to_owned()));
        assert!(member.get("/version").await.1.contains("dropgate-issuer"));
    }
    assert!((shares - 1.0).abs() < 1e-9, "the members' shares sum to {shares}");
    // SIGTERM does not wait for the budget.
    for member in members {
        assert!(member.process.stop().await.unwrap().success());
    }
    let rows = system.coupon_count(&campaign).await.unwrap();
    assert!(rows < 1_000, "the budget did not limit anything");
    system.stop().await;
}

/// A budget so small that its waits are longer than `max.poll.interval.ms`: the member stays in the group.
#[tokio::test]
async fn a_member_that_waits_long_for_the_budget_stays_in_the_group() {
    let mut system = System::start("issuer-slow").await;
    system.stack.stop_process("issuer").await.unwrap();
    let campaign = system.campaign(1_000);
    produce(&system, &campaign, users("u", 1_000), 1, None).await;
    let short = "session.timeout.ms=6000,max.poll.interval.ms=6000";
    let mut issuer = Issuer::start(&system, "issuer-a", &[("WRITE_BUDGET", "6/min"), ("KAFKA_OPTIONS", short)]);
    issuer.process.ready().await.unwrap();
    until("two rows are written, ten seconds apart", async || system.coupon_count(&campaign).await.unwrap() >= 2).await;
    let output = issuer.process.output();
    assert_eq!(output.matches("partitions assigned").count(), 1, "{output}");
    assert!(!output.contains("partitions revoked") && !output.contains("MAXPOLL"), "{output}");
    let times = issue_times_ms(&system, &campaign).await;
    assert!(times[1] - times[0] >= 9_800, "{times:?}");

    // A taken port is reported, with the remedy.
    let listen = issuer.url.trim_start_matches("http://");
    let mut second = Issuer::start(&system, "issuer-b", &[("HTTP_LISTEN", listen)]);
    until("the second one ends", async || second.process.exit_status().unwrap().is_some()).await;
    assert_eq!(second.process.exit_status().unwrap().unwrap().code(), Some(2));
    assert!(second.process.output().contains(&format!("HTTP_LISTEN {listen}: Address already in use")));
    assert!(issuer.process.stop().await.unwrap().success());
    system.stop().await;
}
