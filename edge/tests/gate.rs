//! The gate over a scripted network: the responses when upstreams misbehave. The end-to-end tests use real servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::*;
use data_encoding::BASE64;
use dropgate_edge::gate::Begun;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

#[tokio::test(start_paused = true)]
async fn an_admission_is_one_call_then_its_record_goes_to_kafka_and_the_lease_moves() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &admit_reply("+7:900:a"));
    network.acknowledge_forward();
    let (response, platform) = claim(&gate).await;
    assert_eq!((response.status, body(&response)["slot"].as_u64()), (202, Some(7)));
    assert_eq!(*platform.faults.borrow(), []);
    let calls = network.calls.borrow();
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[0].1[0], "EVALSHA");
    assert_eq!(calls[1].0, "http://kafka/topics/coupon_create");
    assert_eq!(calls[2].1.as_array().unwrap()[3..], [json!("dg:{spring}:outbox"), json!("900000"), json!("u1")]);
}

/// I9: clients disconnect while Redis is away, and their claims fill the queue. They do not keep others out.
#[tokio::test(start_paused = true)]
async fn abandoned_claims_do_not_fill_the_queue() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    let abandon = |count: u32| {
        for n in 0..count {
            let user = format!("gone-{n}");
            let mut request = Box::pin(claim_of(&gate, &platform, &user));
            assert!(request.as_mut().now_or_never().is_none_or(|response| response.status == 503));
        }
    };
    local
        .run_until(async {
            network.takes_ms.set(3_000);
            network.time_out().time_out().time_out();
            abandon(2_500);
            // Three calls have taken their share of the claims; other claims fill the queue again.
            tokio::time::sleep(Duration::from_secs(1)).await;
            abandon(2_500);
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(network.call_count(), 3, "no claim was sent to Redis: nothing is tested");
            network.takes_ms.set(1);
            network.respond(200, &admit_reply("+7:900:a"));
            network.acknowledge_forward();
            assert_eq!(claim_of(&gate, &platform, "first").await.status, 202);
        })
        .await;
}

/// Without an acknowledgement the lease stays, and the sweeper takes the entry when it ends.
#[tokio::test(start_paused = true)]
async fn a_forward_that_is_not_acknowledged_moves_no_lease() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &admit_reply("+7:900:a"));
    network.respond(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    let (response, platform) = claim(&gate).await;
    assert_eq!(response.status, 202);
    assert_eq!(*platform.faults.borrow(), [("forward".to_owned(), "record_failed".to_owned())]);
    assert_eq!(network.call_count(), 2);
}

/// I5
#[tokio::test(start_paused = true)]
async fn a_repeated_claim_answers_the_same_and_forwards_nothing() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &admit_reply("+7:900:a"));
    network.acknowledge_forward();
    let first = claim(&gate).await.0;
    let again = claim_with_reply(&network, &gate, 200, &admit_reply("=7:900:a")).await;
    assert_eq!((first.status, again.status), (202, 200));
    assert_eq!(body(&first), body(&again));
}

