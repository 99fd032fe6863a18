//! The main job on real servers: a crowd, a number of coupons, and nobody wronged. The verdict is
//! `burst`'s oracle (I1 to I5, I10); what it cannot see is asserted here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, until};

#[tokio::test]
async fn a_crowd_gets_exactly_the_capacity_even_if_the_issuer_is_killed_meanwhile() {
    let mut system = System::start("crowd").await;

    // I1, I2, I10
    let campaign = system.campaign(100);
    let status = system.burst(&campaign, 100, 4000).status().await.unwrap();
    assert!(status.success(), "the verdict of burst is above");
    assert_eq!(system.rows(&campaign).await.unwrap(), 100);
    // I9
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;

    // I3, I6: the issuer dies with part of the work done, between any two of its steps.
    let campaign = system.campaign(3000);
    let mut burst = system.burst(&campaign, 3000, 5000).spawn().unwrap();
    let mysql = system.mysql.clone();
    let rows = async || -> i64 {
        let query = "SELECT COUNT(*) FROM coupons WHERE campaign_id = ?";
        sqlx::query_scalar(query).bind(&campaign).fetch_one(&mysql).await.unwrap()
    };
    until("some coupons are issued", async || rows().await > 0).await;
    let at_kill = system.stack.without("issuer", true, async { Ok(rows().await) }).await.unwrap();
    assert!(at_kill < 3000, "the issuer had finished before it was killed: nothing was tested");
    assert!(burst.wait().await.unwrap().success(), "the verdict of burst is above");
    assert_eq!(rows().await, 3000);
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;

    system.stop().await;
}
