//! Campaign versions: the real commands on the models, where one is slow and another is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_simulator::mutant::Mutant;
use dropgate_simulator::network::Hop;
use dropgate_simulator::operator::Act;
use dropgate_simulator::plan::{CampaignSetup, Plan};
use dropgate_simulator::world::{REDIS_HOST, World};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

/// A world with one published campaign of 9 slots.
async fn published(mutant: Option<Mutant>) -> Rc<World> {
    let mut plan = Plan::from_seed(1);
    plan.setup.campaigns = vec![CampaignSetup { capacity: 9, opens_at_ms: 0, closes_at_ms: None }];
    let world = World::new(&plan, mutant, false);
    world.create(0).await.unwrap();
    world
}

fn redis_takes(world: &World, ms: u64) {
    world.network.set_hop("operator", REDIS_HOST, Some(Hop { delay_ms: ms..=ms, ..Hop::default() }));
}

fn meta(world: &World) -> [String; 3] {
    ["state", "capacity", "version"].map(|field| world.meta(0, field).unwrap_or_default())
}

/// `slow` has read MySQL, and is on its way to Redis, when `fast` happens. Returns the meta once both have ended.
async fn overtaken(world: Rc<World>, slow: Act, slow_calls: u32, fast: Act) -> [String; 3] {
    redis_takes(&world, 1_000);
    let other = Rc::clone(&world);
    let slow = spawn_local(async move { other.act(0, slow).await });
    // Each call takes 2 s, there and back.
    sleep(Duration::from_millis(u64::from(slow_calls) * 2_000 + 500)).await;
    redis_takes(&world, 0);
    world.act(0, fast).await.unwrap();
    slow.await.unwrap().unwrap();
    meta(&world)
}

#[tokio::test(start_paused = true)]
async fn a_slow_command_does_not_overwrite_what_others_decided_meanwhile() {
    LocalSet::new()
        .run_until(async {
            let world = published(None).await;
            assert_eq!(meta(&world), ["open", "9", "1"]);
            assert_eq!(overtaken(Rc::clone(&world), Act::Publish, 2, Act::Pause).await, ["paused", "9", "2"]);
            assert_eq!(overtaken(Rc::clone(&world), Act::Resume, 0, Act::RaiseTo(12)).await, ["open", "12", "4"]);
            let world = published(Some(Mutant::PublishWithoutVersion)).await;
            assert_eq!(overtaken(world, Act::Publish, 2, Act::Pause).await, ["open", "9", "1"], "the mutant is caught");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn where_mysql_has_lost_changes_what_it_has_is_in_force() {
    LocalSet::new()
        .run_until(async {
            for command in [Act::Publish, Act::Reconcile] {
                let world = published(None).await;
                world.act(0, Act::Pause).await.unwrap();
                world.mysql.lose_commits(1);
                assert_eq!(meta(&world), ["paused", "9", "2"]);
                world.act(0, command).await.unwrap();
                assert_eq!(meta(&world), ["open", "9", "3"]);
                world.act(0, Act::Close).await.unwrap();
                assert_eq!(meta(&world), ["closed", "9", "4"]);
            }
        })
        .await;
}