/// I8: no response, garbage, an error page and damaged data all get the same response.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_never_reported_as_a_refusal() {
    let damaged = json!({ "error": "DROPGATE campaign meta is damaged: publish the campaign again" });
    for (status, answer) in [
        (0, Value::Null),
        (200, json!("garbage")),
        (200, admit_reply("+0:0:?")),
        (502, json!("bad gateway")),
        (401, json!({ "error": "WRONGPASS" })),
        (400, damaged),
    ] {
        let network = ScriptedNetwork::default();
        let gate = gate(&network);
        if status == 0 {
            network.time_out();
        } else {
            network.respond(status, &answer);
        }
        let (response, platform) = claim(&gate).await;
        assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));
        assert_eq!(body(&response)["type"], "urn:dropgate:problem:unavailable");
        assert!(!platform.faults.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_redis_has_not_cached_is_sent_as_text() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(400, &json!({ "error": "NOSCRIPT No matching network. Please use EVAL." }));
    assert_eq!(claim_with_reply(&network, &gate, 200, &admit_reply("=1:900:a")).await.status, 200);
    let calls = network.calls.borrow();
    assert_eq!((calls[0].1[0].as_str(), calls[1].1[0].as_str()), (Some("EVALSHA"), Some("EVAL")));
    assert_eq!(calls[0].1.as_array().unwrap()[2..], calls[1].1.as_array().unwrap()[2..]);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_that_was_seen_does_not_become_unknown() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let gone = json!({ "result": null });
    network.respond(200, &gone).respond(200, &json!({ "result": ["another"] }));
    assert_eq!(claim(&gate).await.0.status, 404);
    assert_eq!(claim_with_reply(&network, &gate, 200, &admit_reply("late")).await.status, 410);
    let lost = claim_with_reply(&network, &gate, 200, &gone).await;
    assert_eq!((lost.status, header(&lost, "retry-after")), (503, Some("1")));
}

/// I8: a new isolate, and a Redis that has lost everything, or this campaign.
#[tokio::test(start_paused = true)]
async fn a_campaign_is_unknown_only_where_redis_knows_others() {
    let gone = json!({ "result": null });
    let no_view = json!({ "result": [[null, null, null, null, null, null], ["1", "1"], null] });
    let no_claim = json!({ "result": [null, null, null, null, null] });
    for (known, status) in [(json!([]), 503), (json!(["spring", "other"]), 503), (json!(["other"]), 404)] {
        for (method, path, reply) in
            [("POST", CLAIMS, &gone), ("GET", CAMPAIGN, &no_view), ("GET", "/v1/campaigns/spring/claims/me", &no_claim)]
        {
            let network = ScriptedNetwork::default();
            let gate = gate(&network);
            let platform = TestPlatform::new();
            network.respond(200, reply).respond(200, &json!({ "result": known }));
            let local = LocalSet::new();
            local
                .run_until(async {
                    let first = send(&gate, &platform, method, path, &[("x-user-id", "u1")]).await;
                    assert_eq!(first.status, status, "{method} {path}, known {known}");
                    // The answer to a page that asks again comes from memory, and is the same.
                    if method == "GET" && path == CAMPAIGN {
                        assert_eq!(send(&gate, &platform, method, path, &[]).await.status, status);
                        assert_eq!(network.call_count(), 2);
                    }
                })
                .await;
        }
    }
}

/// However many ids a visitor makes up.
#[tokio::test(start_paused = true)]
async fn the_known_campaigns_are_asked_for_once_a_second() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(5);
    let gate = gate(&network);
    let platform = TestPlatform::new();
    let no_view = json!({ "result": [[null, null, null, null, null, null], ["1", "1"], null] });
    for _ in 0..20 {
        network.respond(200, &no_view);
    }
    network.respond(200, &json!({ "result": ["other"] }));
    let local = LocalSet::new();
    for n in 0..20 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        local.spawn_local(async move {
            assert_eq!(send(&gate, &platform, "GET", &format!("/v1/campaigns/no-{n}"), &[]).await.status, 404);
        });
    }
    local.await;
    assert_eq!(network.call_count(), 21);
}

/// A plain read may be answered by a replica that does not know the claim yet.
#[tokio::test(start_paused = true)]
async fn a_claim_and_a_campaign_are_read_by_scripts() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let platform = TestPlatform::new();
    network.respond(200, &json!({ "result": ["open", "900", null, "3:900:a", null] }));
    network.respond(200, &json!({ "result": [["open", "100", "7", "5", "0", null], ["12", "345678"], null] }));
    let local = LocalSet::new();
    local
        .run_until(async {
            let own = send(&gate, &platform, "GET", &format!("{CLAIMS}/me"), &[("x-user-id", "u1")]).await;
            assert_eq!((own.status, body(&own)["slot"].as_u64()), (200, Some(3)));
            assert_eq!(send(&gate, &platform, "GET", CAMPAIGN, &[]).await.status, 200);
        })
        .await;
    assert!(network.calls.borrow().iter().all(|(_, call)| call[0] == "EVALSHA"));
}

