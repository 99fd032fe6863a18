//! What the gate and its peers stand on: a real Redis and a real Kafka behind their REST gateways, and
//! nothing else.

use anyhow::{Context as _, Result, ensure};
use dropgate_local::stack::{Site, Stack};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The processor of the workers.
const WORKERS: &str = "0";
/// The processor of all else: the load, Redis, Kafka, the gateways.
const OTHERS: &str = "1";

/// The running servers.
pub struct System {
    /// The stack, without the parts that nobody asks here.
    pub stack: Stack,
    /// The folder of the run.
    pub dir: PathBuf,
}

/// What the upstreams have been asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Commands that came to Redis from outside, not those inside scripts.
    pub redis: u64,
    /// Produce calls.
    pub kafka: u64,
}

impl Asked {
    /// What was asked since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { redis: self.redis.saturating_sub(before.redis), kafka: self.kafka.saturating_sub(before.kafka) }
    }
}

/// Binds a process with all its threads to a processor.
fn pin(pid: u32, processor: &str) -> Result<()> {
    let done = Command::new("taskset").args(["-apc", processor, &pid.to_string()]).output();
    ensure!(done.context("taskset cannot be run (package util-linux)")?.status.success(), "{pid} cannot be pinned");
    Ok(())
}

impl System {
    /// Starts the servers in `dir`.
    ///
    /// # Errors
    /// If one does not come up.
    pub async fn start(repo: &Path, programs: &Path, dir: &Path) -> Result<Self> {
        let _ = std::fs::remove_dir_all(dir);
        let site = Site::new(repo, programs, dir)?;
        let mut stack = Stack::start(site, &mut |line| println!("{line}")).await?;
        // They have made the topic; from now on they would only take time from the others.
        for part in ["issuer", "edge", "mysql"] {
            stack.stop_part(part).await?;
        }
        for pid in stack.pids() {
            pin(pid, OTHERS)?;
        }
        Ok(Self { stack, dir: dir.to_owned() })
    }

    /// Binds a worker to its processor.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn pin_worker(pid: u32) -> Result<()> {
        pin(pid, WORKERS)
    }

    /// A command that runs beside the servers.
    #[must_use]
    pub fn beside(program: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("taskset");
        command.args(["-c", OTHERS, program]).kill_on_drop(true);
        command
    }

    /// Sends commands to Redis in one go.
    ///
    /// # Errors
    /// If one fails.
    pub async fn redis(&self, commands: &[Vec<String>]) -> Result<Vec<Value>> {
        let at = &self.stack.endpoints;
        let url = format!("{}/pipeline", at.redis_rest_url);
        let sent = dropgate_local::http_client().post(url).bearer_auth(&at.redis_rest_token).json(commands).send();
        let answers: Vec<Value> = sent.await?.error_for_status()?.json().await?;
        answers
            .into_iter()
            .map(|answer| answer.get("result").cloned().with_context(|| format!("Redis answers {answer}")))
            .collect()
    }

    /// Makes a campaign as the issuer would publish it, with `held` of its slots handed out.
    ///
    /// # Errors
    /// If Redis cannot be written.
    pub async fn campaign(&self, id: &str, capacity: u64, held: u64) -> Result<()> {
        let key = |name: &str| format!("dg:{{{id}}}:{name}");
        for first in (1..=held).step_by(100_000) {
            let last = held.min(first + 99_999);
            let mut commands = Vec::new();
            for begin in (first..=last).step_by(1_000) {
                let mut command = vec!["HSET".to_owned(), key("claims")];
                for slot in begin..=last.min(begin + 999) {
                    command.extend([format!("holder-{slot}"), format!("{slot}:1000:i")]);
                }
                commands.push(command);
            }
            self.redis(&commands).await?;
        }
        let meta = json!({ "state": "open", "capacity": capacity, "count": held, "opens_ms": 0, "closes_ms": 0,
            "last_ms": 1000 });
        let mut command = vec!["HSET".to_owned(), key("meta")];
        for (name, value) in meta.as_object().into_iter().flatten() {
            command.extend([name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)]);
        }
        self.redis(&[command]).await.map(drop)
    }

    /// Slots that a campaign has handed out.
    ///
    /// # Errors
    /// If Redis cannot be read.
    pub async fn count(&self, id: &str) -> Result<u64> {
        let answers = self.redis(&[vec!["HGET".into(), format!("dg:{{{id}}}:meta"), "count".into()]]).await?;
        answers.first().and_then(Value::as_str).and_then(|n| n.parse().ok()).context("the campaign has no count")
    }

    /// What the upstreams have been asked so far.
    ///
    /// # Errors
    /// If one cannot tell.
    pub async fn asked(&self) -> Result<Asked> {
        let info = self.redis(&[vec!["INFO".into(), "commandstats".into()]]).await?;
        let info = info.first().and_then(Value::as_str).unwrap_or_default().to_owned();
        let calls = |name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.and_then(|rest| rest.split(',').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        // What the workers send; the scripts' own commands are others.
        let redis = ["evalsha", "eval", "sadd", "hkeys", "smembers"].into_iter().map(calls).sum::<u64>();
        // INCR is the usual worker's alone, but one of the scripts has it too.
        let redis = redis + calls("incr").saturating_sub(calls("hget"));
        let health = dropgate_local::http_client().get(format!("{}/healthz", self.stack.endpoints.kafka_rest_url));
        let health: Value = health.send().await?.json().await?;
        Ok(Asked { redis, kafka: health.get("produce_calls").and_then(Value::as_u64).unwrap_or(0) })
    }

    /// Waits until nobody asks the upstreams any more, and tells what they have been asked by then.
    ///
    /// # Errors
    /// If one cannot tell, or it does not become quiet within a minute.
    pub async fn quiet(&self) -> Result<Asked> {
        let begun = Instant::now();
        let mut last = self.asked().await?;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(600) {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the upstreams are asked and asked: {last:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.asked().await?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}
