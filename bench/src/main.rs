//! `dropgate-bench`: figures of the gate and the issuer, each beside another's in the same run.

mod edge;
mod issuer;
mod load;
mod neighbour;
mod plot;
mod ratio;
mod report;
mod system;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Measures dropgate beside others, in one run, and writes docs/benchmarks.md.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// The gate, on workerd itself
    Edge {
        /// Rounds, in alternating order
        #[arg(long, env = "ROUNDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds of one measurement
        #[arg(long, env = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
        seconds: u32,
    },
    /// The issuer, on a real Kafka and a real MySQL
    Issuer {
        /// Records in the topic
        #[arg(long, env = "RECORDS", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..))]
        records: u32,
        /// Rounds, in alternating order
        #[arg(long, env = "ROUNDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Seconds that the neighbours are watched, each time
        #[arg(long, env = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=600))]
        seconds: u32,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = tokio::select! {
        done = bench(Cli::parse()) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dropgate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(cli: Cli) -> Result<()> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
    let program = std::env::current_exe()?;
    let programs = program.parent().context("no folder of programs")?;
    let document = repo.join("docs/benchmarks.md");
    match cli.part {
        Part::Edge { rounds, seconds } => {
            let report = edge::run(repo, programs, edge::Plan { rounds, seconds }).await?;
            let preface =
                format!("`ROUNDS={rounds} SECONDS={seconds} make bench-edge`; median (min..max) of the rounds.");
            report.write(&document, "edge", &preface)?;
            report.print();
        }
        Part::Issuer { records, rounds, seconds } => {
            let report = issuer::run(repo, programs, issuer::Plan { records, rounds, seconds }).await?;
            let command = format!("RECORDS={records} ROUNDS={rounds} SECONDS={seconds} make bench-issuer");
            report.write(&document, "issuer", &format!("`{command}`; median (min..max) of the rounds."))?;
            report.print();
        }
    }
    Ok(())
}
