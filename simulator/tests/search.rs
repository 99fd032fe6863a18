//! The search itself: a run is a function of its plan, and a share of all seeds holds every promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_simulator::mutant::Mutant;
use dropgate_simulator::plan::{FaultKind, Plan};
use dropgate_simulator::run::{execute, execute_traced};
use dropgate_simulator::search::{Search, UNREPAIRED};
use dropgate_simulator::violation::Kind;

/// Seeds that every test run searches.
const SEEDS: u64 = 300;

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..12 {
        let plan = Plan::from_seed(seed);
        let (first, second) = (execute_traced(&plan, None, true), execute_traced(&plan, None, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert!(first.answers > 0 && first.trace.lines().count() > 10, "seed {seed} did nothing");
    }
}

#[test]
fn a_plan_survives_its_file() {
    let plan = Plan::from_seed(5);
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn every_promise_holds_for_the_first_seeds() {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let search =
        Search { seeds: 0..SEEDS, threads, mutant: None, without: UNREPAIRED.to_vec(), kinds: None, failures: 3 };
    let summary = search.run(|_, _| {});
    for failure in &summary.failures {
        println!("seed {}: {:?}", failure.plan.seed, failure.report.violations);
    }
    assert!(summary.failures.is_empty());
    assert_eq!(summary.seeds, SEEDS);
    for fault in FaultKind::ALL.into_iter().filter(|fault| *fault != FaultKind::Network && !UNREPAIRED.contains(fault))
    {
        assert!(summary.coverage.keys().any(|(struck, _)| *struck == fault), "{fault} never struck");
    }
}

#[test]
fn a_broken_design_is_noticed() {
    let caught =
        |mutant: Mutant| (0..200).any(|seed| !execute(&Plan::from_seed(seed), Some(mutant)).violations.is_empty());
    assert!(caught(Mutant::OutboxRemovedOnProduce));
    assert!(caught(Mutant::CapacityUnchecked));
}

#[test]
fn a_plan_of_a_mutant_shows_it_and_nothing_else() {
    for mutant in Mutant::ALL {
        let Some(plan) = mutant.plan() else { continue };
        assert_eq!(execute(&plan, None).violations, [], "{mutant}");
        let found = execute(&plan, Some(mutant)).violations;
        assert!(found.iter().any(|violation| violation.kind == Kind::NotFirstCome), "{mutant}: {found:?}");
    }
}
