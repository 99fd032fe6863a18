//! The gate over a scripted network: what visitors hear when upstreams misbehave. The real servers'
//! turn comes in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::*;
use data_encoding::BASE64;
use dropgate_edge::gate::{BODY_LIMIT_BYTES, Begun};
use dropgate_edge::platform::Limiter;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

#[tokio::test(start_paused = true)]
async fn an_admission_is_one_call_then_its_record_goes_to_kafka_and_the_lease_moves() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    forwarded(&script);
    let (response, platform) = claim(&gate).await;
    assert_eq!((response.status, body(&response)["slot"].as_u64()), (202, Some(7)));
    assert_eq!(*platform.faults.borrow(), []);
    let asked = script.asked.borrow();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0].1[0], "EVALSHA");
    assert_eq!(asked[1].0, "http://kafka/topics/coupon_create");
    assert_eq!(asked[2].1.as_array().unwrap()[3..], [json!("dg:{spring}:outbox"), json!("900000"), json!("u1")]);
}

/// I9: visitors hang up while Redis is away, and their claims fill the queue. Whoever comes when Redis is back
/// finds it full, and sees to it that the next finds it empty.
#[tokio::test(start_paused = true)]
async fn a_queue_full_of_abandoned_claims_is_emptied_by_whoever_comes() {
    let script = Script::default();
    let gate = gate(&script);
    let platform = Test::new();
    let local = LocalSet::new();
    let abandon = |count: u32| {
        for n in 0..count {
            let user = format!("gone-{n}");
            let mut visit = Box::pin(claim_of(&gate, &platform, &user));
            assert!(visit.as_mut().now_or_never().is_none_or(|response| response.status == 503));
        }
    };
    let at_once = local.run_until(async {
        script.takes_ms.set(3_000);
        script.silence().silence().silence();
        abandon(2_500);
        // Three calls are on their way with their share of the claims; the others fill their places.
        tokio::time::sleep(Duration::from_secs(1)).await;
        abandon(2_500);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(script.asked.borrow().len(), 3, "nobody was on his way to Redis: nothing is tested");
        script.takes_ms.set(1);
        claim_of(&gate, &platform, "first").await
    });
    assert_eq!(at_once.await.status, 503, "the queue was not full: nothing is tested");
    local
        .run_until(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(script.asked.borrow().len(), 3, "claims of people who are gone went to Redis");
            script.answer(200, &admitted("+7:900:a"));
            forwarded(&script);
            assert_eq!(claim_of(&gate, &platform, "second").await.status, 202);
        })
        .await;
}

/// Produce failed leaves the lease where it is, and the sweeper comes back.
#[tokio::test(start_paused = true)]
async fn a_forward_that_is_not_acknowledged_moves_no_lease() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    script.answer(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    let (response, platform) = claim(&gate).await;
    assert_eq!(response.status, 202);
    assert_eq!(*platform.faults.borrow(), [("forward".to_owned(), "record_failed".to_owned())]);
    assert_eq!(script.asked.borrow().len(), 2);
}

/// I5
#[tokio::test(start_paused = true)]
async fn a_repeated_claim_answers_the_same_and_forwards_nothing() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    forwarded(&script);
    let first = claim(&gate).await.0;
    let again = answered(&script, &gate, 200, &admitted("=7:900:a")).await;
    assert_eq!((first.status, again.status), (202, 200));
    assert_eq!(body(&first), body(&again));
}

