//! The workers that are compared, the servers they share, and counters of the calls to these servers.

use crate::connection::RawConnection;
use crate::load::ClaimRequests;
use crate::machine::Cores;
use anyhow::{Context as _, Result, bail};
use dropgate_burst::load::identity::{Auth, Identity, Signer};
use dropgate_devstack::{self as devstack, Code, Paths, Stack};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::{CampaignKeys, TOPIC};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

const JWT_SECRET: &str = "benchmarks-sign-with-these-32-bytes-or-more";
/// Capacity of the usual workers, which have it as a setting.
const USUAL_CAPACITY: &str = "1000000000";
/// As the issuer creates the topic.
const PARTITIONS: i32 = 6;
/// How long the servers may take to finish the work of a load.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// The servers are idle after this time without a call.
const IDLE_AFTER: Duration = Duration::from_millis(400);

/// A worker that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A constant response.
    Ceiling,
    /// Reads user and campaign, then a constant response.
    Reader,
    Gate,
    /// INCR and SADD with @upstash/redis.
    Usual,
    /// One EVAL with @upstash/redis.
    UsualEval,
}

impl Subject {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling: a bare worker that only responds",
            Self::Reader => "a bare worker that reads the token",
            Self::Gate => "the gate",
            Self::Usual => "usual worker: INCR, SADD",
            Self::UsualEval => "usual worker: one EVAL for both",
        }
    }
}

pub struct RunningSubject {
    pub subject: Subject,
    /// `host:port`
    pub address: String,
    running: devstack::Worker,
}

impl RunningSubject {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.process.pid()
    }
}

/// Calls to the servers that the workers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpstreamCalls {
    pub redis_requests: u64,
    /// In these requests.
    pub redis_commands: u64,
    /// Run by scripts.
    pub inner_commands: u64,
    pub kafka_requests: u64,
    /// In these requests.
    pub kafka_records: u64,
}

impl UpstreamCalls {
    /// Without `inner_commands`, which the REST proxies do not count.
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

/// All processes of the comparison.
pub struct GateSetup {
    workers: Vec<RunningSubject>,
    pub cores: Cores,
    stack: Stack,
    identity: Identity,
    campaigns: u32,
}

impl GateSetup {
    /// Starts the servers, the gate and its peers.
    pub async fn start(paths: Paths, auth: Auth) -> Result<Self> {
        let cores = Cores::split()?;
        cores.use_others()?;
        let peers = bundle(&paths.repo, &paths.dir)?;
        let stack = Stack::start_servers(paths.clone(), false, &mut |line| println!("  {line}")).await?;
        crate::topics::create(&stack.endpoints.kafka_bootstrap, TOPIC, PARTITIONS).await?;

        let auth_setting = match auth {
            Auth::JwtHs256 => "jwt-hs256",
            Auth::InsecureHeader => "insecure-header",
        };
        let mut vars = stack.endpoints.gate_vars();
        // Development adds a header to each response.
        vars.retain(|(name, _)| *name != "ENVIRONMENT");
        let environment = if auth == Auth::InsecureHeader { "development" } else { "staging" };
        vars.extend([("ENVIRONMENT", environment), ("AUTH", auth_setting), ("JWT_SECRET", JWT_SECRET)]);
        vars.push(("CAPACITY", USUAL_CAPACITY));
        let mut workers = Vec::new();
        let [ceiling, reader] = ["ceiling.js", "reader.js"].map(|file| paths.repo.join("bench/edge").join(file));
        let [usual, usual_eval] = ["usual.js", "usual-eval.js"].map(|file| peers.join(file));
        for (subject, name, code) in [
            (Subject::Ceiling, "ceiling", Code::Script(&ceiling)),
            (Subject::Reader, "reader", Code::Script(&reader)),
            (Subject::Gate, "gate", Code::Gate),
            (Subject::Usual, "usual", Code::Script(&usual)),
            (Subject::UsualEval, "usual-eval", Code::Script(&usual_eval)),
        ] {
            cores.use_measured()?;
            let running = devstack::Worker::start(&paths, code, name, &vars, &[]).await?;
            cores.use_others()?;
            let address = running.url.trim_start_matches("http://").to_owned();
            println!("  {name:<12} ready   pid {}", running.process.pid());
            workers.push(RunningSubject { subject, address, running });
        }
        let identity = match auth {
            Auth::InsecureHeader => Identity::InsecureHeader,
            Auth::JwtHs256 => {
                let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let signer =
                    Signer::new(JWT_SECRET, None, None, now_s).context("the JWT secret is not a valid HMAC key")?;
                Identity::Jwt(Box::new(signer))
            }
        };
        let setup = Self { workers, cores, stack, identity, campaigns: 0 };
        // A rewrite of the AOF would disturb the round in which it happens.
        setup.redis(&json!(["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"])).await?;
        Ok(setup)
    }

    pub fn worker(&self, subject: Subject) -> Result<&RunningSubject> {
        self.workers.iter().find(|worker| worker.subject == subject).context("there is no such worker")
    }

    /// Creates a campaign for the gate and the usual workers, of which `held` slots are taken. For the usual
    /// workers it is either sold out or unlimited.
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

    /// Sets the number of coupons that the usual workers can still give.
    pub async fn set_usual_left(&self, campaign: &str, left: u64) -> Result<()> {
        let taken = USUAL_CAPACITY.parse::<u64>()?.saturating_sub(left);
        self.redis(&json!(["SET", format!("{campaign}:count"), taken.to_string()])).await.map(drop)
    }

