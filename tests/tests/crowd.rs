//! The main job on real servers: a crowd, a number of coupons, and every promise kept. The verdict is that
//! of `burst`'s oracle (I1 to I5, I10); what it cannot check is asserted here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, until};

#[tokio::test]
async fn a_crowd_gets_exactly_the_capacity_even_if_the_issuer_is_killed() {
    let mut system = System::start("crowd").await;

    // I1, I2, I10
    let campaign = system.campaign(100);
    let status = system.burst(&campaign, 100, 4000).status().await.unwrap();
    assert!(status.success(), "see the verdict of burst above");
    assert_eq!(system.coupon_count(&campaign).await.unwrap(), 100);
    // I9
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;

    // I3, I6: the issuer is killed with a part of the work done, between any two of its steps.
    let campaign = system.campaign(3000);
    let mut burst = system.burst(&campaign, 3000, 5000).spawn().unwrap();
    let mysql = system.mysql.clone();
    let rows = async || -> i64 {
        let query = "SELECT COUNT(*) FROM coupons WHERE campaign_id = ?";
        sqlx::query_scalar(query).bind(&campaign).fetch_one(&mysql).await.unwrap()
    };
    until("some coupons are issued", async || rows().await > 0).await;
    let at_kill = system.stack.without("issuer", true, async { Ok(rows().await) }).await.unwrap();
    assert!(at_kill < 3000, "the issuer had finished before it was killed: the kill was not tested");
    assert!(burst.wait().await.unwrap().success(), "see the verdict of burst above");
    assert_eq!(rows().await, 3000);
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;

    system.stop().await;
}
