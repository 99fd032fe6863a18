//! `status`, `sql` and `logs`: what a running stack does.

use anyhow::{Context as _, Result, bail};
use dropgate_devstack::{Paths, State, mysql_client};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub fn status(dir: &Path) -> Result<ExitCode> {
    match State::of(dir)? {
        Some(state) => print_state(&state),
        None => println!("no stack is running in {}: `make up` starts one", dir.display()),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn sql(paths: &Paths, query: Option<&str>) -> Result<ExitCode> {
    let Some(state) = State::of(&paths.dir)? else {
        bail!("no stack is running in {}: `make up` starts one", paths.dir.display())
    };
    let mut client = mysql_client(paths, &state.endpoints.database_url)?;
    if let Some(query) = query {
        client.args(["--execute", query]);
    }
    Err(client.exec()).context("cannot run the MySQL client: run `make setup`")
}

pub fn logs(dir: &Path) -> Result<ExitCode> {
    let logs: Vec<PathBuf> = fs::read_dir(dir.join("log"))
        .with_context(|| format!("there are no logs in {}: run `make up` first", dir.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    // Replaces this process, so that ^C reaches tail.
    Err(Command::new("tail").args(["-n", "20", "-F"]).args(logs).exec().into())
}

pub fn print_state(state: &State) {
    let env = state.endpoints.issuer_env();
    let exports = env.iter().map(|(name, value)| format!("  export {name}='{value}'\n")).collect::<String>();
    let processes = state.processes.iter().map(|(name, pid)| format!("{name} {pid}")).collect::<Vec<_>>().join(", ");
    println!(
        "
the gate     {edge}
process ids  supervisor {supervisor}, {processes}

Try:
{exports}
  target/service/issuer campaign create spring --capacity 100
  target/service/issuer campaign publish spring
  curl -i -X POST -H 'X-User-Id: me' {edge}/v1/campaigns/spring/claims
  curl -i -H 'X-User-Id: me' {edge}/v1/campaigns/spring/claims/me
  curl -i {edge}/v1/campaigns/spring
  make sql Q='SELECT * FROM coupons'
  target/service/burst run --url {edge} --campaign spring --capacity 100 --users 10000

make logs follows the logs, make down stops the stack.",
        edge = state.endpoints.edge_url,
        supervisor = state.supervisor,
    );
}
