//! Which campaigns the samples for dashboards read.

use super::scratch::{batch, persist, scratch};
use dropgate_issuer::phase::Phase;
use dropgate_issuer::sample::CampaignRows;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::timestamp::{self, Clock};
use dropgate_shared::ids::CampaignId;

const NOW_MS: u64 = 1_763_700_000_000;

async fn nearest(store: &MySqlStore, limit: u32) -> Vec<(String, u32)> {
    let found = store.nearest(&Clock::new(|| NOW_MS), limit).await.unwrap();
    found.into_iter().map(|(id, campaign)| (id.to_string(), campaign.capacity)).collect()
}

#[tokio::test]
async fn the_campaigns_nearest_to_now_come_first_and_closed_ones_last() {
    scratch(async |db| {
        let insert = async |id: &str, state: &str, opens_s: i64, closes_s: Option<i64>| {
            let at = |offset_s: i64| timestamp::from_ms(NOW_MS.saturating_add_signed(offset_s * 1_000)).unwrap();
            sqlx::query("INSERT INTO campaigns (id, state, opens_at, closes_at, created_at) VALUES (?, ?, ?, ?, ?)")
                .bind(id)
                .bind(state)
                .bind(at(opens_s))
                .bind(closes_s.map(at))
                .bind(at(0))
                .execute(&db.pool)
                .await
                .unwrap();
            db.raise(id, 10).await;
        };
        insert("long-ago", "open", -1_000_000, None).await;
        insert("running", "open", -60, None).await;
        insert("soon", "paused", 30, None).await;
        insert("over", "open", -100, Some(-1)).await;
        insert("closed", "closed", 0, None).await;
        insert("next-year", "open", 30_000_000, None).await;
        db.raise("running", 12).await;
        let order = ["soon", "running", "long-ago", "next-year", "closed", "over"];
        let store = db.database();
        let found = nearest(&store, 100).await;
        assert_eq!(found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), order);
        assert_eq!(found[1], ("running".to_owned(), 12), "the newest allotment");
        assert_eq!(nearest(&store, 2).await.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn rows_are_counted_by_campaign() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        db.campaign("d", 2).await;
        persist(&db.store(), &batch(&[("u1", 1), ("u2", 2), ("u3", 3)])).await;
        let store = db.database();
        let tally = async |id: &str| CampaignRows::tally(&store, &CampaignId::parse(id).unwrap()).await.unwrap();
        let found = tally("c").await;
        assert_eq!((found.issued, found.refused), (2, 1));
        assert_eq!(tally("d").await.issued, 0);
        let campaigns = store.nearest(&Clock::system(), 5).await.unwrap();
        let (_, campaign) = campaigns.iter().find(|(id, _)| id.as_str() == "c").unwrap();
        assert_eq!(Phase::of(campaign, found.issued, Clock::system().now()), Phase::SoldOut);
    })
    .await;
}
