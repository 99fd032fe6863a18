//! What holds while a part is away, on real servers: nobody is refused for it, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::issuers::{Issuer, settled};
use dropgate_tests::{System, until};
use serde_json::{Value, json};

/// Users of one fault: their names tell it.
fn users(of: &str) -> Vec<String> {
    (1..=20).map(|n| format!("{of}-{n}")).collect()
}

#[tokio::test]
async fn every_part_may_go_away_and_come_back() {
    let mut system = System::start("faults").await;
    let campaign = system.campaign(1000);
    let mut expected = 0;

    // Kafka REST away: admitted claims wait in the outbox, the sweeper brings them later (I3, I8).
    let url = system.url(&format!("/v1/campaigns/{campaign}/claims"));
    let claim = async |user: &str| {
        dropgate_local::http_client().post(&url).header("x-user-id", user).send().await.unwrap().status().as_u16()
    };
    system
        .stack
        .without("kafka-rest", false, async {
            for user in users("kafka-rest-away") {
                assert_eq!(claim(&user).await, 202);
            }
            Ok(())
        })
        .await
        .unwrap();
    expected += 20;
    assert_eq!(system.rows(&campaign).await.unwrap(), 0, "nothing was away: the fault did not strike");
    assert_eq!(system.waiting(&campaign).await, 20);
    system.end_leases(&campaign).await;
    system.stack.endpoints.cron().await.unwrap();
    until("the sweeper's claims are coupons", async || system.rows(&campaign).await.unwrap() == expected).await;
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;

    // MySQL away: the issuer waits, and goes on (I3).
    let mysql = system.mysql.clone();
    system
        .stack
        .without("mysql", false, async {
            assert!(sqlx::query("SELECT 1").execute(&mysql).await.is_err(), "MySQL is still there");
            for user in users("mysql-away") {
                assert_eq!(claim(&user).await, 202);
            }
            Ok(())
        })
        .await
        .unwrap();
    expected += 20;
    until("the claims made without MySQL are coupons", async || {
        system.rows(&campaign).await.is_ok_and(|rows| rows == expected)
    })
    .await;

    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;

    // Redis away: nobody is admitted, nobody is refused, everybody hears when to come back (I8).
    let answers = system
        .stack
        .without("redis", false, async {
            let mut answers = Vec::new();
            for user in users("redis-away") {
                let answer = dropgate_local::http_client().post(&url).header("x-user-id", user.as_str()).send().await?;
                answers.push((answer.status().as_u16(), answer.headers().contains_key("retry-after")));
            }
            Ok(answers)
        })
        .await
        .unwrap();
    assert_eq!(answers, vec![(503, true); 20]);
    for user in users("redis-away") {
        until("Redis serves again", async || matches!(system.claim(&campaign, &user).await.status, 202 | 200)).await;
    }
    expected += 20;
    until("the claims made after Redis came back are coupons", async || {
        system.rows(&campaign).await.unwrap() == expected
    })
    .await;
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;

    // I5: whatever went away in between, everybody hears the same again.
    for user in users("kafka-rest-away").iter().chain(&users("mysql-away")).chain(&users("redis-away")) {
        let again = system.claim(&campaign, user).await;
        assert_eq!((again.status, again.body["status"].as_str()), (200, Some("issued")), "{user}");
    }
    system.stop().await;
}

/// I3: Redis forgets everything; what MySQL knows comes back with `campaign publish`, and the
/// capacity holds.
#[tokio::test]
async fn a_redis_that_lost_everything_is_rebuilt_from_mysql() {
    let system = System::start("redis-lost").await;
    let campaign = system.campaign(30);
    for user in users("before") {
        assert_eq!(system.claim(&campaign, &user).await.status, 202);
    }
    until("the first claims are coupons", async || system.rows(&campaign).await.unwrap() == 20).await;
    let before = system.claim(&campaign, "before-7").await.body["slot"].clone();

    system.redis(&["FLUSHALL"]).await;
    let lost = system.claim(&campaign, "before-1").await;
    assert_eq!((lost.status, lost.problem()), (503, "unavailable"), "{lost:?}");

    system.stack.issuer(&["campaign", "publish", &campaign]).unwrap();
    let again = system.claim(&campaign, "before-7").await;
    assert_eq!((again.status, &again.body["slot"]), (200, &before));
    let mut after = Vec::new();
    for user in users("after") {
        after.push(system.claim(&campaign, &user).await.status);
    }
    assert_eq!(after, [[202; 10], [410; 10]].concat());
    until("the capacity is issued", async || system.rows(&campaign).await.unwrap() == 30).await;
    system.stop().await;
}

