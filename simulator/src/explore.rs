//! Exhaustive at small size: two users, one slot, two isolates, one issuer, and every order of a few operations.
//!
//! The operations begin in every order, with repetition, and with every combination of the gaps between them: together,
//! within an exchange with Redis, within one with Kafka or MySQL, and after all of these. So an operation also begins
//! between any two steps of those before it.

use crate::mutant::Mutant;
use crate::plan::{Operation, Plan, ScriptCommand, Setup, Timed};
use crate::run::{Report, execute};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Between two operations, ms. A hop takes 2 ms in each direction, a statement of MySQL 1 ms.
const GAPS_MS: [u64; 4] = [0, 3, 9, 400];

/// What came out.
#[derive(Debug, Default)]
pub struct Explored {
    pub interleavings: u64,
    /// Digests of the traces: no two equal runs count twice.
    pub traces: BTreeSet<u64>,
    pub failures: Vec<(Plan, Report)>,
}

/// Everything that may happen to the two users and to the parties.
fn operations() -> Vec<Operation> {
    let campaign = 0;
    vec![
        Operation::Claim { user: 0, campaign, isolate: 0 },
        Operation::Claim { user: 0, campaign, isolate: 1 },
        Operation::Claim { user: 1, campaign, isolate: 1 },
        Operation::HangUp { user: 1, campaign, isolate: 0, after_ms: 3 },
        Operation::Evict { isolate: 0 },
        Operation::IssuerKill { issuer: 0, down_ms: 500 },
        Operation::RedisAway { for_ms: 4 },
        Operation::RedisFailInScript { command: ScriptCommand::Hset },
        Operation::RedisLoseWrites { count: 1 },
        Operation::KafkaRestPartial { for_ms: 50 },
        Operation::MySqlLoseAnswers { for_ms: 50 },
        Operation::Raise { campaign, by: 1 },
    ]
}

/// The `nth` plan with so many operations; `None` after the last one.
fn plan(depth: u32, nth: u64) -> Option<Plan> {
    let all = operations();
    let (choices, gaps) = (all.len() as u64, GAPS_MS.len() as u64);
    if nth >= choices.pow(depth) * gaps.pow(depth - 1) {
        return None;
    }
    let (mut rest, mut at_ms, mut operations) = (nth, 1_000, Vec::new());
    for place in 0..depth {
        if place > 0 {
            at_ms += GAPS_MS.get((rest % gaps) as usize)?;
            rest /= gaps;
        }
        operations.push(Timed { at_ms, operation: all.get((rest % choices) as usize)?.clone() });
        rest /= choices;
    }
    let setup = Setup { isolates: 2, batch_records: 2, ..Setup::small(1) };
    Some(Plan { seed: 0, setup, operations })
}

/// Runs every plan of up to `depth` operations on so many threads, until the first failures.
#[must_use]
pub fn explore(depth: u32, mutant: Option<Mutant>, threads: usize, progress: impl Fn(u64) + Sync) -> Explored {
    let explored = Mutex::new(Explored::default());
    let lock = || explored.lock().unwrap_or_else(PoisonError::into_inner);
    for depth in 1..=depth {
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while lock().failures.len() < 3
                        && let Some(plan) = plan(depth, next.fetch_add(1, Ordering::Relaxed))
                    {
                        let report = execute(&plan, mutant);
                        let mut explored = lock();
                        explored.interleavings += 1;
                        explored.traces.insert(report.digest);
                        if !report.violations.is_empty() {
                            explored.failures.push((plan, report));
                        }
                        progress(explored.interleavings);
                    }
                });
            }
        });
    }
    explored.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_and_gap_is_a_plan_of_its_own() {
        let plans: Vec<String> = (0..).map_while(|nth| plan(2, nth)).map(|plan| format!("{plan:?}")).collect();
        assert_eq!(plans.len(), operations().len().pow(2) * GAPS_MS.len());
        assert_eq!(plans.iter().collect::<BTreeSet<_>>().len(), plans.len());
    }

    #[test]
    fn one_operation_keeps_every_promise_and_two_show_a_mutant() {
        let explored = explore(1, None, 2, |_| {});
        assert_eq!((explored.interleavings, explored.failures.len()), (12, 0), "{:?}", explored.failures);
        assert!(!explore(2, Some(Mutant::CapacityUnchecked), 2, |_| {}).failures.is_empty(), "it sees nothing");
    }
}
