//! The model of MySQL against a real server: every operation on both, every answer compared, and all rows at the end.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod operations;
mod real;
mod sides;

use dropgate_shared::campaign::CampaignState;
use dropgate_simulator::mysql::Flavor;
use operations::{Draw, Operation, campaign};
use real::Real;
use sides::{Model, replay};
use std::sync::Mutex;
use tokio::task::LocalSet;

/// MariaDB counts the waits of the whole server only: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `test` on a model, in virtual time.
fn on_model<T>(test: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test())
}

/// Runs `test` in real time.
fn on_real<T>(test: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test())
}

fn flavor() -> Flavor {
    match on_real(async || {
        let real = Real::new().await;
        let is_mariadb = real.is_mariadb();
        real.drop_database().await;
        is_mariadb
    }) {
        true => Flavor::MariaDb,
        false => Flavor::MySql,
    }
}

fn set_up() -> Vec<Operation> {
    ["c1", "c2"]
        .into_iter()
        .flat_map(|id| {
            [
                Operation::InsertCampaign(campaign(id), CampaignState::Open, None),
                Operation::InsertAllotment(campaign(id), 8),
            ]
        })
        .collect()
}

/// `steps` on the model, then on the real server.
fn compare(flavor: Flavor, sessions: usize, steps: impl AsyncFnOnce(&mut Model)) -> usize {
    let (steps, rows, deadlocks) = on_model(async || {
        let mut model = Model::new(flavor, sessions).await;
        for operation in set_up() {
            model.step(0, operation).await;
        }
        steps(&mut model).await;
        let rows = model.finish().await.then(|| model.rows());
        (std::mem::take(&mut model.steps), rows, model.deadlocks.get())
    });
    on_real(async || {
        let mut real = Real::new().await;
        replay(&mut real, &steps, sessions).await;
        if let Some(rows) = rows {
            assert_eq!(real.rows().await, rows, "after {steps:#?}");
        }
        real.drop_database().await;
    });
    deadlocks
}

#[test]
fn one_session_gets_the_same_answers() {
    let _turn = TURN.lock();
    let flavor = flavor();
    for seed in 1..=8 {
        compare(flavor, 1, async |model| model.random_steps(&mut Draw::new(seed), 400).await);
    }
}

#[test]
fn sessions_in_conflict_wait_for_the_same_and_get_the_same_answers() {
    let _turn = TURN.lock();
    let flavor = flavor();
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (first, count) = (number("FIRST_SEED").unwrap_or(1), number("SEEDS").unwrap_or(40));
    let mut deadlocks = 0;
    for seed in first..first + count {
        eprintln!("seed {seed}");
        let sessions = 2 + (seed % 2) as usize;
        deadlocks += compare(flavor, sessions, async |model| model.random_steps(&mut Draw::new(seed), 60).await);
    }
    eprintln!("{deadlocks} deadlocks");
}
