//! `demo`: a stack, a campaign, a crowd and a verdict.

use crate::cli::{DemoArgs, Via};
use anyhow::{Context as _, Result, bail};
use dropgate_devstack::{Paths, Stack};
use std::process::{ExitCode, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub async fn run(paths: Paths, args: &DemoArgs) -> Result<ExitCode> {
    let begun = Instant::now();
    let report = paths.dir.join("report.html");
    let burst = paths.programs.join("burst");
    println!("starting the stack; data and logs in {}", paths.dir.display());
    let mut print = |line: &str| println!("  {line}");
    let mut stack = Stack::start_anew(paths, &mut print).await?;

    let campaign = format!("demo-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
    let capacity = args.capacity.to_string();
    stack.run_issuer(&["campaign", "create", &campaign, "--capacity", &capacity])?;
    stack.run_issuer(&["campaign", "publish", &campaign])?;
    println!("campaign {campaign} of {capacity} is published after {:.1} s", begun.elapsed().as_secs_f32());

    // The stack's own gate goes on running beside it: the cron needs wrangler.
    let gate = match args.via {
        Via::Workerd => Some(stack.gate("gate", &[("AUTH", "insecure-header")], &[]).await?),
        Via::Wrangler => None,
    };
    let url = gate.as_ref().map_or(&stack.endpoints.edge_url, |gate| &gate.url);
    let mut burst = tokio::process::Command::new(burst);
    burst
        .args(["run", "--url", url, "--campaign", &campaign, "--capacity", &capacity])
        .args(["--users", &args.users.to_string(), "--repeats", &args.repeats.to_string(), "--over", &args.over])
        .arg("--report")
        .arg(&report)
        // In the environment: it contains the password.
        .env("DATABASE_URL", &stack.endpoints.database_url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = {
        let mut child = burst.spawn().context("cannot start burst")?;
        tokio::select! {
            status = child.wait() => status?,
            result = stack.supervise(&mut print) => {
                result?;
                bail!("the supervisor ended")
            }
        }
    };
    drop(gate);
    println!("report: {}", report.display());
    stack.stop().await?;
    println!("everything is stopped; total time {:.1} s", begun.elapsed().as_secs_f32());
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
