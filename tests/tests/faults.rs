//! What holds while a server is down, on real servers: no user is refused because of it, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::issuers::{Issuer, coupons_and_refusals};
use dropgate_tests::{System, programs, until, until_within};
use serde_json::{Value, json};
use std::time::Duration;

/// A claim whose slot another user holds is decided after a minute (`IN_FLIGHT`) and a few looks, or after the next round
/// of that.
const DECIDED: Duration = Duration::from_secs(240);

/// The users of one phase.
fn users(prefix: &str) -> Vec<String> {
    (1..=20).map(|n| format!("{prefix}-{n}")).collect()
}

#[tokio::test]
async fn every_server_may_go_down_and_come_back() {
    let mut system = System::start("faults").await;
    let campaign = system.campaign(1000);
    let mut expected = 0;

    // Kafka REST down: admitted claims wait in the outbox, the sweeper forwards them later (I3, I8).
    let url = system.url(&format!("/v1/campaigns/{campaign}/claims"));
    let claim = async |user: &str| {
        dropgate_devstack::http_client().post(&url).header("x-user-id", user).send().await.unwrap().status().as_u16()
    };
    system
        .stack
        .without("kafka-rest", false, async {
            for user in users("kafka-rest-down") {
                assert_eq!(claim(&user).await, 202);
            }
            Ok(())
        })
        .await
        .unwrap();
    expected += 20;
    assert_eq!(system.coupon_count(&campaign).await.unwrap(), 0, "the Kafka REST proxy was not down");
    assert_eq!(system.outbox_len(&campaign).await, 20);
    system.expire_leases(&campaign).await;
    system.stack.run_cron().await.unwrap();
    until("the sweeper's claims are coupons", async || system.coupon_count(&campaign).await.unwrap() == expected).await;
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;

    // MySQL down: the issuer waits and continues (I3).
    let mysql = system.mysql.clone();
    system
        .stack
        .without("mysql", false, async {
            assert!(sqlx::query("SELECT 1").execute(&mysql).await.is_err(), "MySQL is not down");
            for user in users("mysql-down") {
                assert_eq!(claim(&user).await, 202);
            }
            Ok(())
        })
        .await
        .unwrap();
    expected += 20;
    until("the claims made without MySQL are coupons", async || {
        system.coupon_count(&campaign).await.is_ok_and(|rows| rows == expected)
    })
    .await;

    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;

    // Redis down: no user is admitted or refused, every response has a Retry-After (I8).
    let responses = system
        .stack
        .without("redis", false, async {
            let mut responses = Vec::new();
            for user in users("redis-down") {
                let response =
                    dropgate_devstack::http_client().post(&url).header("x-user-id", user.as_str()).send().await?;
                responses.push((response.status().as_u16(), response.headers().contains_key("retry-after")));
            }
            Ok(responses)
        })
        .await
        .unwrap();
    assert_eq!(responses, vec![(503, true); 20]);
    for user in users("redis-down") {
        until("Redis serves again", async || matches!(system.claim(&campaign, &user).await.status, 202 | 200)).await;
    }
    expected += 20;
    until("the claims made after Redis came back are coupons", async || {
        system.coupon_count(&campaign).await.unwrap() == expected
    })
    .await;
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;

    // I5: whatever was down in between, each user gets the same outcome again.
    for user in users("kafka-rest-down").iter().chain(&users("mysql-down")).chain(&users("redis-down")) {
        let again = system.claim(&campaign, user).await;
        assert_eq!((again.status, again.body["status"].as_str()), (200, Some("issued")), "{user}");
    }
    system.stop().await;
}

/// I3: Redis loses everything; `campaign publish` restores what is in MySQL, and the capacity holds.
#[tokio::test]
async fn a_redis_that_lost_everything_is_rebuilt_from_mysql() {
    let system = System::start("redis-lost").await;
    let campaign = system.campaign(30);
    for user in users("before") {
        assert_eq!(system.claim(&campaign, &user).await.status, 202);
    }
    until("the first claims are coupons", async || system.coupon_count(&campaign).await.unwrap() == 20).await;
    let before = system.claim(&campaign, "before-7").await.body["slot"].clone();

    system.redis(&["FLUSHALL"]).await;
    let lost = system.claim(&campaign, "before-1").await;
    assert_eq!((lost.status, lost.problem()), (503, "unavailable"), "{lost:?}");

    system.stack.run_issuer(&["campaign", "publish", &campaign]).unwrap();
    let again = system.claim(&campaign, "before-7").await;
    assert_eq!((again.status, &again.body["slot"]), (200, &before));
    let mut after = Vec::new();
    for user in users("after") {
        after.push(system.claim(&campaign, &user).await.status);
    }
    assert_eq!(after, [[202; 10], [410; 10]].concat());
    until("the capacity is issued", async || system.coupon_count(&campaign).await.unwrap() == 30).await;
    system.stop().await;
}

