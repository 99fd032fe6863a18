//! The model of MySQL against a real server: the same acts on both, every answer compared, and all rows at the end.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod operations;
mod real;
mod sides;
mod writer;

use dropgate_shared::campaign::CampaignState;
use dropgate_simulator::mysql::{Flavor, Table, TableLock};
use operations::{Draw, Operation, campaign};
use real::Real;
use sides::{Act, Model, replay};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::task::LocalSet;

/// One test at a time: some switches and counters are those of the whole server.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    on_real(async || {
        let real = Real::new().await;
        let flavor = real.flavor();
        real.drop_database().await;
        flavor
    })
}

fn set_up() -> Vec<Operation> {
    let create = |id| {
        let campaign = campaign(id);
        [
            Operation::InsertCampaign(campaign.clone(), CampaignState::Open, None),
            Operation::InsertAllotment(campaign, 8),
        ]
    };
    ["c1", "c2"].into_iter().flat_map(create).collect()
}

/// The steps on the model, then on the real server. Returns how many deadlocks there were.
fn compare(flavor: Flavor, sessions: usize, steps: impl AsyncFnOnce(&mut Model)) -> usize {
    let (steps, rows, deadlocks) = on_model(async || {
        let mut model = Model::new(flavor, sessions).await;
        for operation in set_up() {
            model.on(0, operation).await;
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
    let _turn = turn();
    let flavor = flavor();
    for seed in 1..=8 {
        compare(flavor, 1, async |model| model.random_steps(&mut Draw::new(seed), 400).await);
    }
}

/// `FIRST_SEED` and `SEEDS` choose other seeds.
#[test]
fn sessions_in_conflict_wait_for_the_same_and_get_the_same_answers() {
    let _turn = turn();
    let flavor = flavor();
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (first, count) = (number("FIRST_SEED").unwrap_or(1), number("SEEDS").unwrap_or(60));
    let mut deadlocks = 0;
    for seed in first..first + count {
        eprintln!("seed {seed}");
        let sessions = 2 + (seed % 2) as usize;
        deadlocks += compare(flavor, sessions, async |model| model.random_steps(&mut Draw::new(seed), 60).await);
    }
    assert!(deadlocks > 0 || count < 60, "no case had a deadlock");
}

#[test]
fn i2_a_second_inserter_waits_for_the_first() {
    let _turn = turn();
    compare(flavor(), 3, async |model| {
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(1, "a"), (2, "b")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(2, "x")])).await;
        assert!(model.waits(1), "the same slot");
        model.on(0, Operation::Rollback).await;
        assert_eq!(model.answer(1), "()");
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(3, "c")])).await;
        model.on(2, Operation::coupons("c1", 8, &[(4, "c")])).await;
        assert!(model.waits(2), "the same user");
        model.on(0, Operation::Commit).await;
        assert_eq!(model.answer(2), "Constraint");
    });
}

#[test]
fn the_lighter_one_is_the_victim_of_a_deadlock_and_loses_its_whole_transaction() {
    let _turn = turn();
    let deadlocks = compare(flavor(), 2, async |model| {
        for session in [0, 1] {
            model.on(session, Operation::Begin).await;
        }
        model.on(0, Operation::coupons("c1", 8, &[(1, "a")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(2, "b"), (3, "c"), (4, "d")])).await;
        model.on(0, Operation::coupons("c1", 8, &[(2, "x")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(1, "y")])).await;
        assert_eq!((model.answer(0), model.answer(1)), ("Contention", "()"));
        // Outside a transaction now, although the issuer does not know.
        model.on(0, Operation::coupons("c1", 8, &[(8, "z")])).await;
        model.on(0, Operation::Rollback).await;
        model.on(1, Operation::Commit).await;
    });
    assert_eq!(deadlocks, 1);
}

#[test]
fn two_that_wait_to_insert_the_same_deadlock_when_the_first_rolls_back() {
    let _turn = turn();
    for rows in [[(5, "a"), (5, "b"), (5, "c")], [(5, "b"), (6, "b"), (7, "b")]] {
        let deadlocks = compare(flavor(), 3, async |model| {
            for (session, row) in rows.iter().enumerate() {
                model.on(session, Operation::Begin).await;
                model.on(session, Operation::coupons("c1", 8, &[*row])).await;
            }
            model.on(0, Operation::Rollback).await;
            let mut answers = [model.answer(1), model.answer(2)];
            answers.sort_unstable();
            assert_eq!(answers, ["()", "Contention"]);
        });
        assert_eq!(deadlocks, 1);
    }
}

#[test]
fn a_rejected_user_locks_the_gap_before_them() {
    let _turn = turn();
    compare(flavor(), 2, async |model| {
        model.on(0, Operation::coupons("c1", 8, &[(5, "m")])).await;
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(6, "m")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(4, "n")])).await;
        assert_eq!(model.answer(1), "()", "behind");
        model.on(1, Operation::coupons("c1", 8, &[(7, "k")])).await;
        assert!(model.waits(1), "before");
        model.on(0, Operation::Rollback).await;
        // A rejected slot locks no gap.
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(5, "o")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(3, "p")])).await;
        assert_eq!(model.answer(1), "()");
    });
}

