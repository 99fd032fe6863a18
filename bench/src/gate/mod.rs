//! The gate on workerd, and its peers: bare workers that only respond, the worker that most people would
//! write, and the same with a script in Redis.

mod args;
mod responder;
mod scenarios;
mod setup;

pub use args::GateArgs;

use crate::machine;
use crate::report::{Report, replace};
use crate::stats::{Spread, Target};
use anyhow::{Context as _, Result, bail};
use dropgate_burst::load::identity::Auth;
use dropgate_devstack::Paths;
use setup::GateSetup;
use std::path::Path;
use std::process::{Command, Stdio};

/// # Errors
/// If a process does not start, or a worker responds in an unexpected way.
pub async fn bench(paths: Paths, args: &GateArgs) -> Result<()> {
    let document = paths.repo.join("docs/benchmarks.md");
    let wasm_kb = gzipped_kb(&paths.repo.join("edge"))?;
    let mut report = Report::default();
    let mut setup = GateSetup::start(paths, args.auth).await?;
    report.say(&format!(
        "{}; {}. {} rounds of {} s for each worker, in alternating order; {}. Figures are medians (min..max).",
        machine::describe(),
        setup.cores.describe(),
        args.rounds,
        args.seconds,
        match args.auth {
            Auth::JwtHs256 => "every request with a JWT (HS256)",
            Auth::InsecureHeader => "the user in a header, no JWT",
        }
    ));
    setup.check_same_responses().await?;
    if args.wants("sold-out") {
        scenarios::sold_out(&mut setup, args, &mut report).await?;
    }
    if args.wants("admission") {
        for connections in [64, 256] {
            scenarios::admission(&mut setup, args, connections, &mut report).await?;
        }
    }
    if args.wants("latency") {
        scenarios::latency(&mut setup, args, &mut report).await?;
    }
    if args.wants("first-second") {
        scenarios::first_second(&mut setup, args, &mut report).await?;
    }
    if args.wants("growth") {
        scenarios::growth(&mut setup, args, &mut report).await?;
    }
    setup.stop().await?;
    report.ratio("edge.wasm_gzip_kb", Spread::of(&[wasm_kb]), Target::AtMost(250.0));
    let markdown = report.finish();
    if args.write {
        replace(&document, "edge", &markdown)?;
    }
    Ok(())
}

/// What an isolate loads, compressed as in `edge/size.sh`, in KB of 1024 bytes.
fn gzipped_kb(edge: &Path) -> Result<f64> {
    let files = ["build/index_bg.wasm", "build/index.js", "entry.mjs"].map(|file| edge.join(file));
    if let Some(missing) = files.iter().find(|file| !file.exists()) {
        bail!("{} does not exist; run `make edge`", missing.display());
    }
    let done = Command::new("sh")
        .args(["-c", "cat \"$@\" | gzip -9c | wc -c", "sh"])
        .args(files)
        .stdin(Stdio::null())
        .output()
        .context("cannot run gzip")?;
    let bytes: f64 = String::from_utf8_lossy(&done.stdout).trim().parse().context("gzip failed")?;
    Ok(bytes / 1024.0)
}
