//! `dropgate-bench`: the comparisons of `make bench-edge` and `make bench-issuer`.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dropgate_bench::gate::{self, EdgeArgs};
use dropgate_bench::issuer::{self, IssuerArgs};
use dropgate_local::stack::Site;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Measures dropgate beside its peers.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The checkout.
    #[arg(long, default_value = ".", global = true)]
    repo: PathBuf,
    /// The folder for data and logs.
    #[arg(long, default_value = ".stack/bench", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The gate beside a bare worker and the usual ones.
    Edge(EdgeArgs),
    /// The issuer beside plain writers, and what each does to the database's other tenants.
    Issuer(IssuerArgs),
    /// The consumer with one row a transaction, as a process of its own.
    #[command(hide = true)]
    PerMessage,
}

fn main() -> ExitCode {
    // One thread: children ask the kernel to end them with the thread that started them, and they run
    // on the cores that it is bound to.
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

/// Runs the comparison; on ^C or SIGTERM drops it, which stops every part it has started.
async fn interruptible(cli: Cli) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = run(cli) => result,
        _ = interrupt.recv() => anyhow::bail!("interrupted: everything is stopped"),
        _ = terminate.recv() => anyhow::bail!("terminated: everything is stopped"),
        _ = hangup.recv() => anyhow::bail!("terminal closed: everything is stopped"),
    }
}

async fn run(cli: Cli) -> Result<()> {
    let programs = std::env::current_exe()?.parent().map(Path::to_owned).context("no folder of programs")?;
    let site = |name: &str| Site::new(&cli.repo, &programs, &cli.dir.join(name));
    match &cli.what {
        What::Edge(args) => gate::bench(site("edge")?, args).await,
        What::Issuer(args) => issuer::bench(site("issuer")?, args).await,
        What::PerMessage => issuer::per_message().await,
    }
}
