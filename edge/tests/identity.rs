//! Who the gate believes, over a scripted network. The runtime's own cryptography has its turn in the
//! end-to-end tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::*;
use data_encoding::BASE64URL_NOPAD;
use dropgate_edge::gate::{Begun, Gate};
use dropgate_edge::http::response::Response;
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
const CLAIMS: &str = "/v1/campaigns/spring/claims";
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

/// A token of the key `kid` whose signature the scripted network takes for `mark`'s.
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

async fn claim_with(gate: &Rc<Gate<Script>>, platform: &Test, authorization: &str) -> Response {
    ask(gate, platform, "POST", CLAIMS, &[("authorization", authorization)]).await
}

/// Everything that is wrong with a token is answered by the same bytes, and costs no call.
#[tokio::test(start_paused = true)]
async fn bad_tokens_are_told_apart_by_nobody() {
    let script = Script::default();
    let gate = gate_with(&script, &HS256);
    let platform = Test::new();
    let header = json!({ "alg": "HS256" });
    let with = |name: &str, value: Value| {
        let mut claims = claims_of("u1");
        claims[name] = value;
        hs256(SECRET, &header, &claims)
    };
    let good = token("u1");
    let bad = [
        String::new(),
        "Bearer".to_owned(),
        "Basic dTpw".to_owned(),
        hs256(&"forged".repeat(6), &header, &claims_of("u1")),
        hs256(SECRET, &json!({ "alg": "none" }), &claims_of("u1")),
        hs256(SECRET, &json!({ "alg": "RS256" }), &claims_of("u1")),
        format!("Bearer {}.", unsigned(&json!({ "alg": "none" }), &claims_of("u1"))),
        with("exp", json!(NOW_S - 1)),
        with("nbf", json!(NOW_S + 1)),
        with("aud", json!("another")),
        with("sub", json!("\u{7}")),
        with("sub", Value::Null),
        with("more", json!("x".repeat(9_000))),
        good[..good.len() - 1].to_owned(),
        good.replace('.', ""),
    ];
    let first = claim_with(&gate, &platform, &bad[0]).await;
    assert_eq!((first.status, header_of(&first, "www-authenticate")), (401, Some("Bearer")));
    for token in &bad {
        assert_eq!(claim_with(&gate, &platform, token).await, first, "{token}");
        let own = ask(&gate, &platform, "GET", &format!("{CLAIMS}/me"), &[("authorization", token)]).await;
        assert_eq!(own, first, "{token}");
    }
    assert_eq!(ask(&gate, &platform, "POST", CLAIMS, &[("x-user-id", "u1")]).await, first, "the header of local work");
    assert!(script.asked.borrow().is_empty());
}

fn header_of<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_good_token_claims_for_its_subject() {
    let script = Script::default();
    let gate = gate_with(&script, &HS256);
    script.answer(200, &admitted("=7:900:i"));
    let response = LocalSet::new().run_until(claim_with(&gate, &Test::new(), &token("u7"))).await;
    assert_eq!(response.status, 200);
    assert_eq!(script.asked.borrow()[0].1.as_array().unwrap().last().unwrap(), "u7");
}

/// After sold-out a stranger is sent away before anything is verified; whoever gives a holder's name
/// must prove it.
#[tokio::test(start_paused = true)]
async fn a_name_that_holds_nothing_is_not_worth_a_signature() {
    let script = Script::default();
    let gate = gate_with(&script, &HS256);
    script.answer(200, &json!({ "result": ["0", "900", "1:900", "full"] }));
    script.answer(200, &json!({ "result": ["holder"] }));
    let platform = Test::new();
    let local = LocalSet::new();
    assert_eq!(local.run_until(claim_with(&gate, &platform, &token("late"))).await.status, 410);
    local.await;
    let forged = |user: &str| hs256(&"forged".repeat(6), &json!({ "alg": "HS256" }), &claims_of(user));
    assert_eq!(claim_with(&gate, &platform, &forged("stranger")).await.status, 410);
    assert_eq!(claim_with(&gate, &platform, &forged("holder")).await.status, 401);
    assert_eq!(script.asked.borrow().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_for_all_who_come_at_once() {
    let script = Script::default();
    script.takes_ms.set(30);
    let gate = gate_with(&script, &JWKS);
    script.answer(200, &key_set(&[("k1", "one")]));
    let platform = Test::new();
    let local = LocalSet::new();
    for _ in 0..40 {
        let (gate, platform) = (Rc::clone(&gate), platform.clone());
        // Signed by nobody: all wait for the keys, and none comes further.
        local.spawn_local(async move {
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "two")).await.status, 401);
        });
    }
    local.await;
    assert_eq!(script.asked.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_and_a_made_up_one_does_not_make_the_gate_ask_and_ask() {
    let script = Script::default();
    let gate = gate_with(&script, &JWKS);
    let platform = Test::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            script.answer(200, &key_set(&[("k1", "one")])).answer(200, &admitted("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, "paused");
            assert_eq!(script.asked.borrow().len(), 2);
            for _ in 0..20 {
                assert_eq!(claim_with(&gate, &platform, &public(Some("made-up"), "one")).await.status, 401);
            }
            assert_eq!(script.asked.borrow().len(), 2, "asked for a key that anybody can make up");

            tokio::time::sleep(Duration::from_secs(11)).await;
            script.answer(200, &key_set(&[("k1", "one"), ("k2", "two")])).answer(200, &admitted("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k2"), "two")).await.outcome, "paused");
            script.answer(200, &admitted("paused"));
            assert_eq!(
                claim_with(&gate, &platform, &public(None, "two")).await.outcome,
                "paused",
                "no kid: all are tried"
            );
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "two")).await.status, 401);
        })
        .await;
}

/// Without keys nobody is believed and nobody is refused; keys that were good go on for an hour.
#[tokio::test(start_paused = true)]
async fn keys_that_cannot_be_had_are_no_refusal() {
    let script = Script::default();
    let gate = gate_with(&script, &JWKS);
    let platform = Test::new();
    let local = LocalSet::new();
    local
        .run_until(async {
            script.silence();
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.status, 503);
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.status, 503);
            assert_eq!(script.asked.borrow().len(), 1, "asked again at once");

            tokio::time::sleep(Duration::from_secs(2)).await;
            script.answer(200, &key_set(&[("k1", "one")])).answer(200, &admitted("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, "paused");

            // Older than ten minutes: it serves while another is fetched, which fails.
            tokio::time::sleep(Duration::from_secs(700)).await;
            script.silence().answer(200, &admitted("paused"));
            assert_eq!(claim_with(&gate, &platform, &public(Some("k1"), "one")).await.outcome, "paused");

            tokio::time::sleep(Duration::from_secs(3_000)).await;
            script.answer(500, &json!({}));
            let expired = claim_with(&gate, &platform, &public(Some("k1"), "one")).await;
            assert_eq!(expired.outcome, "unavailable", "a key was believed for longer than an hour");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_checked_against_the_rules_before_any_key_is_fetched() {
    let script = Script::default();
    let gate = gate_with(&script, &JWKS);
    let mut claims = claims_of("u1");
    claims["aud"] = json!("another");
    let token = format!("Bearer {}.AAAA", unsigned(&json!({ "alg": "ES256" }), &claims));
    let step = begin(&gate, "POST", CLAIMS, &[("authorization", &token)], &Test::new());
    assert!(matches!(step, Begun::Done(response) if response.status == 401));
}