/// I1, I3, I8: Redis loses everything while admitted claims are still on their way to MySQL. Once the campaign
/// is published again, Redis assigns their slots a second time. The capacity holds, conflicting slots are
/// resolved, and users without a free slot are refused, with a reason on record.
#[tokio::test]
async fn a_redis_emptied_during_a_campaign_causes_refusals_but_no_extra_coupons() {
    let mut system = System::start("redis-emptied").await;
    let campaign = system.campaign(100);
    assert_eq!(claim_all(&system, &campaign, "early", 30).await, [202; 30]);
    until("the first claims are coupons", async || system.coupon_count(&campaign).await.unwrap() == 30).await;
    let slots_before = slots(&system, &campaign).await;
    system.stack.stop_process("issuer").await.unwrap();

    let show = |system: &System| -> Value {
        serde_json::from_str(&system.stack.run_issuer(&["campaign", "show", &campaign, "--json"]).unwrap()).unwrap()
    };
    assert_eq!(claim_all(&system, &campaign, "under-way", 50).await, [202; 50]);
    until("they are in Kafka", async || show(&system)["kafka"]["lag"] == 50).await;
    system.redis(&["FLUSHALL"]).await;
    system.stack.run_issuer(&["campaign", "publish", &campaign]).unwrap();
    // The isolate has seen the slots that are handed out again: no denial is certain for a while (I8).
    assert_eq!(claim_all(&system, &campaign, "late", 80).await, [[202; 70].as_slice(), &[503; 10]].concat());
    for n in 71..=80 {
        until("the denial is certain", async || system.claim(&campaign, &format!("late-{n}")).await.status == 410)
            .await;
    }
    until("all are in Kafka", async || show(&system)["kafka"]["lag"] == 120).await;
    assert_eq!(system.coupon_count(&campaign).await.unwrap(), 30, "rows were written meanwhile: no slot conflicts");

    let issuer = Issuer::start(&system, "issuer-b", &[]);
    // A claim whose slot another user holds waits until nothing that was admitted before it can be under way.
    until_within(DECIDED, "every claim has a coupon or a refusal", async || {
        coupons_and_refusals(&system, &campaign).await == (100, 50)
    })
    .await;
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;
    let resolved = issuer.metric("dropgate_issuer_claims_refused_total").await;
    assert!(resolved >= 50.0, "no slot conflict was resolved: the conflict was not tested");

    // The rows agree with the responses to the users.
    let slots = slots(&system, &campaign).await;
    assert!(slots_before.iter().all(|row| slots.contains(row)), "a coupon changed its slot");
    let mut outcomes = [0, 0];
    for (prefix, count) in [("early", 30), ("under-way", 50), ("late", 70)] {
        for n in 1..=count {
            let user = format!("{prefix}-{n}");
            let response = system.claim(&campaign, &user).await;
            let row = slots.iter().find(|(name, _)| *name == user);
            let outcome = (response.status, response.body["status"].as_str().unwrap_or_default());
            match row {
                Some((_, slot)) => {
                    assert_eq!((outcome, &response.body["slot"]), ((200, "issued"), &json!(slot)), "{user}");
                    outcomes[0] += 1;
                }
                None => {
                    assert_eq!((outcome, &response.body["code"]), ((200, "refused"), &Value::Null), "{user}");
                    outcomes[1] += 1;
                }
            }
        }
    }
    assert_eq!(outcomes, [100, 50]);

    // The operator can verify it.
    let refusals = system.stack.run_issuer(&["export", &campaign, "--refusals", "--format", "json"]).unwrap();
    let refusals: Value = serde_json::from_str(&refusals).unwrap();
    let refusals = refusals["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 50);
    assert!(refusals.iter().all(|refusal| refusal["reason"] == "capacity_exhausted"), "{refusals:?}");
    until("the lag is zero", async || show(&system)["kafka"]["lag"] == 0).await;
    let mut command = std::process::Command::new(programs().join("issuer"));
    let output = command.args(["verify", &campaign]).envs(system.stack.endpoints.issuer_env()).output().unwrap();
    let verdict = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{verdict}");
    assert!(verdict.contains("100 coupons of 100, 50 refusals"), "{verdict}");
    assert!(verdict.contains("VERDICT: capacity kept, 50 refused after admission"), "{verdict}");
    issuer.process.stop().await.unwrap();
    system.stop().await;
}

/// Users and slots of the coupons of a campaign.
async fn slots(system: &System, campaign: &str) -> Vec<(String, u32)> {
    sqlx::query_as("SELECT user_id, slot FROM coupons WHERE campaign_id = ?")
        .bind(campaign)
        .fetch_all(&system.mysql)
        .await
        .unwrap()
}

async fn claim_all(system: &System, campaign: &str, prefix: &str, count: u32) -> Vec<u16> {
    let mut statuses = Vec::new();
    for n in 1..=count {
        statuses.push(system.claim(campaign, &format!("{prefix}-{n}")).await.status);
    }
    statuses
}
