//! Runs many seeds on all cores, shrinks what fails, and counts what struck.

use crate::mutant::Mutant;
use crate::plan::{FaultKind, Hop, Plan};
use crate::record::Phase;
use crate::run::{Report, execute};
use crate::violation::Kind;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Faults that still break a promise: `docs/correctness.md` names each with the promise and the reason. A search leaves
/// them out unless it is asked for them. There are none.
pub const UNREPAIRED: [FaultKind; 0] = [];

/// How often each fault has struck in each phase of a campaign's life.
pub type Coverage = BTreeMap<(FaultKind, Phase), u64>;

/// A seed whose run broke a promise.
#[derive(Debug)]
pub struct Failure {
    pub plan: Plan,
    pub report: Report,
}

#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub failures: Vec<Failure>,
    pub coverage: Coverage,
    /// Claims that were answered, over all runs.
    pub answers: u64,
}

/// What is searched.
#[derive(Debug, Clone)]
pub struct Search {
    pub seeds: Range<u64>,
    pub threads: usize,
    pub mutant: Option<Mutant>,
    /// Faults that no plan has.
    pub without: Vec<FaultKind>,
    /// Only violations of these kinds count.
    pub kinds: Option<&'static [Kind]>,
    /// The search ends after so many failures.
    pub failures: usize,
}

impl Search {
    /// The plan of `seed` within this search.
    #[must_use]
    pub fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::from_seed(seed);
        let excluded = |fault: FaultKind| self.without.contains(&fault);
        plan.operations.retain(|timed| !timed.operation.fault().is_some_and(excluded));
        if excluded(FaultKind::Network) {
            for hop in [&mut plan.setup.redis_hop, &mut plan.setup.kafka_hop] {
                *hop = Hop { delay_ms: hop.delay_ms, ..Hop::default() };
            }
        }
        plan
    }

    /// Runs every seed. `progress` is called with the number of seeds done, now and then.
    pub fn run(&self, progress: impl Fn(u64, usize) + Sync) -> Summary {
        let next = AtomicU64::new(self.seeds.start);
        let summary = Mutex::new(Summary::default());
        let lock = || summary.lock().unwrap_or_else(PoisonError::into_inner);
        thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.seeds.end || lock().failures.len() >= self.failures {
                            return;
                        }
                        let plan = self.plan(seed);
                        let report = execute(&plan, self.mutant);
                        let mut summary = lock();
                        summary.seeds += 1;
                        summary.answers += report.answers;
                        for (cell, count) in &report.struck {
                            *summary.coverage.entry(*cell).or_default() += count;
                        }
                        let counts = |kind: Kind| self.kinds.is_none_or(|kinds| kinds.contains(&kind));
                        if report.violations.iter().any(|violation| counts(violation.kind)) {
                            summary.failures.push(Failure { plan, report });
                        }
                        progress(summary.seeds, summary.failures.len());
                    }
                });
            }
        });
        let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Threads finish in any order.
        summary.failures.sort_by_key(|failure| failure.plan.seed);
        summary
    }
}

/// Leaves operations out of a failing plan while it still fails in the same way, with at most `runs` runs.
#[must_use]
pub fn shrink(plan: &Plan, mutant: Option<Mutant>, kind: Kind, runs: usize) -> Plan {
    let mut left = runs;
    let mut fails = |candidate: &Plan| {
        left = left.saturating_sub(1);
        left > 0 && execute(candidate, mutant).violations.iter().any(|violation| violation.kind == kind)
    };
    let mut plan = plan.clone();
    for quiet in [true, false] {
        let mut simpler = plan.clone();
        let hop = |hop: &Hop| if quiet { Hop { delay_ms: (1, 1), ..Hop::default() } } else { hop.clone() };
        simpler.setup.redis_hop = hop(&plan.setup.redis_hop);
        simpler.setup.kafka_hop = hop(&plan.setup.kafka_hop);
        simpler.setup.skew_ms = 0;
        if fails(&simpler) {
            plan = simpler;
            break;
        }
    }
    // Delta debugging (Zeller and Hildebrandt, 2002): large pieces first.
    let mut size = plan.operations.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut removed = false;
        while at < plan.operations.len() {
            let mut candidate = plan.clone();
            let end = (at + size).min(candidate.operations.len());
            candidate.operations.drain(at..end);
            if fails(&candidate) {
                plan = candidate;
                removed = true;
            } else {
                at = end;
            }
        }
        if !removed || size > 1 {
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
    plan
}

/// How many failures there are of each kind: what a search without an end found.
#[must_use]
pub fn kinds(failures: &[Failure]) -> BTreeMap<Kind, u64> {
    let mut kinds = BTreeMap::new();
    for failure in failures {
        for kind in
            failure.report.violations.iter().map(|violation| violation.kind).collect::<std::collections::BTreeSet<_>>()
        {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    kinds
}