/// I5, I8: Redis fails over to a replica without the last admission, and gives its slot to another user. Until the lost
/// claim is back, nobody is denied: not by Redis, and not from memory.
#[tokio::test(start_paused = true)]
async fn no_denial_is_certain_after_redis_went_back_in_time() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &[("ADMIT_ACK", "redis")]);
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    let own = format!("{CLAIMS}/me");
    local
        .run_until(async {
            for (user, reply) in [("c", "+3:900:a"), ("d", "+3:950:a")] {
                network.respond(200, &admit_reply(reply));
                network.respond(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
                assert_eq!(claim_of(&gate, &platform, user).await.status, 202);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let went_back = || platform.faults.borrow().iter().filter(|(_, label)| label == "went_back").count();
            assert_eq!(went_back(), 1);
            for (answer, holders) in [("full", "3:950"), ("late", "")] {
                network.respond(200, &json!({ "result": ["0", "950", holders, "", answer] }));
                assert_eq!(claim_of(&gate, &platform, "c").await.status, 503, "{answer}");
            }
            network.respond(200, &json!({ "result": ["open", "950", null, null, null] }));
            assert_eq!(send(&gate, &platform, "GET", &own, &[("x-user-id", "c")]).await.status, 503);
            tokio::time::sleep(Duration::from_secs(30)).await;
            network.respond(200, &json!({ "result": ["0", "900", "3:950", "", "full"] }));
            network.respond(200, &json!({ "result": ["a", "b", "d"] }));
            assert_eq!(claim_of(&gate, &platform, "e").await.status, 410, "it ends by itself");
            assert_eq!(went_back(), 1);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn every_decision_has_its_response() {
    for (answer, status, kind) in
        [("full", 410, "sold-out"), ("late", 410, "closed"), ("early", 403, "not-open"), ("paused", 503, "paused")]
    {
        let network = ScriptedNetwork::default();
        let gate = gate(&network);
        network.respond(200, &admit_reply(answer)).respond(200, &json!({ "result": ["holder"] }));
        let response = claim(&gate).await.0;
        assert_eq!(
            (response.status, &body(&response)["type"]),
            (status, &json!(format!("urn:dropgate:problem:{kind}")))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_claim_has_no_code() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let response = claim_with_reply(&network, &gate, 200, &admit_reply("=3:900:r")).await;
    assert_eq!((body(&response)["status"].as_str(), body(&response)["code"].as_str()), (Some("refused"), None));
}

/// Many claims, few calls: claims that arrive during a call share the next one.
#[tokio::test(start_paused = true)]
async fn claims_that_wait_share_a_call_and_each_gets_its_own_decision() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(10);
    let gate = gate(&network);
    network.admits_everyone.set(true);
    let platform = TestPlatform::new();
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
    assert!(slots.borrow().iter().all(|(n, slot)| n == slot), "a claim got the decision of another");
    assert_eq!(slots.borrow().len(), 100);
    assert!(network.call_count() <= 4, "{} calls", network.call_count());
}

/// A request whose client disconnects ends at an await, without any clean-up.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_client_disconnects_still_decides_for_the_others() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(50);
    let gate = gate(&network);
    network.respond(200, &json!({ "result": ["0", "900", "", "", "=1:900:a"] }));
    network.respond(200, &json!({ "result": ["0", "900", "", "", "=2:900:a"] }));
    let local = LocalSet::new();
    local
        .run_until(async {
            let platform = TestPlatform::new();
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

/// When a campaign is sold out, a claim of a user without a slot costs no call, and one of a holder goes to Redis.
#[tokio::test(start_paused = true)]
async fn sold_out_is_remembered_with_all_holders() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &json!({ "result": ["0", "900", "2:900", "", "full"] }));
    network.respond(200, &json!({ "result": ["holder-1", "holder-2"] }));
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    assert_eq!(local.run_until(claim_of(&gate, &platform, "first")).await.status, 410);
    local.await;
    let calls = network.call_count();
    for n in 0..1000 {
        let headers = [("x-user-id", &*format!("nobody-{n}"))];
        let step = begin(&gate, "POST", CLAIMS, &headers, &platform);
        assert!(matches!(step, Begun::Done(response) if response.status == 410));
    }
    assert_eq!(network.call_count(), calls);

    network.respond(200, &json!({ "result": ["0", "900", "", "", "=2:900:i"] }));
    let local = LocalSet::new();
    let holder = local.run_until(claim_of(&gate, &platform, "holder-2")).await;
    assert_eq!((holder.status, body(&holder)["slot"].as_u64()), (200, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn traceparent_is_a_part_of_the_record() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    network.respond(200, &admit_reply("+7:900:a"));
    network.acknowledge_forward();
    let local = LocalSet::new();
    let headers = [("x-user-id", "u1"), ("traceparent", trace)];
    local.run_until(send(&gate, &TestPlatform::new(), "POST", CLAIMS, &headers)).await;
    local.await;
    let calls = network.calls.borrow();
    let value = calls[1].1["records"][0]["value"].as_str().unwrap();
    let record: Value = serde_json::from_slice(&BASE64.decode(value.as_bytes()).unwrap()).unwrap();
    assert_eq!(record["trace"], trace);
}

/// However many requests read a campaign.
#[tokio::test(start_paused = true)]
async fn reading_a_campaign_costs_one_call_a_second() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(20);
    let gate = gate(&network);
    let meta =
        |count: u32| json!({ "result": [["open", "100", count.to_string(), "5", "0", null], ["12", "345678"], null] });
    network.respond(200, &meta(7)).respond(200, &meta(9));
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    for _ in 0..50 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        local.spawn_local(async move {
            let response = send(&gate, &platform, "GET", CAMPAIGN, &[]).await;
            assert_eq!((response.status, body(&response)["remaining"].as_u64()), (200, Some(93)));
            assert_eq!(header(&response, "cache-control"), Some("public, max-age=1"));
        });
    }
    local.await;
    assert_eq!(network.call_count(), 1);
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(body(&send(&gate, &platform, "GET", CAMPAIGN, &[]).await)["remaining"], 93);
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(body(&send(&gate, &platform, "GET", CAMPAIGN, &[]).await)["remaining"], 91);
        })
        .await;
    assert_eq!(network.call_count(), 2);
}

/// A view is fresh for a second, so from such a distance none ever is when it arrives.
#[tokio::test(start_paused = true)]
async fn a_campaign_is_shown_however_far_redis_is() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(2_900);
    let gate = gate(&network);
    network.respond(200, &json!({ "result": [["open", "100", "7", "5", "0", null], ["12", "345678"], null] }));
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    for _ in 0..20 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        local.spawn_local(async move {
            assert_eq!(send(&gate, &platform, "GET", CAMPAIGN, &[]).await.status, 200);
        });
    }
    local.await;
    assert_eq!(network.call_count(), 1);
}

/// `ADMIT_ACK=kafka`: an admission is reported only when Kafka has the record. If it was not, the user learns it when
/// they repeat the claim.
#[tokio::test(start_paused = true)]
async fn an_admission_may_wait_for_kafka() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &[("ADMIT_ACK", "kafka")]);
    network.respond(200, &admit_reply("+7:900:a"));
    network.respond(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    let (response, _) = claim(&gate).await;
    assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));

    network.respond(200, &admit_reply("=7:900:a"));
    network.acknowledge_forward();
    let (response, platform) = claim(&gate).await;
    assert_eq!((response.status, body(&response)["slot"].as_u64()), (200, Some(7)));
    assert_eq!(*platform.faults.borrow(), []);

    // The row exists: no record is produced.
    network.respond(200, &admit_reply("=7:900:i"));
    assert_eq!(claim(&gate).await.0.status, 200);
    assert_eq!(network.calls.borrow().iter().filter(|(url, _)| url.contains("/topics/")).count(), 2);
}

