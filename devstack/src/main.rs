//! `dropgate-devstack`: the whole system on one machine.

mod cli;
mod commands;

use anyhow::Result;
use clap::Parser as _;
use cli::{Cli, Command};
use commands::{demo, status, up, with_database};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // One thread: the kernel ends a child when the thread that started it ends.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    let cli = Cli::parse();
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Demo(args) => interruptible(demo::run(cli.paths(&cli.dir.join("demo"))?, args)).await,
        Command::Up => up::up(&cli).await,
        Command::Down => up::down(&cli.dir).await,
        Command::Status => status::status(&cli.dir),
        Command::Sql { query } => status::sql(&cli.paths(&cli.dir)?, query.as_deref()),
        Command::Logs => status::logs(&cli.dir),
        Command::WithDatabase { command } => {
            // MySQL and MariaDB cannot read each other's folder.
            let folder = if dropgate_devstack::wants_mariadb() { "mariadb" } else { "database" };
            interruptible(with_database::run(cli.paths(&cli.dir.join(folder))?, command)).await
        }
        Command::Supervise => up::supervise(cli.paths(&cli.dir)?).await,
    }
}

/// Runs `work`; on SIGINT, SIGTERM or SIGHUP drops it, which stops every process that it has started.
async fn interruptible(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reason = tokio::select! {
        result = work => return result,
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        _ = hangup.recv() => "terminal closed",
    };
    eprintln!("\n{reason}: everything is stopped");
    Ok(ExitCode::from(130))
}
