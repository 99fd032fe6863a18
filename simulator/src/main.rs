//! `dropgate-simulator`: searches for broken promises, replays what it found, and tests itself with mutants.

use clap::{Parser, Subcommand};
use dropgate_simulator::explore::explore;
use dropgate_simulator::mutant::Mutant;
use dropgate_simulator::plan::{FaultKind, Plan};
use dropgate_simulator::record::Phase;
use dropgate_simulator::run::{execute, execute_traced};
use dropgate_simulator::search::{Coverage, Failure, Search, Summary, UNREPAIRED, kinds, shrink};
use dropgate_simulator::violation::Violation;
use std::io::{IsTerminal, Write as _, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(version, about = "Search for broken promises: gate, scripts and issuer in one process on a virtual clock")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; a failure is shrunk and printed with the command that replays it
    Search {
        /// Number of seeds
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// First seed
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Threads; all cores by default
        #[arg(long)]
        threads: Option<usize>,
        /// Stop after so many failures
        #[arg(long, default_value_t = 3)]
        failures: usize,
        /// Faults that no plan has, by name; without this option those that are known to break a promise
        #[arg(long, value_parser = fault, value_delimiter = ',')]
        without: Vec<FaultKind>,
        /// Only these faults, by name
        #[arg(long, value_parser = fault, value_delimiter = ',', conflicts_with = "without")]
        only: Vec<FaultKind>,
        /// Print failures as they are, without shrinking them
        #[arg(long)]
        no_shrink: bool,
    },
    /// Run one seed and print its trace
    Replay {
        seed: u64,
        /// Faults that the plan does not have, as in the search
        #[arg(long, value_parser = fault, value_delimiter = ',')]
        without: Vec<FaultKind>,
        #[arg(long, value_parser = fault, value_delimiter = ',', conflicts_with = "without")]
        only: Vec<FaultKind>,
        /// Shrink it first, and print the plan that is left as JSON
        #[arg(long)]
        shrink: bool,
        #[arg(long, value_parser = mutant)]
        mutant: Option<Mutant>,
    },
    /// Run a plan from a file and print its trace
    Scenario { file: PathBuf },
    /// Run every order of a few operations: two users, one slot, two isolates, one issuer
    Explore {
        /// Operations in a run at most
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
        depth: u32,
    },
    /// Run each mutant until it is caught
    Mutants {
        /// Seeds for each at most
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
    },
}

fn fault(text: &str) -> Result<FaultKind, String> {
    let known = |kind: &FaultKind| kind.to_string().eq_ignore_ascii_case(text);
    let names = || FaultKind::ALL.map(|kind| kind.to_string()).join(", ");
    FaultKind::ALL.into_iter().find(known).ok_or_else(|| format!("unknown fault; expected one of {}", names()))
}

fn mutant(text: &str) -> Result<Mutant, String> {
    let known = |mutant: &Mutant| mutant.to_string().eq_ignore_ascii_case(text);
    let names = || Mutant::ALL.map(|mutant| mutant.to_string()).join(", ");
    Mutant::ALL.into_iter().find(known).ok_or_else(|| format!("unknown mutant; expected one of {}", names()))
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Search { seeds, from, threads, failures, without, only, no_shrink } => {
            let without = excluded(without, &only);
            let search = Search {
                seeds: from..from + seeds,
                threads: threads.unwrap_or_else(cores),
                mutant: None,
                without,
                kinds: None,
                failures,
            };
            report(&search, &with_progress(&search), no_shrink)
        }
        Command::Replay { seed, without, only, shrink: smaller, mutant } => {
            let without = excluded(without, &only);
            let search = Search { seeds: seed..seed + 1, threads: 1, mutant, without, kinds: None, failures: 1 };
            let mut plan = search.plan(seed);
            if smaller {
                if let Some(first) = execute_traced(&plan, mutant, false).violations.first() {
                    plan = shrink(&plan, mutant, first.kind, 400);
                }
                println!("{}", serde_json::to_string_pretty(&plan).unwrap_or_default());
            }
            replay(&plan, mutant)
        }
        Command::Scenario { file } => {
            let read = std::fs::read_to_string(&file).map_err(|error| error.to_string());
            match read.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string())) {
                Ok(plan) => replay(&plan, None),
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    ExitCode::from(2)
                }
            }
        }
        Command::Explore { depth } => exhaust(depth),
        Command::Mutants { seeds } => mutants(seeds),
    }
}

