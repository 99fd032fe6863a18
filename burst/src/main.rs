//! `burst`: see the library.

use clap::Parser;
use dropgate_burst::cli::{Cli, Command};
use dropgate_burst::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    // One thread: the servers under test run on the same machine and need the other cores.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("burst: {error}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run::run(&args)) {
        Ok(verdict) => ExitCode::from(verdict.status()),
        Err(error) => {
            eprintln!("burst: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
