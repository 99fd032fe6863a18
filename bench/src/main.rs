//! `dropgate-bench`: the comparisons of `make bench-edge` and `make bench-issuer`.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dropgate_bench::gate::{self, GateArgs};
use dropgate_bench::issuer::{self, IssuerArgs};
use dropgate_devstack::Paths;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Compare dropgate with its peers on this machine
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The repository
    #[arg(long, default_value = ".", global = true)]
    repo: PathBuf,
    /// The directory for data and logs
    #[arg(long, default_value = ".stack/bench", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    comparison: Comparison,
}

#[derive(Subcommand)]
enum Comparison {
    /// The gate, bare workers and usual workers
    Edge(GateArgs),
    /// The issuer, plain writers, and the effect of each on other users of the database
    Issuer(IssuerArgs),
    /// The consumer with one row per transaction, as a process of its own
    #[command(hide = true)]
    PerMessage,
}

fn main() -> ExitCode {
    // One thread: the kernel ends a child with the thread that started it, and the child inherits the
    // cores of that thread.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    match runtime.block_on(interruptible(Cli::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

/// Runs the comparison. On ^C or SIGTERM drops it, which stops every process it started.
async fn interruptible(cli: Cli) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = run(cli) => result,
        _ = interrupt.recv() => anyhow::bail!("interrupted: all processes are stopped"),
        _ = terminate.recv() => anyhow::bail!("terminated: all processes are stopped"),
        _ = hangup.recv() => anyhow::bail!("terminal closed: all processes are stopped"),
    }
}

async fn run(cli: Cli) -> Result<()> {
    let programs = std::env::current_exe()?.parent().map(Path::to_owned).context("the program has no directory")?;
    let paths = |name: &str| Paths::new(&cli.repo, &programs, &cli.dir.join(name));
    match &cli.comparison {
        Comparison::Edge(args) => gate::bench(paths("edge")?, args).await,
        Comparison::Issuer(args) => issuer::bench(paths("issuer")?, args).await,
        Comparison::PerMessage => issuer::per_message().await,
    }
}