    /// Deletes every campaign once the servers are idle.
    pub async fn clear(&self) -> Result<()> {
        self.wait_until_idle().await?;
        self.redis(&json!(["FLUSHALL"])).await.map(drop)
    }

    #[must_use]
    pub fn requests(&self, campaign: &str, prefix: &str, id_bytes: usize, distinct: u64) -> ClaimRequests {
        ClaimRequests {
            campaign: campaign.to_owned(),
            prefix: prefix.to_owned(),
            id_bytes,
            distinct,
            identity: self.identity.clone(),
        }
    }

    /// Runs `work` and counts the calls to the servers from its start until the servers are idle again.
    pub async fn count_calls<T>(&self, work: impl Future<Output = Result<T>>) -> Result<(T, UpstreamCalls)> {
        // The query for the counters of Redis goes through the REST proxy, so it runs before and after the
        // interval in which the proxy counts.
        let all_before = self.all_commands().await?;
        let before = self.proxy_counters().await?;
        let result = work.await?;
        self.wait_until_idle().await?;
        let mut calls = self.proxy_counters().await?.since(before);
        let all = self.all_commands().await?.saturating_sub(all_before);
        calls.inner_commands = all.saturating_sub(calls.redis_commands);
        Ok((result, calls))
    }

    async fn wait_until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + IDLE_TIMEOUT;
        let mut last = self.proxy_counters().await?;
        let mut since = Instant::now();
        while since.elapsed() < IDLE_AFTER {
            if Instant::now() > deadline {
                bail!("the servers are still busy {} s after the end of the load", IDLE_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.proxy_counters().await?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Every command that Redis has run, in scripts too, without those for monitoring.
    async fn all_commands(&self) -> Result<u64> {
        let info = self.redis(&json!(["INFO", "commandstats"])).await?;
        let calls = info.as_str().unwrap_or_default().lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            let monitoring = ["ping", "hello", "info", "command", "client"].iter().any(|own| name.starts_with(own));
            rest.split(',').next()?.parse::<u64>().ok().filter(|_| !monitoring)
        });
        Ok(calls.sum())
    }

    async fn proxy_counters(&self) -> Result<UpstreamCalls> {
        let at = &self.stack.endpoints;
        let statz = |url: String| async move {
            let answer: Value =
                dropgate_devstack::http_client().get(url).send().await?.error_for_status()?.json().await?;
            let field =
                |name: &str| answer.get(name).and_then(Value::as_u64).context("the REST proxy has no such counter");
            Ok::<_, anyhow::Error>((field("requests")?, field("items")?))
        };
        let (redis_requests, redis_commands) = statz(format!("{}/statz", at.redis_rest_url)).await?;
        let (kafka_requests, kafka_records) = statz(format!("{}/statz", at.kafka_rest_url)).await?;
        Ok(UpstreamCalls { redis_requests, redis_commands, inner_commands: 0, kafka_requests, kafka_records })
    }

    async fn redis(&self, command: &Value) -> Result<Value> {
        let at = &self.stack.endpoints;
        let request = dropgate_devstack::http_client().post(&at.redis_rest_url).bearer_auth(&at.redis_rest_token);
        let mut answer: Value = request.json(command).send().await?.json().await?;
        if let Some(error) = answer.get("error") {
            bail!("Redis rejected a command of the benchmark: {error}");
        }
        Ok(answer.get_mut("result").map(Value::take).unwrap_or_default())
    }

    /// # Errors
    /// If the gate and the bare workers differ in a byte of their responses: they would not be comparable.
    pub async fn check_same_responses(&mut self) -> Result<()> {
        let campaign = self.campaign(1, 1).await?;
        let request = self.requests(&campaign, "s", 8, 1).request(0);
        let mut responses = Vec::new();
        for subject in [Subject::Ceiling, Subject::Reader, Subject::Gate] {
            let mut connection = RawConnection::open(&self.worker(subject)?.address).await?;
            // The gate learns that the campaign is sold out, then fetches the holders.
            for _ in 0..2 {
                connection.exchange(&request).await?;
                self.wait_until_idle().await?;
            }
            let response = connection.exchange(&request).await?;
            let mut lines: Vec<String> =
                String::from_utf8_lossy(response.head).lines().map(str::to_lowercase).collect();
            lines.sort();
            responses.push((lines, String::from_utf8_lossy(response.body).into_owned()));
        }
        if let [ceiling, reader, gate] = responses.as_slice()
            && (ceiling != gate || reader != gate)
        {
            bail!(
                "the responses differ: bench/edge/ceiling.js {ceiling:?}, reader.js {reader:?}, the gate {gate:?}; \
                 change the first two"
            );
        }
        self.clear().await
    }

    pub async fn stop(self) -> Result<()> {
        for worker in self.workers {
            worker.running.process.stop().await?;
        }
        self.stack.stop().await
    }
}

/// Bundles the peers that use packages. Returns the directory.
fn bundle(repo: &Path, dir: &Path) -> Result<PathBuf> {
    let peers = repo.join("bench/edge");
    let esbuild = peers.join("node_modules/.bin/esbuild");
    if !esbuild.exists() {
        bail!("the packages of the peers are not installed; run `npm --prefix bench/edge ci`");
    }
    let out = std::path::absolute(dir.with_extension("peers"))?;
    let done = Command::new(esbuild)
        .args(["usual.js", "usual-eval.js", "--bundle", "--format=esm", "--minify", "--log-level=warning"])
        .arg(format!("--outdir={}", out.display()))
        .current_dir(&peers)
        .stdin(Stdio::null())
        .output()
        .context("cannot run esbuild")?;
    if !done.status.success() {
        bail!("esbuild failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(out)
}
