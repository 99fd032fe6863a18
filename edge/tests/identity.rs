//! Authentication over a scripted network. The end-to-end tests use the runtime's own cryptography.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::*;
use data_encoding::BASE64URL_NOPAD;
use dropgate_edge::gate::{Begun, Gate};
use dropgate_edge::http::response::Response;
use dropgate_edge::labels::Outcome;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HS256: [(&str, &str); 4] =
    [("AUTH", "jwt-hs256"), ("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "dropgate"), ("JWT_SKEW_S", "0")];
const JWKS: [(&str, &str); 3] =
    [("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", "https://keys/jwks"), ("JWT_AUDIENCE", "dropgate")];
/// The second of the tests' clock.
const NOW_S: u64 = 1_000;

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

fn hs256(secret: &str, header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    format!("Bearer {message}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
}

fn claims_of(user: &str) -> Value {
    json!({ "sub": user, "exp": NOW_S + 10_000, "aud": "dropgate" })
}

fn token(user: &str) -> String {
    hs256(SECRET, &json!({ "alg": "HS256" }), &claims_of(user))
}

/// A token of the key `kid` whose signature the scripted network accepts for a key with `mark`.
fn public(kid: Option<&str>, mark: &str) -> String {
    let message = unsigned(&json!({ "alg": "ES256", "kid": kid }), &claims_of("u1"));
    format!("Bearer {message}.{}", BASE64URL_NOPAD.encode(mark.as_bytes()))
}

/// A coordinate of a key that starts with `mark`.
fn coordinate(mark: &str) -> String {
    format!("{mark}{}", &BASE64URL_NOPAD.encode(&[0; 32])[mark.len()..])
}

fn key_set(keys: &[(&str, &str)]) -> Value {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(id, mark)| json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": coordinate(mark), "y": coordinate("") }))
        .collect();
    json!({ "keys": keys })
}

async fn claim_with(gate: &Rc<Gate<ScriptedNetwork>>, platform: &TestPlatform, authorization: &str) -> Response {
    send(gate, platform, "POST", CLAIMS, &[("authorization", authorization)]).await
}

/// Every invalid token gets the same bytes, and costs no call.
#[tokio::test(start_paused = true)]
async fn all_invalid_tokens_get_the_same_response() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &HS256);
    let platform = TestPlatform::new();
    let hs256_header = json!({ "alg": "HS256" });
    let with = |name: &str, value: Value| {
        let mut claims = claims_of("u1");
        claims[name] = value;
        hs256(SECRET, &hs256_header, &claims)
    };
    let good = token("u1");
    let bad = [
        String::new(),
        with("sub", json!("x".repeat(129))),
        "Bearer".to_owned(),
        "Basic dTpw".to_owned(),
        hs256(&"forged".repeat(6), &hs256_header, &claims_of("u1")),
        hs256(SECRET, &json!({ "alg": "none" }), &claims_of("u1")),
        hs256(SECRET, &json!({ "alg": "RS256" }), &claims_of("u1")),
        format!("Bearer {}.", unsigned(&json!({ "alg": "none" }), &claims_of("u1"))),
        with("exp", json!(NOW_S - 1)),
        with("exp", json!("never")),
        with("nbf", json!(NOW_S + 1)),
        with("aud", json!("another")),
        with("sub", json!("\u{7}")),
        with("sub", Value::Null),
        with("more", json!("x".repeat(9_000))),
        good[..good.len() - 1].to_owned(),
        good.replace('.', ""),
    ];
    let first = claim_with(&gate, &platform, &bad[0]).await;
    assert_eq!((first.status, header(&first, "www-authenticate")), (401, Some("Bearer")));
    for token in &bad {
        assert_eq!(claim_with(&gate, &platform, token).await, first, "{token}");
        let own = send(&gate, &platform, "GET", &format!("{CLAIMS}/me"), &[("authorization", token)]).await;
        assert_eq!(own, first, "{token}");
    }
    assert_eq!(send(&gate, &platform, "POST", CLAIMS, &[("x-user-id", "u1")]).await, first, "the header of local work");
    assert!(network.calls.borrow().is_empty());
    // The operator gets what the visitor does not: each reason once in a minute.
    let expected = [
        "bad_signature",
        "claims_malformed",
        "expired",
        "header_malformed",
        "no_sub",
        "no_token",
        "not_bearer",
        "not_yet_valid",
        "other_algorithm",
        "other_audience",
        "sub_no_user_id",
        "token_malformed",
        "token_too_long",
    ];
    let mut reasons = platform.reasons.borrow().clone();
    reasons.sort();
    assert_eq!(reasons, expected);
}

/// RFC 7517 sets no limit; a token need not name its key.
#[tokio::test(start_paused = true)]
async fn every_key_of_a_large_set_is_tried_for_a_token_without_a_key_id() {
    let marks: Vec<String> = (0..20).map(|n| format!("key{n:02}")).collect();
    let keys: Vec<(&str, &str)> = marks.iter().map(|mark| (mark.as_str(), mark.as_str())).collect();
    for (count, mark, outcome, reason) in [
        (6, "key05", Outcome::Paused, None),
        (16, "key15", Outcome::Paused, None),
        (20, "key19", Outcome::Unauthenticated, Some("too_many_keys")),
        (6, "other", Outcome::Unauthenticated, Some("bad_signature")),
    ] {
        let network = ScriptedNetwork::default();
        let gate = gate_with(&network, &JWKS);
        let platform = TestPlatform::new();
        network.respond(200, &key_set(&keys[..count])).respond(200, &admit_reply("paused"));
        let local = LocalSet::new();
        let response = local.run_until(claim_with(&gate, &platform, &public(None, mark))).await;
        assert_eq!(response.outcome, outcome, "{count} {mark}");
        assert_eq!(platform.reasons.borrow().first().map(String::as_str), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_claims_for_its_subject() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &HS256);
    network.respond(200, &admit_reply("=7:900:i"));
    let response = LocalSet::new().run_until(claim_with(&gate, &TestPlatform::new(), &token("u7"))).await;
    assert_eq!(response.status, 200);
    assert_eq!(network.calls.borrow()[0].1.as_array().unwrap().last().unwrap(), "u7");
}

/// When a campaign is sold out, a token of a user without a slot is not verified; a token of a holder is.
#[tokio::test(start_paused = true)]
async fn only_tokens_of_holders_are_verified_when_a_campaign_is_sold_out() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &HS256);
    network.respond(200, &json!({ "result": ["0", "900", "1:900", "", "full"] }));
    network.respond(200, &json!({ "result": ["holder"] }));
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    assert_eq!(local.run_until(claim_with(&gate, &platform, &token("late"))).await.status, 410);
    local.await;
    let forged = |user: &str| hs256(&"forged".repeat(6), &json!({ "alg": "HS256" }), &claims_of(user));
    assert_eq!(claim_with(&gate, &platform, &forged("nobody")).await.status, 410);
    assert_eq!(claim_with(&gate, &platform, &forged("holder")).await.status, 401);
    assert_eq!(network.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_for_all_requests() {
    let network = ScriptedNetwork::default();
    network.takes_ms.set(30);
    let gate = gate_with(&network, &JWKS);
    network.respond(200, &key_set(&[("k1", "one")]));
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    for _ in 0..40 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        // None is signed by the key: all wait for the keys, and none gets further.
        local.spawn_local(async move {
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "two")).await.status, 401);
        });
    }
    local.await;
    assert_eq!(network.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_and_a_made_up_key_id_does_not_cause_fetches() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &JWKS);
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            network.respond(200, &key_set(&[("k1", "one")])).respond(200, &admit_reply("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, Outcome::Paused);
            assert_eq!(network.call_count(), 2);
            for _ in 0..20 {
                assert_eq!(claim_with(&gate, &platform, &public(Some("made-up"), "one")).await.status, 401);
            }
            assert_eq!(network.call_count(), 2, "fetched for a key id that anybody can make up");

            tokio::time::sleep(Duration::from_secs(11)).await;
            network.respond(200, &key_set(&[("k1", "one"), ("k2", "two")])).respond(200, &admit_reply("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k2"), "two")).await.outcome, Outcome::Paused);
            network.respond(200, &admit_reply("paused"));
            assert_eq!(
                claim_with(&gate, &platform, &public(None, "two")).await.outcome,
                Outcome::Paused,
                "no kid: all are tried"
            );
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "two")).await.status, 401);
        })
        .await;
}

