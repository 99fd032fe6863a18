//! Two systems on one Redis: each has a prefix of its own, and neither sees the other's campaigns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_issuer::operator::campaign::publish::publish;
use dropgate_issuer::operator::servers::Servers;
use dropgate_issuer::redis::view::View;
use dropgate_issuer::timestamp;
use dropgate_shared::names::KeyPrefix;
use dropgate_simulator::backlog::GroupLag;
use dropgate_simulator::operator::Act;
use dropgate_simulator::plan::{CampaignSetup, Plan};
use dropgate_simulator::world::World;
use tokio::task::LocalSet;

#[tokio::test(start_paused = true)]
async fn a_campaign_is_published_under_its_own_prefix_only() {
    LocalSet::new()
        .run_until(async {
            let mut plan = Plan::from_seed(1);
            plan.setup.campaigns = vec![CampaignSetup { capacity: 9, opens_at_ms: 0, closes_at_ms: None }];
            let world = World::new(&plan, None, false);
            world.create(0).await.unwrap();
            world.act(0, Act::Pause).await.unwrap();
            let keys = |pattern: &str| format!("{:?}", world.redis.borrow_mut().server.inspect(&["EXISTS", pattern]));
            let before =
                [keys("dg:{c0}:meta"), keys("dg:campaigns"), keys("staging:{c0}:meta"), keys("staging:campaigns")];
            assert_eq!(before, ["(integer) 1", "(integer) 1", "(integer) 0", "(integer) 0"]);

            let clock = world.clock;
            let staging = Servers {
                store: world.mysql.store(2),
                redis: world.redis_client("operator").with_prefix(KeyPrefix::parse("staging:").unwrap()),
                kafka: None::<GroupLag>,
                secrets: Some(world.issuer_secrets()),
                clock: timestamp::Clock::new(move || clock.now_ms()),
                progress: false,
            };
            let id = &world.campaigns[0];
            let view = View::new(&staging.redis, id);
            assert!(view.meta().await.unwrap().is_none() && !view.is_listed(id).await.unwrap());
            publish(&staging, id).await.unwrap();
            assert!(view.meta().await.unwrap().is_some() && view.is_listed(id).await.unwrap());
            assert_eq!([keys("staging:{c0}:meta"), keys("staging:campaigns")], ["(integer) 1", "(integer) 1"]);
        })
        .await;
}
