//! `with-database`: runs a command, for example tests, with a database that ends with it.

use anyhow::{Context as _, Result, bail};
use dropgate_devstack::{Database, Paths, pid};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::process::ExitCode;

pub async fn run(paths: Paths, command: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = command.split_first() else { bail!("no command given") };
    let database = Database::start(&paths).await?;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("DROPGATE_TEST_DATABASE_URL", &database.url)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // On an interrupt, the command ends with all that it has started.
    let group = Group(child.id().and_then(pid));
    let status = child.wait().await?;
    drop(group);
    database.stop().await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A process group that ends when this value is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}
