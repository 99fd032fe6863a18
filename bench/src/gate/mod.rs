//! The gate on workerd beside three peers: a bare worker that only answers, the worker that most people
//! would write, and the same with a script in Redis.

mod responder;
mod scenarios;
mod setup;

use crate::machine;
use crate::report::{Sheet, replace};
use crate::stats::{Aim, Spread};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use dropgate_local::stack::Site;
use setup::Arena;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How visitors say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// A JWT, signed with HS256.
    JwtHs256,
    /// The header `X-User-Id`, believed as it is.
    InsecureHeader,
}

/// What to measure, and for how long.
#[derive(Debug, Clone, Args)]
pub struct EdgeArgs {
    /// Rounds; every figure is the median of so many
    #[arg(long, env = "ROUNDS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds that one worker is under load within a round
    #[arg(long, env = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How visitors say who they are, to the gate and to its peers alike
    #[arg(long, env = "AUTH", value_enum, default_value = "jwt-hs256")]
    auth: Auth,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Only scenes whose name contains this: sold-out, admission, latency, first-second, growth
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
}

impl EdgeArgs {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn wants(&self, scene: &str) -> bool {
        scene.contains(&self.only)
    }
}

/// Runs the comparison.
///
/// # Errors
/// If a part does not start, or a worker answers with something that it should not.
pub async fn bench(site: Site, args: &EdgeArgs) -> Result<()> {
    let document = site.repo.join("docs/benchmarks.md");
    let wasm_kb = gzipped_kb(&site.repo.join("edge"))?;
    let mut sheet = Sheet::default();
    let mut arena = Arena::start(site, args.auth).await?;
    sheet.say(&format!(
        "{}; {}. {} rounds of {} s for each worker, in alternating order; {}. Figures are medians (least..greatest).",
        machine::described(),
        arena.cores.described(),
        args.rounds,
        args.seconds,
        match args.auth {
            Auth::JwtHs256 => "every request with a JWT (HS256)",
            Auth::InsecureHeader => "the user in a header, no JWT",
        }
    ));
    arena.same_answers().await?;
    if args.wants("sold-out") {
        scenarios::sold_out(&mut arena, args, &mut sheet).await?;
    }
    if args.wants("admission") {
        for connections in [64, 256] {
            scenarios::admission(&mut arena, args, connections, &mut sheet).await?;
        }
    }
    if args.wants("latency") {
        scenarios::latency(&mut arena, args, &mut sheet).await?;
    }
    if args.wants("first-second") {
        scenarios::first_second(&mut arena, args, &mut sheet).await?;
    }
    if args.wants("growth") {
        scenarios::growth(&mut arena, args, &mut sheet).await?;
    }
    arena.stop().await?;
    let spread = Spread::of(&[wasm_kb]);
    sheet.ratio("edge.wasm_gzip_kb", spread, Aim::AtMost(250.0));
    let text = sheet.close();
    if args.write {
        replace(&document, "edge", &text)?;
    }
    Ok(())
}

/// What an isolate loads, compressed as `edge/size.sh` does it, in KB of 1024 bytes.
fn gzipped_kb(edge: &Path) -> Result<f64> {
    let files = ["build/index_bg.wasm", "build/index.js", "entry.mjs"].map(|file| edge.join(file));
    if let Some(missing) = files.iter().find(|file| !file.exists()) {
        bail!("there is no {}: run `make edge`", missing.display());
    }
    let done = Command::new("sh")
        .args(["-c", "cat \"$@\" | gzip -9c | wc -c", "sh"])
        .args(files)
        .stdin(Stdio::null())
        .output()
        .context("gzip cannot be run")?;
    let bytes: f64 = String::from_utf8_lossy(&done.stdout).trim().parse().context("gzip has failed")?;
    Ok(bytes / 1024.0)
}
