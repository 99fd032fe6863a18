//! The workers that are compared, the servers they share, and what these were asked.

use super::Auth;
use crate::connection::Connection;
use crate::load::Crowd;
use crate::machine::Cores;
use anyhow::{Context as _, Result, bail};
use dropgate_burst::load::identity::{Identity, Signer};
use dropgate_local::stack::{self, Code, Site, Stack};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::{CampaignKeys, TOPIC};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The secret of every token here.
const JWT_SECRET: &str = "benchmarks-sign-with-these-32-bytes-or-more";
/// Coupons of the usual workers, which have them as a setting.
const USUAL_CAPACITY: &str = "1000000000";
/// As many as the issuer gives the topic.
const PARTITIONS: i32 = 6;
/// How long the servers may take to work off what was sent.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// Nothing is asked for so long: it is quiet.
const QUIET: Duration = Duration::from_millis(400);

/// A worker's place in [`Arena::workers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Answers only.
    Ceiling,
    /// Reads who asks, and answers.
    Reader,
    /// dropgate.
    Gate,
    /// INCR and SADD with @upstash/redis.
    Usual,
    /// One EVAL with @upstash/redis.
    UsualEval,
}

impl Who {
    /// In words, for tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling: a bare worker that only answers",
            Self::Reader => "a bare worker that reads the token",
            Self::Gate => "the gate",
            Self::Usual => "usual worker: INCR, SADD",
            Self::UsualEval => "usual worker: one EVAL for both",
        }
    }
}

/// A running worker.
pub struct Worker {
    /// Which one.
    pub who: Who,
    /// host:port
    pub address: String,
    running: stack::Worker,
}

impl Worker {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.part.pid()
    }
}

/// What the servers have been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Requests to Redis REST.
    pub redis_requests: u64,
    /// Commands in them.
    pub redis_commands: u64,
    /// Commands that scripts have run.
    pub inner_commands: u64,
    /// Requests to Kafka REST.
    pub kafka_requests: u64,
    /// Records in them.
    pub kafka_records: u64,
}

impl Asked {
    /// What the gateways have counted since.
    fn since(self, before: Self) -> Self {
        Self {
            redis_requests: self.redis_requests - before.redis_requests,
            redis_commands: self.redis_commands - before.redis_commands,
            inner_commands: 0,
            kafka_requests: self.kafka_requests - before.kafka_requests,
            kafka_records: self.kafka_records - before.kafka_records,
        }
    }
}

/// Everything that runs.
pub struct Arena {
    /// The workers.
    pub workers: Vec<Worker>,
    /// Who runs where.
    pub cores: Cores,
    stack: Stack,
    identity: Identity,
    campaigns: u32,
}

impl Arena {
    /// Starts the servers, the gate and its peers.
    ///
    /// # Errors
    /// If one does not start; the message names it.
    pub async fn start(site: Site, auth: Auth) -> Result<Self> {
        let cores = Cores::split()?;
        cores.others()?;
        let peers = bundle(&site.repo, &site.dir)?;
        let stack = Stack::start_servers(site.clone(), false, &mut |line| println!("  {line}")).await?;
        crate::topics::create(&stack.endpoints.kafka_bootstrap, TOPIC, PARTITIONS).await?;

        let word = match auth {
            Auth::JwtHs256 => "jwt-hs256",
            Auth::InsecureHeader => "insecure-header",
        };
        let mut vars = stack.endpoints.gate_vars();
        // Development adds a header to each answer.
        vars.retain(|(name, _)| *name != "ENVIRONMENT");
        let environment = if auth == Auth::InsecureHeader { "development" } else { "staging" };
        vars.extend([("ENVIRONMENT", environment), ("AUTH", word), ("JWT_SECRET", JWT_SECRET)]);
        vars.push(("CAPACITY", USUAL_CAPACITY));
        let mut workers = Vec::new();
        let [ceiling, reader] = ["ceiling.js", "reader.js"].map(|file| site.repo.join("bench/edge").join(file));
        let [usual, usual_eval] = ["usual.js", "usual-eval.js"].map(|file| peers.join(file));
        for (who, name, code) in [
            (Who::Ceiling, "ceiling", Code::Script(&ceiling)),
            (Who::Reader, "reader", Code::Script(&reader)),
            (Who::Gate, "gate", Code::Gate),
            (Who::Usual, "usual", Code::Script(&usual)),
            (Who::UsualEval, "usual-eval", Code::Script(&usual_eval)),
        ] {
            cores.measured()?;
            let running = stack.worker(code, name, &vars, &[]).await?;
            cores.others()?;
            let address = running.url.trim_start_matches("http://").to_owned();
            println!("  {name:<12} ready   pid {}", running.part.pid());
            workers.push(Worker { who, address, running });
        }
        let identity = match auth {
            Auth::InsecureHeader => Identity::InsecureHeader,
            Auth::JwtHs256 => {
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let signer = Signer::new(JWT_SECRET, None, None, now_s).context("no key for tokens")?;
                Identity::Jwt(Box::new(signer))
            }
        };
        let arena = Self { workers, cores, stack, identity, campaigns: 0 };
        // A rewrite of Redis's file would fall into whichever round comes next.
        arena.redis(&json!(["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"])).await?;
        Ok(arena)
    }