/// I1, I3, I8: Redis forgets everything while admitted claims are still on their way to MySQL. Published
/// again, it promises their slots a second time. The capacity holds, slots that clash are resolved, and
/// whoever cannot be served any more is told so, with a reason on record.
#[tokio::test]
async fn a_redis_emptied_in_the_middle_of_a_campaign_breaks_no_promise_twice() {
    let mut system = System::start("redis-emptied").await;
    let campaign = system.campaign(100);
    assert_eq!(claim_all(&system, &campaign, "early", 30).await, [202; 30]);
    until("the first claims are coupons", async || system.rows(&campaign).await.unwrap() == 30).await;
    let slots_before = slots(&system, &campaign).await;
    system.stack.end("issuer").await.unwrap();

    let show = |system: &System| -> Value {
        serde_json::from_str(&system.stack.issuer(&["campaign", "show", &campaign, "--json"]).unwrap()).unwrap()
    };
    assert_eq!(claim_all(&system, &campaign, "under-way", 50).await, [202; 50]);
    until("they are in Kafka", async || show(&system)["kafka"]["lag"] == 50).await;
    system.redis(&["FLUSHALL"]).await;
    system.stack.issuer(&["campaign", "publish", &campaign]).unwrap();
    assert_eq!(claim_all(&system, &campaign, "late", 80).await, [[202; 70].as_slice(), &[410; 10]].concat());
    until("all are in Kafka", async || show(&system)["kafka"]["lag"] == 120).await;
    assert_eq!(system.rows(&campaign).await.unwrap(), 30, "somebody wrote meanwhile: nothing clashes");

    let issuer = Issuer::start(&system, "issuer-b", &[]);
    until("everybody is settled", async || settled(&system, &campaign).await == (100, 50)).await;
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;
    assert!(
        issuer.metric("dropgate_issuer_coupons_moved_total").await > 0.0,
        "no slot was resolved: nothing is tested"
    );

    // The rows, and what everybody hears of them, agree.
    let slots = slots(&system, &campaign).await;
    assert!(slots_before.iter().all(|row| slots.contains(row)), "a coupon has moved");
    let mut heard = [0, 0];
    for (of, count) in [("early", 30), ("under-way", 50), ("late", 70)] {
        for n in 1..=count {
            let user = format!("{of}-{n}");
            let answer = system.claim(&campaign, &user).await;
            let row = slots.iter().find(|(name, _)| *name == user);
            let told = (answer.status, answer.body["status"].as_str().unwrap_or_default());
            match row {
                Some((_, slot)) => {
                    assert_eq!((told, &answer.body["slot"]), ((200, "issued"), &json!(slot)), "{user}");
                    heard[0] += 1;
                }
                None => {
                    assert_eq!((told, &answer.body["code"]), ((200, "refused"), &Value::Null), "{user}");
                    heard[1] += 1;
                }
            }
        }
    }
    assert_eq!(heard, [100, 50]);

    // And the operator can prove it.
    let refusals = system.stack.issuer(&["export", &campaign, "--refusals", "--format", "json"]).unwrap();
    let refusals: Vec<Value> = serde_json::from_str(&refusals).unwrap();
    assert_eq!(refusals.len(), 50);
    assert!(refusals.iter().all(|refusal| refusal["reason"] == "capacity_exhausted"), "{refusals:?}");
    until("nothing is left to read", async || show(&system)["kafka"]["lag"] == 0).await;
    let verdict = system.stack.issuer(&["verify", &campaign]).unwrap();
    assert!(verdict.contains("100 coupons of 100, 50 refusals") && verdict.contains("VERDICT: holds"), "{verdict}");
    issuer.part.stop().await.unwrap();
    system.stop().await;
}

/// Users and slots of a campaign's coupons.
async fn slots(system: &System, campaign: &str) -> Vec<(String, u32)> {
    sqlx::query_as("SELECT user_id, slot FROM coupons WHERE campaign_id = ?")
        .bind(campaign)
        .fetch_all(&system.mysql)
        .await
        .unwrap()
}

async fn claim_all(system: &System, campaign: &str, of: &str, count: u32) -> Vec<u16> {
    let mut answers = Vec::new();
    for n in 1..=count {
        answers.push(system.claim(campaign, &format!("{of}-{n}")).await.status);
    }
    answers
}
