//! The only place that starts `issuer`, as a service or for one command.

use crate::endpoints::Endpoints;
use crate::paths::Paths;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use anyhow::{Context as _, Result, bail};
use std::process::{Command, Stdio};
use std::time::Duration;

/// `issuer run` with the settings of the stack, health and metrics at `listen` (host:port). `env` comes after
/// them and overrides them.
pub fn spec(
    paths: &Paths,
    endpoints: &Endpoints,
    name: &'static str,
    listen: &str,
    env: &[(&'static str, &str)],
) -> Result<ProcessSpec> {
    let mut settings = endpoints.issuer_env();
    settings.push(("HTTP_LISTEN", listen.to_owned()));
    settings.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Ok(ProcessSpec {
        name,
        program: paths.program("issuer")?,
        args: ["run", "--create-topics"].map(Into::into).to_vec(),
        env: settings,
        cwd: paths.dir.clone(),
        probe: Probe::Output("partitions assigned"),
        stop_timeout: Duration::from_secs(30),
    })
}

/// Runs an `issuer` command and returns its output.
pub fn run(paths: &Paths, endpoints: &Endpoints, args: &[&str]) -> Result<String> {
    let done = Command::new(paths.program("issuer")?)
        .args(args)
        .envs(endpoints.issuer_env())
        .stdin(Stdio::null())
        .output()
        .context("cannot run the issuer")?;
    if !done.status.success() {
        bail!("issuer {} failed:\n{}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