fn excluded(without: Vec<FaultKind>, only: &[FaultKind]) -> Vec<FaultKind> {
    if only.is_empty() && without.is_empty() {
        UNREPAIRED.to_vec()
    } else if only.is_empty() {
        without
    } else {
        FaultKind::ALL.into_iter().filter(|kind| !only.contains(kind)).collect()
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn with_progress(search: &Search) -> Summary {
    let last = Mutex::new(Instant::now());
    let total = search.seeds.end - search.seeds.start;
    let every = Duration::from_secs(if stderr().is_terminal() { 1 } else { 15 });
    search.run(|done, failures| {
        if let Ok(mut last) = last.lock()
            && last.elapsed() >= every
        {
            *last = Instant::now();
            let _ = writeln!(stderr(), "simulate: {done} of {total} seeds, {failures} failures");
        }
    })
}

fn report(search: &Search, summary: &Summary, no_shrink: bool) -> ExitCode {
    for failure in &summary.failures {
        print_failure(search, failure, no_shrink);
    }
    print_coverage(&summary.coverage, &search.without);
    for (kind, count) in kinds(&summary.failures) {
        println!("{} {kind:?}: {count} seeds", kind.invariant());
    }
    let cells: Vec<(FaultKind, Phase)> = cells(&search.without).collect();
    let struck = cells.iter().filter(|cell| summary.coverage.contains_key(cell)).count();
    println!("{} answers to visitors", summary.answers);
    if !search.without.is_empty() {
        println!("not searched: {}", search.without.iter().map(FaultKind::to_string).collect::<Vec<_>>().join(", "));
    }
    println!(
        "simulate: {} seeds, {} failures, {struck} of {} cells struck",
        summary.seeds,
        summary.failures.len(),
        cells.len()
    );
    // A search that never met a fault proves nothing about it; a short one cannot meet all.
    let is_vacuous = summary.seeds >= 1_000 && struck < cells.len();
    if summary.failures.is_empty() && !is_vacuous { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cells(without: &[FaultKind]) -> impl Iterator<Item = (FaultKind, Phase)> {
    let kinds = FaultKind::ALL.into_iter().filter(|kind| *kind != FaultKind::Network && !without.contains(kind));
    kinds.flat_map(|kind| Phase::ALL.map(|phase| (kind, phase)))
}

fn print_failure(search: &Search, failure: &Failure, no_shrink: bool) {
    let seed = failure.plan.seed;
    println!("seed {seed} fails:");
    for violation in failure.report.violations.iter().take(6) {
        println!("  {violation}");
    }
    let without = search.without.iter().map(FaultKind::to_string).collect::<Vec<_>>().join(",");
    let without = if without.is_empty() { without } else { format!(" --without {without}") };
    println!("  replay: dropgate-simulator replay {seed}{without}");
    if no_shrink {
        return;
    }
    if let Some(first) = failure.report.violations.first() {
        let small = shrink(&failure.plan, search.mutant, first.kind, 200);
        println!("  {} of {} operations are enough:", small.operations.len(), failure.plan.operations.len());
        for timed in small.operations.iter().take(30) {
            println!("  {:>8} ms {:?}", timed.at_ms, timed.operation);
        }
    }
}

fn print_coverage(coverage: &Coverage, without: &[FaultKind]) {
    println!("{:20} {:>10} {:>10} {:>10} {:>10}", "fault", "before", "admitting", "sold out", "settled");
    for kind in FaultKind::ALL.into_iter().filter(|kind| *kind != FaultKind::Network && !without.contains(kind)) {
        let [a, b, c, d] = Phase::ALL.map(|phase| coverage.get(&(kind, phase)).copied().unwrap_or(0));
        println!("{:20} {a:>10} {b:>10} {c:>10} {d:>10}", kind.to_string());
    }
}

fn replay(plan: &Plan, mutant: Option<Mutant>) -> ExitCode {
    let report = execute_traced(plan, mutant, true);
    print!("{}", report.trace);
    println!("digest {:016x}, {} s of virtual time", report.digest, report.virtual_ms / 1_000);
    for violation in &report.violations {
        println!("{violation}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn exhaust(depth: u32) -> ExitCode {
    let explored = explore(depth, None, cores(), |done| {
        if done.is_multiple_of(2_000) {
            let _ = writeln!(stderr(), "explore: {done} interleavings");
        }
    });
    for (plan, report) in &explored.failures {
        println!("{}", serde_json::to_string_pretty(plan).unwrap_or_default());
        for violation in &report.violations {
            println!("  {violation}");
        }
    }
    let (traces, failures) = (explored.traces.len(), explored.failures.len());
    println!(
        "explore: depth {depth}, {} interleavings, {traces} different runs, {failures} violations",
        explored.interleavings
    );
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mutants(seeds: u64) -> ExitCode {
    let mut caught = 0;
    for mutant in Mutant::ALL {
        if let Some(violation) = mutant.plan().and_then(|plan| execute(&plan, Some(mutant)).violations.pop()) {
            caught += 1;
            println!("{:24} caught by its own plan: {violation}", mutant.to_string());
            continue;
        }
        let kinds = mutant.breaks();
        let without = if kinds.is_some() { Vec::new() } else { UNREPAIRED.to_vec() };
        let search = Search { seeds: 0..seeds, threads: cores(), mutant: Some(mutant), without, kinds, failures: 1 };
        let summary = search.run(|_, _| {});
        match summary.failures.first() {
            Some(failure) => {
                caught += 1;
                let counts = |violation: &&Violation| kinds.is_none_or(|kinds| kinds.contains(&violation.kind));
                let kind = failure.report.violations.iter().find(counts).map(ToString::to_string).unwrap_or_default();
                println!("{:24} caught after {:>5} seeds: {kind}", mutant.to_string(), summary.seeds);
            }
            None => println!("{:24} NOT CAUGHT by {} seeds", mutant.to_string(), summary.seeds),
        }
    }
    println!("mutants: {caught} of {} caught", Mutant::ALL.len());
    if caught == Mutant::ALL.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