    /// A worker.
    ///
    /// # Errors
    /// None, once started.
    pub fn worker(&self, who: Who) -> Result<&Worker> {
        self.workers.iter().find(|worker| worker.who == who).context("there is no such worker")
    }

    /// A campaign of its own, known to gate and usual workers alike, of which `held` coupons are taken.
    /// For the usual workers it is either sold out or endless.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn campaign(&mut self, capacity: u64, held: u64) -> Result<String> {
        self.campaigns += 1;
        let campaign = format!("bench-{}", self.campaigns);
        let keys = CampaignKeys::of(&CampaignId::parse(&campaign)?);
        let mut next = 1;
        while next <= held {
            let last = held.min(next + 99_999);
            let fill = "for i = ARGV[1], ARGV[2] do redis.call('HSET', KEYS[1], 'holder-' .. i, i .. ':1:i') end";
            self.redis(&json!(["EVAL", fill, "1", keys.claims, next, last])).await?;
            next = last + 1;
        }
        let (capacity_text, held_text) = (capacity.to_string(), held.to_string());
        let meta = json!([
            "HSET",
            keys.meta,
            "state",
            "open",
            "capacity",
            capacity_text,
            "count",
            held_text,
            "opens_ms",
            "0",
            "closes_ms",
            "0",
            "last_ms",
            "1"
        ]);
        self.redis(&meta).await?;
        let count = if held < capacity { "0" } else { USUAL_CAPACITY };
        self.redis(&json!(["SET", format!("{campaign}:count"), count])).await?;
        Ok(campaign)
    }

    /// Leaves the usual workers so many coupons of a campaign.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn usual_left(&self, campaign: &str, left: u64) -> Result<()> {
        let taken = USUAL_CAPACITY.parse::<u64>()?.saturating_sub(left);
        self.redis(&json!(["SET", format!("{campaign}:count"), taken.to_string()])).await.map(drop)
    }

    /// Forgets every campaign, once nothing is under way any more.
    ///
    /// # Errors
    /// If Redis does not.
    pub async fn clear(&self) -> Result<()> {
        self.quiet().await?;
        self.redis(&json!(["FLUSHALL"])).await.map(drop)
    }

    /// A crowd of a campaign; `prefix` sets it apart from others.
    #[must_use]
    pub fn crowd(&self, campaign: &str, prefix: &str, id_bytes: usize, distinct: u64) -> Crowd {
        Crowd {
            campaign: campaign.to_owned(),
            prefix: prefix.to_owned(),
            id_bytes,
            distinct,
            identity: self.identity.clone(),
        }
    }

    /// Runs `work` and tells what the servers were asked from its beginning until all was quiet again.
    ///
    /// # Errors
    /// Those of `work`, and if it does not become quiet.
    pub async fn counted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, Asked)> {
        // Our own question for Redis's counters goes through the gateway: it stays outside of what the
        // gateway has counted between these two.
        let all_before = self.all_commands().await?;
        let before = self.gateways().await?;
        let result = work.await?;
        self.quiet().await?;
        let mut asked = self.gateways().await?.since(before);
        let all = self.all_commands().await?.saturating_sub(all_before);
        asked.inner_commands = all.saturating_sub(asked.redis_commands);
        Ok((result, asked))
    }

    /// Waits until nobody asks the servers for anything.
    async fn quiet(&self) -> Result<()> {
        let deadline = Instant::now() + QUIET_WITHIN;
        let mut last = self.gateways().await?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            if Instant::now() > deadline {
                bail!("the servers are still busy {} s after the load has ended", QUIET_WITHIN.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.gateways().await?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Every command that Redis has run, in scripts too, but for those of the servers themselves.
    async fn all_commands(&self) -> Result<u64> {
        let info = self.redis(&json!(["INFO", "commandstats"])).await?;
        let calls = info.as_str().unwrap_or_default().lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let ours = ["ping", "hello", "info", "command", "client"].iter().any(|own| name.starts_with(own));
            rest.split(',').next()?.parse::<u64>().ok().filter(|_| !ours)
        });
        Ok(calls.sum())
    }

    async fn gateways(&self) -> Result<Asked> {
        let at = &self.stack.endpoints;
        let statz = |url: String| async move {
            let answer: Value = dropgate_local::http_client().get(url).send().await?.error_for_status()?.json().await?;
            let field = |name: &str| answer.get(name).and_then(Value::as_u64).context("no counter of the gateway");
            Ok::<_, anyhow::Error>((field("requests")?, field("items")?))
        };
        let (redis_requests, redis_commands) = statz(format!("{}/statz", at.redis_rest_url)).await?;
        let (kafka_requests, kafka_records) = statz(format!("{}/statz", at.kafka_rest_url)).await?;
        Ok(Asked { redis_requests, redis_commands, inner_commands: 0, kafka_requests, kafka_records })
    }

    async fn redis(&self, command: &Value) -> Result<Value> {
        let at = &self.stack.endpoints;
        let request = dropgate_local::http_client().post(&at.redis_rest_url).bearer_auth(&at.redis_rest_token);
        let mut answer: Value = request.json(command).send().await?.json().await?;
        if let Some(error) = answer.get("error") {
            bail!("Redis refuses a command of the benchmark: {error}");
        }
        Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
    }

    /// Makes sure that the gate and the bare workers answer the same bytes, or the comparison would be none.
    ///
    /// # Errors
    /// If they do not, with both answers.
    pub async fn same_answers(&mut self) -> Result<()> {
        let campaign = self.campaign(1, 1).await?;
        let request = self.crowd(&campaign, "s", 8, 1).request(0);
        let mut answers = Vec::new();
        for who in [Who::Ceiling, Who::Reader, Who::Gate] {
            let mut connection = Connection::open(&self.worker(who)?.address).await?;
            // Once to learn that it is sold out, and from memory when the holders were fetched.
            for _ in 0..2 {
                connection.exchange(&request).await?;
                self.quiet().await?;
            }
            let answer = connection.exchange(&request).await?;
            let mut lines: Vec<String> = String::from_utf8_lossy(answer.head).lines().map(str::to_lowercase).collect();
            lines.sort();
            answers.push((lines, String::from_utf8_lossy(answer.body).into_owned()));
        }
        if let [ceiling, reader, gate] = answers.as_slice()
            && (ceiling != gate || reader != gate)
        {
            bail!(
                "bench/edge/ceiling.js answers {ceiling:?}, reader.js {reader:?}, the gate {gate:?}: mend the former"
            );
        }
        self.clear().await
    }

    /// Stops everything.
    ///
    /// # Errors
    /// If the system cannot tell whether a part has ended.
    pub async fn stop(self) -> Result<()> {
        for worker in self.workers {
            worker.running.part.stop().await?;
        }
        self.stack.stop().await
    }
}

/// Bundles the peers that use packages. Returns the folder.
fn bundle(repo: &Path, dir: &Path) -> Result<PathBuf> {
    let peers = repo.join("bench/edge");
    let esbuild = peers.join("node_modules/.bin/esbuild");
    if !esbuild.exists() {
        bail!("the peers' packages are not installed: run `npm --prefix bench/edge ci`");
    }
    let out = std::path::absolute(dir.with_extension("peers"))?;
    let done = Command::new(esbuild)
        .args(["usual.js", "usual-eval.js", "--bundle", "--format=esm", "--minify", "--log-level=warning"])
        .arg(format!("--outdir={}", out.display()))
        .current_dir(&peers)
        .stdin(Stdio::null())
        .output()
        .context("esbuild cannot be run")?;
    if !done.status.success() {
        bail!("the peers cannot be bundled:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(out)
}
