//! `up`, `down` and `supervise`: a stack in the background.

use super::status::print_state;
use crate::cli::Cli;
use anyhow::{Context as _, Result, bail};
use dropgate_devstack::{Paths, Stack, State, pid};
use rustix::process::{Signal, kill_process, test_kill_process};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const DOWN_TIMEOUT: Duration = Duration::from_secs(120);

pub async fn up(cli: &Cli) -> Result<ExitCode> {
    let paths = cli.paths(&cli.dir)?;
    if let Some(state) = State::of(&paths.dir)? {
        println!("the stack is already running");
        print_state(&state);
        return Ok(ExitCode::SUCCESS);
    }
    State::remove(&paths.dir);
    fs::create_dir_all(paths.logs())?;
    let log = paths.logs().join("supervisor.log");
    let out = fs::File::create(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--repo")
        .arg(&cli.repo)
        .arg("--dir")
        .arg(&cli.dir)
        .arg("supervise")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()?;
    println!("starting the stack; data and logs in {}", paths.dir.display());
    let mut printed = 0;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let text = fs::read_to_string(&log)?;
        if let Some(new) = text.get(printed..) {
            print!("{new}");
        }
        printed = text.len();
        // The file and not the lock: a test of the lock would take it for a moment, and the supervisor needs it.
        if let Some(state) = State::read(&paths.dir) {
            print_state(&state);
            return Ok(ExitCode::SUCCESS);
        }
        if child.try_wait()?.is_some() {
            return Ok(ExitCode::FAILURE);
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
            _ = interrupt.recv() => {
                if let Some(pid) = pid(child.id()) {
                    kill_process(pid, Signal::TERM)?;
                }
                child.wait()?;
                eprintln!("\ninterrupted: everything is stopped");
                return Ok(ExitCode::from(130));
            }
        }
    }
}

pub async fn supervise(paths: Paths) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut print = |line: &str| println!("  {line}");
    let mut stack = tokio::select! {
        stack = Stack::start(paths, &mut print) => stack?,
        _ = terminate.recv() => return Ok(ExitCode::from(130)),
    };
    tokio::select! {
        result = stack.supervise(&mut print) => result?,
        // `down`: every process has its whole stop timeout.
        _ = terminate.recv() => {}
    }
    stack.stop().await?;
    Ok(ExitCode::SUCCESS)
}

pub async fn down(dir: &Path) -> Result<ExitCode> {
    let Some(state) = State::of(dir)? else {
        println!("no stack is running in {}", dir.display());
        return Ok(ExitCode::SUCCESS);
    };
    let pid = pid(state.supervisor).context("the process id of the supervisor is invalid")?;
    kill_process(pid, Signal::TERM)?;
    let deadline = Instant::now() + DOWN_TIMEOUT;
    while test_kill_process(pid).is_ok() {
        if Instant::now() > deadline {
            bail!("the supervisor, pid {}, is still running after {} s", state.supervisor, DOWN_TIMEOUT.as_secs());
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    println!("stopped; the data is kept in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}