/// Gate and issuer have different secrets: nobody is admitted, and nobody sees a code that no row has.
#[tokio::test(start_paused = true)]
async fn a_gate_with_another_code_secret_than_the_campaign_admits_nobody() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &[("COUPON_CODE_SECRET_PREVIOUS", "the one before this")]);
    network.respond(400, &json!({ "error": "DROPGATE_CODE_KEY the codes of this campaign are .." }));
    let (response, platform) = claim(&gate).await;
    assert_eq!(response.status, 503);
    assert_eq!(body(&response)["type"], "urn:dropgate:problem:misconfigured");
    assert!(body(&response)["detail"].as_str().unwrap().contains("COUPON_CODE_SECRET is not the secret"));
    assert!(platform.faults.borrow().contains(&("admit".to_owned(), "other_code_key".to_owned())));
    let ids = network.calls.borrow()[0].1[7].as_str().unwrap().to_owned();
    assert_eq!(ids.split(',').count(), 2, "{ids}: the script gets both");
    assert!(ids.starts_with("W8PN52VN,"), "{ids}");

    // A claim of before is shown with the code of the campaign's own secret, or not at all: without a key id either of two
    // may have been meant.
    let previous = ids.split(',').nth(1).unwrap().to_owned();
    let mut codes = Vec::new();
    for (key, status) in [(previous.as_str(), 200), ("W8PN52VN", 200), ("", 503), ("00000000", 503)] {
        network.respond(200, &json!({ "result": ["open", "900", null, "3:900:a", key] }));
        let platform = TestPlatform::new();
        let response = send(&gate, &platform, "GET", &format!("{CLAIMS}/me"), &[("x-user-id", "u1")]).await;
        assert_eq!(response.status, status, "{key}");
        codes.push(body(&response)["code"].clone());
    }
    assert!(codes[0] != codes[1] && codes[2].is_null() && codes[3].is_null(), "{codes:?}");
}

