//! Load: a closed loop by wrk, and an open one by burst.

use crate::system::System;
use anyhow::{Context as _, Result, ensure};
use dropgate_burst::identity::Signer;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The secret of the tokens.
pub const JWT_SECRET: &str = "the secret of a bench, which everybody may know";
/// `aud` of the tokens.
pub const JWT_AUDIENCE: &str = "dropgate";

/// What a closed loop has measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Answers a second.
    pub per_s: f64,
    /// Answers of 400 and more.
    pub refused: u64,
    /// Answers below 400.
    pub good: u64,
    /// The slowest of a hundred, ms.
    pub p99_ms: f64,
}

/// What an open loop has measured, in ms from the moment that a claim was due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Half of them.
    pub p50_ms: f64,
    /// All but one of a hundred.
    pub p99_ms: f64,
    /// 202.
    pub admitted: u64,
    /// 410.
    pub sold_out: u64,
    /// Neither, nor 200.
    pub others: u64,
}

/// Writes `count` tokens of users with ids of `id_bytes`, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn tokens(path: &Path, count: u32, id_bytes: usize) -> Result<()> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let signer = Signer::new(JWT_SECRET, None, Some(JWT_AUDIENCE.to_owned()), now_s).context("no key")?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for n in 0..count {
        writeln!(file, "{}", signer.token(&format!("{n:0>id_bytes$}")))?;
    }
    Ok(file.flush()?)
}

/// How wrk is to go about it.
#[derive(Debug, Clone)]
pub struct Closed<'a> {
    /// The worker.
    pub url: &'a str,
    /// The campaign.
    pub campaign: &'a str,
    /// Connections, each with one claim at a time.
    pub connections: u32,
    /// For how long.
    pub seconds: u32,
    /// The file of tokens.
    pub tokens: &'a PathBuf,
    /// Which of them is the first, from 1.
    pub first: u32,
}

impl Closed<'_> {
    /// Measures.
    ///
    /// # Errors
    /// If wrk fails, or a connection does.
    pub async fn measure(&self) -> Result<Measured> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("claims.lua");
        let mut wrk = System::beside("wrk");
        wrk.args(["-t1", &format!("-c{}", self.connections), &format!("-d{}s", self.seconds), "--latency", "-s"]);
        wrk.arg(script).arg(self.url).arg("--");
        wrk.arg(format!("/v1/campaigns/{}/claims", self.campaign)).arg(self.tokens).arg(self.first.to_string());
        let output = wrk.output().await.context("wrk cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("wrk says {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        let summary: Value = serde_json::from_str(line)?;
        let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or(0);
        ensure!(number("lost") == 0, "{} requests at {} were lost: {line}", number("lost"), self.url);
        let requests = number("requests");
        ensure!(requests > 0, "no answer from {}", self.url);
        let as_f64 = |n: u64| u32::try_from(n).map_or(f64::MAX, f64::from);
        Ok(Measured {
            per_s: as_f64(requests) * 1e6 / as_f64(number("duration_us")),
            refused: number("refused"),
            good: requests - number("refused"),
            p99_ms: as_f64(number("p99_us")) / 1e3,
        })
    }
}

/// Sends `users` claims within `over_ms`, each at its own moment.
///
/// # Errors
/// If burst fails.
pub async fn open(system: &System, url: &str, campaign: &str, (users, over_ms): (u32, u32)) -> Result<Latency> {
    let program = std::env::current_exe()?.with_file_name("burst");
    let file = system.dir.join("burst.json");
    let _ = std::fs::remove_file(&file);
    let mut burst = System::beside(&program.to_string_lossy());
    burst.args(["run", "--url", url, "--campaign", campaign, "--capacity", "1000000", "--answers-only"]);
    burst.args(["--users", &users.to_string(), "--over", &format!("{over_ms}ms"), "--repeats", "0"]);
    burst.args(["--auth", "jwt-hs256", "--jwt-audience", JWT_AUDIENCE, "--json"]).arg(&file);
    burst.env("JWT_SECRET", JWT_SECRET).env_remove("DATABASE_URL");
    let output = burst.output().await.context("burst cannot be run")?;
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("burst says {}", String::from_utf8_lossy(&output.stderr)))?;
    let report: Value = serde_json::from_str(&text)?;
    let number = |path: &str| report.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path}"));
    let ms = |path: &str| number(path).map(|us| u32::try_from(us).map_or(f64::MAX, f64::from) / 1e3);
    let (admitted, sold_out) = (number("/report/figures/ends/admitted")?, number("/report/figures/ends/sold_out")?);
    Ok(Latency {
        p50_ms: ms("/report/figures/latency/p50_us")?,
        p99_ms: ms("/report/figures/latency/p99_us")?,
        admitted,
        sold_out,
        others: u64::from(users) - admitted - sold_out,
    })
}
