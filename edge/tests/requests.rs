//! What the gate checks of a request before it goes to Redis, and what every response has.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::*;
use dropgate_edge::gate::{BODY_LIMIT_BYTES, Begun};
use dropgate_edge::labels::Outcome;
use dropgate_edge::platform::Limiter;
use dropgate_shared::fault::{Fault, Source};
use serde_json::json;
use tokio::task::LocalSet;

#[tokio::test(start_paused = true)]
async fn malformed_requests_cost_no_call_and_name_the_rule() {
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let platform = TestPlatform::new();
    let address = format!("/v1/{}", "x".repeat(2_048));
    let big = (BODY_LIMIT_BYTES + 1).to_string();
    let long = "x".repeat(129);
    for (method, path, headers, status, says) in [
        ("POST", CLAIMS, vec![], 401, "X-User-Id"),
        ("POST", CLAIMS, vec![("x-user-id", long.as_str())], 400, "128 bytes"),
        ("POST", CLAIMS, vec![("x-user-id", " a")], 400, "white space"),
        ("POST", "/v1/campaigns/Spring!/claims", vec![("x-user-id", "u")], 400, "a-z"),
        ("GET", CLAIMS, vec![], 405, "POST"),
        ("POST", CLAIMS, vec![("x-user-id", "u"), ("content-length", &big)], 413, "4096"),
        ("GET", &address, vec![], 414, "2048 bytes"),
        ("GET", "/v1/nothing", vec![], 404, "Not found"),
    ] {
        let Begun::Done(response) = begin(&gate, method, path, &headers, &platform) else {
            panic!("{path} made a call")
        };
        assert_eq!(response.status, status, "{path}");
        assert!(response.body.contains(says), "{} does not say {says}", response.body);
    }
    assert!(network.calls.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_reported_and_a_limit_that_fails_refuses_nobody() {
    let no_answer = Fault::none(Source::Platform, "limiter", true, "no answer");
    for (within, status, outcome) in
        [(Ok(false), 429, Outcome::TooManyRequests), (Err(no_answer), 503, Outcome::Unavailable)]
    {
        let network = ScriptedNetwork::default();
        let gate = gate(&network);
        let platform = TestPlatform { within, ..TestPlatform::new() };
        let headers = [("x-user-id", "u1"), ("cf-connecting-ip", "192.0.2.1")];
        let response = send(&gate, &platform, "POST", CLAIMS, &headers).await;
        assert_eq!((response.status, response.outcome), (status, outcome));
        assert!(header(&response, "retry-after").is_some());
        assert_eq!(*platform.limited.borrow(), [(Limiter::Address, "192.0.2.1".to_owned())]);
        assert!(network.calls.borrow().is_empty());
    }
    // A household or a server has a whole /64 of IPv6 addresses.
    for (address, key) in [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("no address", "no address"),
    ] {
        let gate = gate(&ScriptedNetwork::default());
        let platform = TestPlatform { within: Ok(false), ..TestPlatform::new() };
        let headers = [("x-user-id", "u1"), ("cf-connecting-ip", address)];
        assert_eq!(send(&gate, &platform, "POST", CLAIMS, &headers).await.status, 429);
        assert_eq!(*platform.limited.borrow(), [(Limiter::Address, key.to_owned())]);
    }
    let network = ScriptedNetwork::default();
    let gate = gate(&network);
    let (_, platform) = {
        network.respond(200, &admit_reply("paused"));
        claim(&gate).await
    };
    assert_eq!(*platform.limited.borrow(), [(Limiter::User, "u1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_is_passed_failed_or_unknown() {
    let outcomes = [
        (json!({ "success": true }), 503, Outcome::Paused),
        (json!({ "success": false, "error-codes": ["timeout-or-duplicate"] }), 403, Outcome::ChallengeFailed),
        (json!({ "success": false, "error-codes": ["invalid-input-secret"] }), 503, Outcome::Unavailable),
        (json!("garbage"), 503, Outcome::Unavailable),
    ];
    for (answer, status, outcome) in outcomes {
        let network = ScriptedNetwork::default();
        let gate = gate_with(&network, &[("TURNSTILE_SECRET", "s")]);
        network.respond(200, &answer).respond(200, &admit_reply("paused"));
        let headers = [("x-user-id", "u1"), ("x-challenge", "token")];
        let local = LocalSet::new();
        let platform = TestPlatform::new();
        let response = local.run_until(send(&gate, &platform, "POST", CLAIMS, &headers)).await;
        assert_eq!((response.status, response.outcome), (status, outcome), "{answer}");
    }
    let network = ScriptedNetwork::default();
    let gate = gate_with(&network, &[("TURNSTILE_SECRET", "s")]);
    assert_eq!(claim(&gate).await.0.outcome, Outcome::ChallengeFailed);
    assert!(network.calls.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_response_has_the_common_headers() {
    let gate = gate_with(&ScriptedNetwork::default(), &[("CORS_ORIGINS", "https://shop.example")]);
    let platform = TestPlatform::new();
    let headers = [("origin", "https://shop.example"), ("x-request-id", "r-1")];
    for (method, path, status) in
        [("OPTIONS", "/v1/campaigns/a/claims", 204), ("POST", "/v1/campaigns/a/claims", 401), ("GET", "/healthz", 200)]
    {
        let response = send(&gate, &platform, method, path, &headers).await;
        assert_eq!(response.status, status);
        assert_eq!(header(&response, "access-control-allow-origin"), Some("https://shop.example"));
        assert_eq!((header(&response, "vary"), header(&response, "x-request-id")), (Some("origin"), Some("r-1")));
    }
    let other = send(&gate, &platform, "GET", "/healthz", &[("origin", "https://evil.example")]).await;
    assert_eq!(header(&other, "access-control-allow-origin"), None);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_mistypes_a_path_gets_a_page_and_a_program_a_problem() {
    let gate = gate_with(&ScriptedNetwork::default(), &[]);
    let platform = TestPlatform::new();
    let browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    for path in ["/nothing", "/v1/campaign/spring"] {
        let page = send(&gate, &platform, "GET", path, &browser).await;
        assert_eq!((page.status, header(&page, "content-type")), (404, Some("text/html; charset=utf-8")), "{path}");
        assert!(page.body.contains("<script type=module src=/missing.js>"), "{path}");
        let problem = send(&gate, &platform, "GET", path, &[("accept", "*/*")]).await;
        assert_eq!(
            (problem.status, header(&problem, "content-type")),
            (404, Some("application/problem+json")),
            "{path}"
        );
    }
    let health = send(&gate, &platform, "GET", "/healthz", &browser).await;
    assert_eq!(header(&health, "content-type"), Some("application/json"));
}

#[tokio::test(start_paused = true)]
async fn a_campaign_names_the_widget_whose_tokens_claims_need() {
    let site_key = async |settings: &[(&str, &str)]| {
        let network = ScriptedNetwork::default();
        let gate = gate_with(&network, settings);
        let meta = json!(["open", "5", "0", "0", "0", "0", "1", null]);
        let view = json!({ "result": [meta, ["1", "1"], null] });
        network.respond(200, &view);
        let local = LocalSet::new();
        let response = local.run_until(send(&gate, &TestPlatform::new(), "GET", "/v1/campaigns/a", &[])).await;
        assert_eq!(response.outcome, Outcome::Campaign);
        header(&response, "x-challenge-site-key").map(str::to_owned)
    };
    let both = [("TURNSTILE_SECRET", "s"), ("TURNSTILE_SITE_KEY", "0x4AAA")];
    assert_eq!(site_key(&both).await.as_deref(), Some("0x4AAA"));
    assert_eq!(site_key(&[("TURNSTILE_SECRET", "s")]).await, None);
}