/// I8: silence, garbage, an error page and damaged data are all answered alike.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_never_told_as_a_refusal() {
    let damaged = json!({ "error": "DROPGATE campaign meta is damaged: publish the campaign again" });
    for (status, answer) in [
        (0, Value::Null),
        (200, json!("garbage")),
        (200, admitted("+0:0:?")),
        (502, json!("bad gateway")),
        (401, json!({ "error": "WRONGPASS" })),
        (400, damaged),
    ] {
        let script = Script::default();
        let gate = gate(&script);
        if status == 0 {
            script.silence();
        } else {
            script.answer(status, &answer);
        }
        let (response, platform) = claim(&gate).await;
        assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));
        assert_eq!(body(&response)["type"], "urn:dropgate:problem:unavailable");
        assert!(!platform.faults.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_redis_does_not_hold_is_sent_whole() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(400, &json!({ "error": "NOSCRIPT No matching script. Please use EVAL." }));
    assert_eq!(answered(&script, &gate, 200, &admitted("=1:900:a")).await.status, 200);
    let asked = script.asked.borrow();
    assert_eq!((asked[0].1[0].as_str(), asked[1].1[0].as_str()), (Some("EVALSHA"), Some("EVAL")));
    assert_eq!(asked[0].1.as_array().unwrap()[2..], asked[1].1.as_array().unwrap()[2..]);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_that_was_seen_alive_does_not_become_unknown() {
    let script = Script::default();
    let gate = gate(&script);
    let gone = json!({ "result": null });
    assert_eq!(answered(&script, &gate, 200, &gone).await.status, 404);
    assert_eq!(answered(&script, &gate, 200, &admitted("late")).await.status, 410);
    let lost = answered(&script, &gate, 200, &gone).await;
    assert_eq!((lost.status, header(&lost, "retry-after")), (503, Some("1")));
}

#[tokio::test(start_paused = true)]
async fn every_decision_has_its_answer() {
    for (answer, status, kind) in
        [("full", 410, "sold-out"), ("late", 410, "closed"), ("early", 403, "not-open"), ("paused", 503, "paused")]
    {
        let script = Script::default();
        let gate = gate(&script);
        script.answer(200, &admitted(answer)).answer(200, &json!({ "result": ["holder"] }));
        let response = claim(&gate).await.0;
        assert_eq!(
            (response.status, &body(&response)["type"]),
            (status, &json!(format!("urn:dropgate:problem:{kind}")))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_claim_shows_no_code() {
    let script = Script::default();
    let gate = gate(&script);
    let response = answered(&script, &gate, 200, &admitted("=3:900:r")).await;
    assert_eq!((body(&response)["status"].as_str(), body(&response)["code"].as_str()), (Some("refused"), None));
}

/// Many claims, few calls: those that come while a call is under way go together in the next.
#[tokio::test(start_paused = true)]
async fn claims_that_wait_go_to_redis_together_and_each_hears_its_own() {
    let script = Script::default();
    script.takes_ms.set(10);
    let gate = gate(&script);
    script.knows_everyone.set(true);
    let platform = Test::new();
    let local = LocalSet::new();
    let slots = Rc::new(RefCell::new(Vec::new()));
    for n in 1..=100_u64 {
        let (gate, platform, slots) = (Rc::clone(&gate), platform.clone(), Rc::clone(&slots));
        local.spawn_local(async move {
            let response = claim_of(&gate, &platform, &format!("user-{n}")).await;
            slots.borrow_mut().push((n, body(&response)["slot"].as_u64().unwrap()));
        });
    }
    local.await;
    assert!(slots.borrow().iter().all(|(n, slot)| n == slot), "somebody heard another's decision");
    assert_eq!(slots.borrow().len(), 100);
    assert!(script.asked.borrow().len() <= 4, "{} calls", script.asked.borrow().len());
}

/// A visitor who hangs up takes nobody with him: his request ends at an await, without any clean-up.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_visitor_hangs_up_still_decides_for_the_others() {
    let script = Script::default();
    script.takes_ms.set(50);
    let gate = gate(&script);
    script.answer(200, &json!({ "result": ["0", "900", "", "=1:900:a"] }));
    script.answer(200, &json!({ "result": ["0", "900", "", "=2:900:a"] }));
    let local = LocalSet::new();
    local
        .run_until(async {
            let platform = Test::new();
            let leader = tokio::task::spawn_local({
                let (gate, platform) = (Rc::clone(&gate), platform.clone());
                async move { claim_of(&gate, &platform, "impatient").await }
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
            leader.abort();
            assert_eq!(body(&claim_of(&gate, &platform, "patient").await)["slot"], 2);
        })
        .await;
}

/// After "sold out" a stranger costs no call, and a holder always hears the truth.
#[tokio::test(start_paused = true)]
async fn sold_out_is_remembered_with_everyone_who_holds_a_slot() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &json!({ "result": ["0", "900", "2:900", "full"] }));
    script.answer(200, &json!({ "result": ["holder-1", "holder-2"] }));
    let platform = Test::new();
    let local = LocalSet::new();
    assert_eq!(local.run_until(claim_of(&gate, &platform, "first-to-hear")).await.status, 410);
    local.await;
    let calls = script.asked.borrow().len();
    for n in 0..1000 {
        let headers = [("x-user-id", &*format!("stranger-{n}"))];
        let step = begin(&gate, "POST", "/v1/campaigns/spring/claims", &headers, &platform);
        assert!(matches!(step, Begun::Done(response) if response.status == 410));
    }
    assert_eq!(script.asked.borrow().len(), calls);

    script.answer(200, &json!({ "result": ["0", "900", "", "=2:900:i"] }));
    let local = LocalSet::new();
    let holder = local.run_until(claim_of(&gate, &platform, "holder-2")).await;
    assert_eq!((holder.status, body(&holder)["slot"].as_u64()), (200, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn bad_requests_cost_no_call_and_say_what_would_be_right() {
    let script = Script::default();
    let gate = gate(&script);
    let platform = Test::new();
    let address = format!("/v1/{}", "x".repeat(2_048));
    let big = (BODY_LIMIT_BYTES + 1).to_string();
    let long = "x".repeat(129);
    for (method, path, headers, status, says) in [
        ("POST", "/v1/campaigns/spring/claims", vec![], 401, "X-User-Id"),
        ("POST", "/v1/campaigns/spring/claims", vec![("x-user-id", long.as_str())], 400, "128 bytes"),
        ("POST", "/v1/campaigns/spring/claims", vec![("x-user-id", " a")], 400, "white space"),
        ("POST", "/v1/campaigns/Spring!/claims", vec![("x-user-id", "u")], 400, "a-z"),
        ("GET", "/v1/campaigns/spring/claims", vec![], 405, "POST"),
        ("POST", "/v1/campaigns/spring/claims", vec![("x-user-id", "u"), ("content-length", &big)], 413, "4096"),
        ("GET", &address, vec![], 414, "2048 bytes"),
        ("GET", "/v1/nothing", vec![], 404, "nothing"),
    ] {
        let Begun::Done(response) = begin(&gate, method, path, &headers, &platform) else {
            panic!("{path} made a call")
        };
        assert_eq!(response.status, status, "{path}");
        assert!(response.body.contains(says), "{} does not say {says}", response.body);
    }
    assert!(script.asked.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn traceparent_goes_on_in_the_record() {
    let script = Script::default();
    let gate = gate(&script);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    script.answer(200, &admitted("+7:900:a"));
    forwarded(&script);
    let local = LocalSet::new();
    let headers = [("x-user-id", "u1"), ("traceparent", trace)];
    local.run_until(ask(&gate, &Test::new(), "POST", "/v1/campaigns/spring/claims", &headers)).await;
    local.await;
    let asked = script.asked.borrow();
    let value = asked[1].1["records"][0]["value"].as_str().unwrap();
    let record: Value = serde_json::from_slice(&BASE64.decode(value.as_bytes()).unwrap()).unwrap();
    assert_eq!(record["trace"], trace);
}

/// One look at a campaign a second, however many visitors look.
#[tokio::test(start_paused = true)]
async fn looks_at_a_campaign_cost_one_call_a_second() {
    let script = Script::default();
    script.takes_ms.set(20);
    let gate = gate(&script);
    let meta = |count: u32| json!([{ "result": ["open", "100", count.to_string(), "5", "0"] }, { "result": ["12", "345678"] }]);
    script.answer(200, &meta(7)).answer(200, &meta(9));
    let platform = Test::new();
    let local = LocalSet::new();
    for _ in 0..50 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        local.spawn_local(async move {
            let response = ask(&gate, &platform, "GET", "/v1/campaigns/spring", &[]).await;
            assert_eq!((response.status, body(&response)["remaining"].as_u64()), (200, Some(93)));
            assert_eq!(header(&response, "cache-control"), Some("public, max-age=1"));
        });
    }
    local.await;
    assert_eq!(script.asked.borrow().len(), 1);
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(body(&ask(&gate, &platform, "GET", "/v1/campaigns/spring", &[]).await)["remaining"], 93);
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(body(&ask(&gate, &platform, "GET", "/v1/campaigns/spring", &[]).await)["remaining"], 91);
        })
        .await;
    assert_eq!(script.asked.borrow().len(), 2);
}

/// `ADMIT_ACK=kafka`: nobody hears that he is in before Kafka has his record, and whoever could not be
/// told hears it when he asks again.
#[tokio::test(start_paused = true)]
async fn kafka_may_have_the_last_word() {
    let script = Script::default();
    let gate = gate_with(&script, &[("ADMIT_ACK", "kafka")]);
    script.answer(200, &admitted("+7:900:a"));
    script.answer(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    let (response, _) = claim(&gate).await;
    assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));

    script.answer(200, &admitted("=7:900:a"));
    forwarded(&script);
    let (response, platform) = claim(&gate).await;
    assert_eq!((response.status, body(&response)["slot"].as_u64()), (200, Some(7)));
    assert_eq!(*platform.faults.borrow(), []);

    // The row exists: Kafka need not be asked.
    script.answer(200, &admitted("=7:900:i"));
    assert_eq!(claim(&gate).await.0.status, 200);
    assert_eq!(script.asked.borrow().iter().filter(|(url, _)| url.contains("/topics/")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_too_often_hears_so_and_a_limit_that_fails_refuses_nobody() {
    for (within, status, outcome) in
        [(Ok(false), 429, "too-many-requests"), (Err("no answer".to_owned()), 503, "unavailable")]
    {
        let script = Script::default();
        let gate = gate(&script);
        let platform = Test { within, ..Test::new() };
        let headers = [("x-user-id", "u1"), ("cf-connecting-ip", "192.0.2.1")];
        let response = ask(&gate, &platform, "POST", "/v1/campaigns/spring/claims", &headers).await;
        assert_eq!((response.status, response.outcome), (status, outcome));
        assert!(header(&response, "retry-after").is_some());
        assert_eq!(*platform.limited.borrow(), [(Limiter::Address, "192.0.2.1".to_owned())]);
        assert!(script.asked.borrow().is_empty());
    }
    let script = Script::default();
    let gate = gate(&script);
    let (_, platform) = {
        script.answer(200, &admitted("paused"));
        claim(&gate).await
    };
    assert_eq!(*platform.limited.borrow(), [(Limiter::User, "u1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_is_passed_failed_or_unknown() {
    let outcomes = [
        (json!({ "success": true }), 503, "paused"),
        (json!({ "success": false, "error-codes": ["timeout-or-duplicate"] }), 403, "challenge-failed"),
        (json!({ "success": false, "error-codes": ["invalid-input-secret"] }), 503, "unavailable"),
        (json!("garbage"), 503, "unavailable"),
    ];
    for (answer, status, outcome) in outcomes {
        let script = Script::default();
        let gate = gate_with(&script, &[("TURNSTILE_SECRET", "s")]);
        script.answer(200, &answer).answer(200, &admitted("paused"));
        let headers = [("x-user-id", "u1"), ("x-challenge", "token")];
        let local = LocalSet::new();
        let platform = Test::new();
        let response = local.run_until(ask(&gate, &platform, "POST", "/v1/campaigns/spring/claims", &headers)).await;
        assert_eq!((response.status, response.outcome), (status, outcome), "{answer}");
    }
    let script = Script::default();
    let gate = gate_with(&script, &[("TURNSTILE_SECRET", "s")]);
    assert_eq!(claim(&gate).await.0.outcome, "challenge-failed");
    assert!(script.asked.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_answer_carries_what_the_page_that_asked_needs() {
    let gate = gate_with(&Script::default(), &[("CORS_ORIGINS", "https://shop.example")]);
    let platform = Test::new();
    let headers = [("origin", "https://shop.example"), ("x-request-id", "r-1")];
    for (method, path, status) in
        [("OPTIONS", "/v1/campaigns/a/claims", 204), ("POST", "/v1/campaigns/a/claims", 401), ("GET", "/healthz", 200)]
    {
        let response = ask(&gate, &platform, method, path, &headers).await;
        assert_eq!(response.status, status);
        assert_eq!(header(&response, "access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!((header(&response, "vary"), header(&response, "x-request-id")), (Some("origin"), Some("r-1")));
    }
    let stranger = ask(&gate, &platform, "GET", "/healthz", &[("origin", "https://evil.example")]).await;
    assert_eq!(header(&stranger, "access-control-allow-origin"), None);
}