/// Redis has lost the campaign, and with it the name of its secret; a row was confirmed since then.
#[tokio::test(start_paused = true)]
async fn a_claim_without_its_campaign_shows_no_code() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &json!({ "result": [null, null, null, "3:900:i", null] }));
    let platform = TestPlatform::new();
    let response = send(&gate, &platform, "GET", &format!("{CLAIMS}/me"), &[("x-user-id", "u1")]).await;
    assert_eq!((response.status, body(&response)["code"].is_null()), (503, true));
}

/// Staging and production share a Redis and a Kafka.
#[tokio::test(start_paused = true)]
async fn a_gate_uses_its_own_key_prefix_and_topic_only() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &[("REDIS_KEY_PREFIX", "staging:"), ("KAFKA_TOPIC", "staging.claims")]);
    network.respond(200, &admit_reply("+7:900:a"));
    network.acknowledge_forward();
    assert_eq!(claim(&gate).await.0.status, 202);
    let calls = network.calls.borrow();
    assert_eq!(calls[1].0, "http://kafka/topics/staging.claims");
    for (_, body) in calls.iter().filter(|(url, _)| !url.contains("kafka")) {
        let keys: Vec<&str> =
            body.as_array().unwrap().iter().filter_map(|word| word.as_str()).filter(|w| w.contains(':')).collect();
        assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("staging:{spring}:")), "{keys:?}");
    }
}

/// A gate with another prefix than the issuer finds nothing: no response says "no such campaign", and the log says why.
#[tokio::test(start_paused = true)]
async fn a_redis_without_any_campaign_is_a_fault_that_names_the_prefix() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    network.respond(200, &json!({ "result": null })).respond(200, &json!({ "result": [] }));
    let (response, platform) = claim(&gate).await;
    assert_eq!(response.status, 503);
    assert!(platform.faults.borrow().contains(&("request".to_owned(), "no_campaigns".to_owned())));
}