/// Without keys nobody is accepted and nobody is refused; keys that were fetched are used for an hour.
#[tokio::test(start_paused = true)]
async fn keys_that_are_not_available_are_no_refusal() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &JWKS);
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            network.time_out();
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.status, 503);
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.status, 503);
            assert_eq!(network.call_count(), 1, "fetched again at once");

            tokio::time::sleep(Duration::from_secs(2)).await;
            network.respond(200, &key_set(&[("k1", "one")])).respond(200, &admit_reply("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, Outcome::Paused);

            // Older than ten minutes: it is used while another is fetched, which fails.
            tokio::time::sleep(Duration::from_secs(700)).await;
            network.time_out().respond(200, &admit_reply("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, Outcome::Paused);

            tokio::time::sleep(Duration::from_secs(3_000)).await;
            network.respond(500, &json!({}));
            let expired = claim_with(&gate, &platform, &public(Some("k1"), "one")).await;
            assert_eq!(expired.outcome, Outcome::Unavailable, "a key was used for longer than an hour");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_claims_of_a_token_are_validated_before_any_key_is_fetched() {
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &JWKS);
    let mut claims = claims_of("u1");
    claims["aud"] = json!("another");
    let token = format!("Bearer {}.AAAA", unsigned(&json!({ "alg": "ES256" }), &claims));
    let step = begin(&gate, "POST", CLAIMS, &[("authorization", &token)], &TestPlatform::new());
    assert!(matches!(step, Begun::Done(response) if response.status == 401));
}
