//! Invalid requests to the real gate: each response names what is invalid and what is expected, and nothing
//! changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, until};
use reqwest::Method;

#[tokio::test]
async fn every_invalid_request_is_rejected_with_what_is_expected() {
    let system = System::start("bad-input").await;
    let campaign = system.campaign(5);
    let claims = format!("/v1/campaigns/{campaign}/claims");

    let unknown = system.claim("no-such-campaign", "u1").await;
    assert_eq!((unknown.status, unknown.problem()), (404, "unknown-campaign"));

    let anonymous = system.send(system.request(Method::POST, &claims)).await;
    assert_eq!((anonymous.status, anonymous.problem()), (401, "unauthenticated"));
    assert!(anonymous.body["detail"].as_str().unwrap().contains("X-User-Id"));

    for user in ["", &"x".repeat(129), "tab\tinside"] {
        let rejected = system.claim(&campaign, user).await;
        assert_eq!((rejected.status, rejected.problem()), (400, "bad-request"), "{user:?}");
        assert!(rejected.body["detail"].as_str().unwrap().contains("a user id"), "{rejected:?}");
    }
    for id in ["UPPER", "under_score", "%41", &"x".repeat(65)] {
        let rejected = system.claim(id, "u1").await;
        assert_eq!((rejected.status, rejected.problem()), (400, "bad-request"), "{id}");
    }

    let method = system.send(system.request(Method::DELETE, &claims).header("x-user-id", "u1")).await;
    assert_eq!((method.status, method.problem()), (405, "method-not-allowed"));

    let body = vec![b'x'; 1 << 20];
    let large = system.send(system.request(Method::POST, &claims).header("x-user-id", "u1").body(body)).await;
    assert_eq!((large.status, large.problem()), (413, "too-large"));

    let unknown_path = system.send(system.request(Method::GET, "/v2")).await;
    assert_eq!((unknown_path.status, unknown_path.problem()), (404, "not-found"));

    // None of them has taken a slot, and the gate works: a user id may be in any script.
    let campaign_now = system.send(system.request(Method::GET, &format!("/v1/campaigns/{campaign}"))).await;
    assert_eq!((campaign_now.body["state"].as_str(), campaign_now.body["remaining"].as_u64()), (Some("open"), Some(5)));
    for (slot, user) in ["鬼", "Ünï cödé", "a/b?c#d", "'; DROP TABLE coupons; --", "*"].iter().enumerate() {
        let admitted = system.claim(&campaign, user).await;
        assert_eq!((admitted.status, admitted.body["slot"].as_u64()), (202, Some(slot as u64 + 1)), "{user}");
    }
    until("they are coupons", async || system.coupon_count(&campaign).await.unwrap() == 5).await;
    let held: Vec<String> = sqlx::query_scalar("SELECT user_id FROM coupons WHERE campaign_id = ? ORDER BY slot")
        .bind(&campaign)
        .fetch_all(&system.mysql)
        .await
        .unwrap();
    assert_eq!(held, ["鬼", "Ünï cödé", "a/b?c#d", "'; DROP TABLE coupons; --", "*"]);

    // 200 concurrent claims of one user: one slot (I2, I5).
    let campaign = system.campaign(5);
    let responses: Vec<_> =
        futures_util::future::join_all((0..200).map(|_| system.claim(&campaign, "impatient"))).await;
    assert_eq!(responses.iter().filter(|r| r.status == 202).count(), 1);
    assert_eq!(responses.iter().filter(|r| r.status == 200).count(), 199);
    assert!(responses.iter().all(|r| r.body["slot"] == 1 && r.body["code"] == responses[0].body["code"]));

    // The REST proxies require their token.
    let at = &system.stack.endpoints;
    for url in [&at.redis_rest_url, &format!("{}/topics/coupon_create", at.kafka_rest_url)] {
        for token in [None, Some("wrong")] {
            let mut request = dropgate_devstack::http_client().post(url).json(&["PING"]);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            assert_eq!(system.send(request).await.status, 401, "{url}");
        }
    }
    system.stop().await;
}