#[test]
fn a_lock_is_waited_for_5_s_and_the_rest_of_the_transaction_stays() {
    let _turn = turn();
    compare(flavor(), 2, async |model| {
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::LockCampaign(campaign("c1"))).await;
        model.on(1, Operation::Begin).await;
        model.on(1, Operation::coupons("c1", 8, &[(1, "a")])).await;
        model.on(1, Operation::refusal("c1", "b")).await;
        assert!(model.waits(1));
        model.act(Act::Wait).await;
        assert_eq!(model.answer(1), "Contention");
        model.on(1, Operation::coupons("c1", 8, &[(2, "c")])).await;
        model.on(1, Operation::Commit).await;
        model.on(0, Operation::Tally(campaign("c1"))).await;
        assert_eq!(model.answer(0), "Tally { issued: 2, refused: 0 }");
    });
}

#[test]
fn a_statement_whose_client_has_gone_is_carried_out() {
    let _turn = turn();
    compare(flavor(), 2, async |model| {
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(1, "a")])).await;
        model.on(1, Operation::coupons("c1", 8, &[(1, "b")])).await;
        assert!(model.waits(1));
        model.act(Act::Abandon(1)).await;
        assert_eq!(model.answer(1), "abandoned");
        model.on(0, Operation::Rollback).await;
        // Waits for the row if it is not committed yet.
        model.on(1, Operation::coupons("c1", 8, &[(1, "c")])).await;
        assert_eq!(model.answer(1), "Constraint");
        model.on(1, Operation::Tally(campaign("c1"))).await;
        assert_eq!(model.answer(1), "Tally { issued: 1, refused: 0 }");
    });
}

#[test]
fn a_locked_table_makes_others_wait() {
    let _turn = turn();
    let insert = |slot, user| Operation::coupons("c1", 8, &[(slot, user)]);
    compare(flavor(), 3, async |model| {
        // It waits for those who have used the table, and newcomers wait behind it.
        model.on(0, Operation::Begin).await;
        model.on(0, insert(1, "a")).await;
        model.act(Act::Lock(TableLock::Writing(Table::Coupons))).await;
        model.on(1, insert(2, "b")).await;
        model.on(2, Operation::WithSlots(campaign("c1"), vec![1])).await;
        assert!(model.waits(1) && model.waits(2));
        model.on(0, insert(3, "c")).await;
        assert_eq!(model.answer(0), "()");
        model.on(0, Operation::Commit).await;
        assert!(model.waits(1) && model.waits(2));
        model.act(Act::Unlock).await;
        assert!(!model.waits(1) && !model.waits(2));
    });
    compare(flavor(), 3, async |model| {
        // Who has only read the table cannot write it any more.
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::refusal("c1", "a")).await;
        model.on(0, Operation::WithSlots(campaign("c1"), vec![1])).await;
        model.act(Act::Lock(TableLock::Writing(Table::Coupons))).await;
        model.on(1, insert(2, "b")).await;
        model.on(0, Operation::WithSlots(campaign("c1"), vec![2])).await;
        model.on(0, insert(3, "c")).await;
        assert_eq!(model.answer(0), "Contention");
        model.on(0, Operation::Tally(campaign("c2"))).await;
        assert!(model.waits(0) && model.waits(1), "its transaction has ended");
        model.act(Act::Unlock).await;
        model.on(0, Operation::Rollback).await;
    });
    compare(flavor(), 3, async |model| {
        model.act(Act::Lock(TableLock::Reading(Table::Coupons))).await;
        model.on(2, Operation::Tally(campaign("c1"))).await;
        model.on(0, insert(4, "d")).await;
        assert!(model.waits(0) && !model.waits(2));
        model.act(Act::Unlock).await;
        model.act(Act::Lock(TableLock::Reading(Table::Campaigns))).await;
        model.on(0, Operation::LockCampaign(campaign("c1"))).await;
        assert!(model.waits(0));
        model.on(1, insert(5, "e")).await;
        model.on(2, Operation::Campaign(campaign("c1"))).await;
        assert!(!model.waits(1) && !model.waits(2));
        model.act(Act::Unlock).await;
    });
    compare(flavor(), 3, async |model| {
        model.on(0, Operation::Begin).await;
        model.on(0, insert(6, "f")).await;
        model.act(Act::Lock(TableLock::Everything)).await;
        model.on(1, insert(7, "g")).await;
        model.on(2, Operation::Tally(campaign("c1"))).await;
        model.on(0, Operation::Commit).await;
        assert!(model.waits(0) && model.waits(1) && !model.waits(2));
        model.act(Act::Unlock).await;
        assert!(!model.waits(0) && !model.waits(1));
    });
}

#[test]
fn i7_a_read_only_server_rejects_what_writes_and_rolls_back_what_has_written() {
    let _turn = turn();
    if flavor() == Flavor::MariaDb {
        return;
    }
    compare(Flavor::MySql, 2, async |model| {
        model.on(0, Operation::Begin).await;
        model.on(0, Operation::coupons("c1", 8, &[(1, "a")])).await;
        model.on(1, Operation::Begin).await;
        model.act(Act::ReadOnly(true)).await;
        model.on(1, Operation::LockCampaign(campaign("c1"))).await;
        model.on(1, Operation::coupons("c1", 8, &[(9, "b")])).await;
        model.on(1, Operation::SetState(campaign("nowhere"), vec![CampaignState::Open], CampaignState::Closed)).await;
        model.on(1, Operation::Tally(campaign("c1"))).await;
        model.on(1, Operation::Commit).await;
        model.on(0, Operation::Commit).await;
        assert_eq!(model.answer(0), "away: read_only");
        model.act(Act::ReadOnly(false)).await;
        model.on(1, Operation::Tally(campaign("c1"))).await;
        assert_eq!(model.answer(1), "Tally { issued: 0, refused: 0 }");
        model.on(0, Operation::Rollback).await;
    });
}
