//! `make chaos MINUTES=10 SEED=1`.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use dropgate_tests::chaos::{self, Options};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Violations that are printed at most.
const SHOWN: usize = 40;

/// Random faults on real servers, while a crowd claims; then the promises are judged
#[derive(Parser)]
struct Cli {
    /// Rounds begin within this time
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Faults and crowd are drawn from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also strike with faults that lose what a server has acknowledged
    #[arg(long)]
    with_data_loss: bool,
    /// Only faults whose name contains one of these
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let programs = dropgate_tests::programs();
    let dir = programs.parent().unwrap().join("chaos").join(format!("seed-{}", cli.seed));
    println!("seed {}, everything in {}", cli.seed, dir.display());
    let time = Duration::from_secs_f64(cli.minutes * 60.0);
    let options = Options { time, seed: cli.seed, with_data_loss: cli.with_data_loss, only: cli.only };
    // The processes end with the runtime: Ctrl-C and a panic drop it, too.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            outcome = chaos::run(&options, &programs, &dir) => Some(outcome),
            _ = tokio::signal::ctrl_c() => None,
            _ = terminated.recv() => None,
        }
    });
    drop(runtime);
    let Some(outcome) = outcome else {
        eprintln!("interrupted; the processes have ended");
        return ExitCode::from(130);
    };
    println!("\n{}\n", outcome.table(cli.with_data_loss));
    println!(
        "{} rounds, {} answers, {} looks at what must always hold",
        outcome.rounds, outcome.answers, outcome.looks
    );
    for violation in outcome.violations.iter().take(SHOWN) {
        println!("VIOLATION {violation}");
    }
    if outcome.violations.len() > SHOWN {
        println!("and {} more", outcome.violations.len() - SHOWN);
    }
    let (struck, violations) = (outcome.faults_struck(), outcome.violations.len());
    if violations > 0 {
        println!("seed {}, logs and evidence in {}", cli.seed, dir.display());
    }
    println!("chaos: {} minutes, {struck} faults struck, {violations} violations", cli.minutes);
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
