//! The drop page in a real browser, on the real stack: `make test-page`. The browser's steps are in
//! `tests/browser/page.mjs`; this test asserts what is true of the coupons afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, programs, repo, until};
use serde_json::json;
use std::process::{Command, Stdio};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

#[tokio::test]
async fn users_get_the_coupons_that_the_page_shows() {
    let system = System::start("page").await;
    let publish = |id: &str, capacity: &str, more: &[&str]| {
        system.stack.run_issuer(&[&["campaign", "create", id, "--capacity", capacity], more].concat()).unwrap();
        system.stack.run_issuer(&["campaign", "publish", id]).unwrap();
    };
    publish("open", "1", &[]);
    publish("undecided", "100", &[]);
    publish("token", "2500", &[]);
    publish("closed", "5", &["--opens-at", "2020-01-01T00:00:00Z", "--closes-at", "2021-01-01T00:00:00Z"]);
    publish("paused", "5", &[]);
    system.redis(&["HSET", "dg:{paused}:meta", "state", "paused"]).await;
    // Late enough for the browser to start and to show the countdown.
    let soon = (OffsetDateTime::now_utc() + Duration::seconds(20)).format(&Rfc3339).unwrap();
    publish("soon", "100", &["--opens-at", &soon]);

    let pictures = programs().parent().unwrap().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let names: serde_json::Map<_, _> = ["open", "soon", "undecided", "token", "closed", "paused"]
        .map(|id| (id.to_owned(), id.into()))
        .into_iter()
        .collect();
    let mut browser = Command::new("node");
    browser
        .arg(repo().join("tests/browser/page.mjs"))
        .args([&system.url(""), &json!(names).to_string()])
        .arg(&pictures)
        // The page's modules are not a package: node warns about it.
        .env("NODE_NO_WARNINGS", "1")
        .stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || browser.status()).await.unwrap().unwrap();
    assert!(done.success(), "see the failed tests of the page above");

    // One press, one coupon, for the user who pressed: the page preserves a user id in any script.
    let holders = async |campaign: &str| -> Vec<String> {
        sqlx::query_scalar("SELECT user_id FROM coupons WHERE campaign_id = ? ORDER BY slot")
            .bind(campaign)
            .fetch_all(&system.mysql)
            .await
            .unwrap()
    };
    for (campaign, users) in
        [("open", ["鬼 Ünï"]), ("soon", ["early bird"]), ("undecided", ["patient"]), ("token", ["traveller"])]
    {
        until(&format!("{campaign} has its coupon"), async || system.coupon_count(campaign).await.unwrap() == 1).await;
        assert_eq!(holders(campaign).await, users, "{campaign}");
    }
    system.stop().await;
}
