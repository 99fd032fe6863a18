//! The whole system on one machine: real servers and dropgate's own parts as child processes, each
//! with its data in a folder, its log in a file, and a probe that tells when it is ready.

mod app;
pub mod ports;
mod probe;
mod process;
mod servers;
mod workerd;

pub use probe::Probe;
pub use process::{Part, Spec};
pub use workerd::{Code, Worker};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::try_join_all;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where things are.
#[derive(Debug, Clone)]
pub struct Site {
    /// The checkout.
    pub repo: PathBuf,
    /// What `local/setup` installed.
    pub cache: PathBuf,
    /// The folder of dropgate's native programs.
    pub programs: PathBuf,
    /// The folder of this stack: data, logs, secrets.
    pub dir: PathBuf,
}

impl Site {
    /// The site of a stack in `dir`, with programs from `programs`.
    ///
    /// # Errors
    /// If a path cannot be made absolute.
    pub fn new(repo: &Path, programs: &Path, dir: &Path) -> Result<Self> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let cache = var("DROPGATE_CACHE")
            .or_else(|| Some(var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?.join("dropgate")))
            .context("set HOME or DROPGATE_CACHE, so that the installed servers can be found")?;
        let absolute = |path: &Path| std::path::absolute(path);
        Ok(Self { repo: absolute(repo)?, cache: absolute(&cache)?, programs: absolute(programs)?, dir: absolute(dir)? })
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(folder)
    }

    /// The folder of the log files.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        if path.exists() { Ok(path) } else { bail!("there is no {}: run `make build`", path.display()) }
    }
}

/// Where the parts of a running stack are, and what they ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// The gate.
    pub edge_url: String,
    /// Upstash Redis REST.
    pub redis_rest_url: String,
    /// Its token.
    pub redis_rest_token: String,
    /// Kafka's bootstrap servers.
    pub kafka_bootstrap: String,
    /// Kafka REST.
    pub kafka_rest_url: String,
    /// Its token.
    pub kafka_rest_token: String,
    /// The database, with its password.
    pub database_url: String,
    /// What coupon codes are derived from.
    pub code_secret: String,
    /// The issuer's health and metrics.
    pub issuer_url: String,
}

impl Endpoints {
    /// Arguments and environment for a MySQL client.
    ///
    /// # Errors
    /// If the database's URL is none.
    pub fn sql_client(&self, site: &Site) -> Result<std::process::Command> {
        servers::client(site, &self.database_url)
    }

    /// Does once what Cloudflare's cron does: has the gate forward what is due.
    ///
    /// # Errors
    /// If the gate cannot be reached.
    pub async fn cron(&self) -> Result<()> {
        let url = format!("{}/__scheduled", self.edge_url);
        crate::http_client().get(url).send().await?.error_for_status()?;
        Ok(())
    }

    /// The settings of a gate in this stack, but for those that say who visitors are.
    #[must_use]
    pub fn gate_vars(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("UPSTASH_REDIS_REST_URL", &self.redis_rest_url),
            ("UPSTASH_REDIS_REST_TOKEN", &self.redis_rest_token),
            ("KAFKA_REST_URL", &self.kafka_rest_url),
            ("KAFKA_REST_TOKEN", &self.kafka_rest_token),
            ("COUPON_CODE_SECRET", &self.code_secret),
            ("ENVIRONMENT", "development"),
        ]
    }

    /// The environment of `issuer`.
    #[must_use]
    pub fn issuer_env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.database_url.clone()),
            ("KAFKA_BOOTSTRAP", self.kafka_bootstrap.clone()),
            ("UPSTASH_REDIS_REST_URL", self.redis_rest_url.clone()),
            ("UPSTASH_REDIS_REST_TOKEN", self.redis_rest_token.clone()),
            ("COUPON_CODE_SECRET", self.code_secret.clone()),
        ]
    }
}

/// A database alone, for tests that need nothing else.
pub struct Database {
    /// Its URL.
    pub url: String,
    part: Part,
    _lock: File,
}

impl Database {
    /// Starts a database in the site's folder and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(site: &Site) -> Result<Self> {
        let lock = lock(site)?;
        let (spec, url) = servers::database(site, &Secrets::of(&site.dir)?.database)?;
        let mut part = spec.start(&site.logs())?;
        part.ready().await?;
        Ok(Self { url, part, _lock: lock })
    }

    /// Stops it.
    ///
    /// # Errors
    /// If the system cannot tell whether it has ended.
    pub async fn stop(self) -> Result<()> {
        self.part.stop().await.map(drop)
    }
}

/// A Kafka alone, for tests that need nothing else.
pub struct Kafka {
    /// Its bootstrap address.
    pub bootstrap: String,
    part: Part,
    logs: PathBuf,
    _lock: File,
}

impl Kafka {
    /// Starts a Kafka in the site's folder and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(site: &Site) -> Result<Self> {
        let lock = lock(site)?;
        let (spec, bootstrap) = servers::kafka(site)?;
        let logs = site.logs();
        let mut part = spec.start(&logs)?;
        part.ready().await?;
        Ok(Self { bootstrap, part, logs, _lock: lock })
    }

    /// Stops it as SIGSTOP does while `work` runs.
    pub async fn frozen<T>(&self, work: impl Future<Output = T>) -> T {
        self.part.signal(Signal::STOP);
        let done = work.await;
        self.part.signal(Signal::CONT);
        done
    }

    /// Kills it, runs `work`, and starts it again at the same address.
    ///
    /// # Errors
    /// If it does not come up again.
    pub async fn crashed<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        self.part.signal(Signal::KILL);
        while self.part.ended()?.is_none() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let done = work.await;
        self.part = self.part.spec.clone().start(&self.logs)?;
        self.part.ready().await?;
        Ok(done)
    }

    /// Stops it.
    ///
    /// # Errors
    /// If the system cannot tell whether it has ended.
    pub async fn stop(self) -> Result<()> {
        self.part.stop().await.map(drop)
    }
}

/// A running stack.
pub struct Stack {
    /// Where its parts are.
    pub endpoints: Endpoints,
    site: Site,
    parts: Vec<Part>,
    restarts: Vec<Instant>,
    // Held while the stack runs: one stack a folder.
    _lock: File,
}

/// Which parts to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parts {
    All,
    Servers { database: bool },
}

/// A part that ends this often within a minute is not started again.
const RESTARTS_A_MINUTE: usize = 10;
/// How often the supervisor looks at the parts.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the local stack does what Cloudflare's cron does. A minute there; less here, so that
/// nobody waits in front of a screen.
const CRON_EVERY: Duration = Duration::from_secs(5);

/// What the user brings himself; empty variables count as absent.
fn yours(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Stack {
    /// Starts all parts in a folder that is emptied first.
    ///
    /// # Errors
    /// As [`Stack::start`]; also if a stack runs there already.
    pub async fn start_anew(site: Site, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = emptied(&site)?;
        Self::start_locked(site, lock, Parts::All, say).await
    }

    /// Starts the servers and gateways alone, in a folder that is emptied first: a benchmark starts its
    /// own gates and issuers. Without `database` there is none, and its URL is empty.
    ///
    /// # Errors
    /// As [`Stack::start_anew`].
    pub async fn start_servers(site: Site, database: bool, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = emptied(&site)?;
        Self::start_locked(site, lock, Parts::Servers { database }, say).await
    }

    /// Starts all parts and waits until each is ready. `say` is told one line a part.
    ///
    /// Parts that the user already runs are used instead: `REDIS_URL`, `UPSTASH_REDIS_REST_URL` (with
    /// `UPSTASH_REDIS_REST_TOKEN`), `KAFKA_BOOTSTRAP`, `KAFKA_REST_URL` (with `KAFKA_REST_TOKEN`),
    /// `DATABASE_URL`.
    ///
    /// # Errors
    /// If a part does not come up; those that did are stopped. The message names the part and its log.
    pub async fn start(site: Site, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = lock(&site)?;
        Self::start_locked(site, lock, Parts::All, say).await
    }

    async fn start_locked(site: Site, lock: File, wanted: Parts, say: &mut dyn FnMut(&str)) -> Result<Self> {
        State::forget(&site.dir);
        let mut tries = 0;
        let (endpoints, parts) = loop {
            match Self::start_parts(&site, wanted, say).await {
                // Between the choice of a free port and its use somebody else may take it.
                Err(e) if tries < 2 && format!("{e:#}").to_lowercase().contains("address already in use") => {
                    tries += 1;
                    say("a port was taken meanwhile; once more with others");
                }
                result => break result?,
            }
        };
        let stack = Self { endpoints, site, parts, restarts: Vec::new(), _lock: lock };
        stack.write_state()?;
        Ok(stack)
    }

    async fn start_parts(site: &Site, wanted: Parts, say: &mut dyn FnMut(&str)) -> Result<(Endpoints, Vec<Part>)> {
        let secrets = Secrets::of(&site.dir)?;
        let logs = site.logs();

        let mut servers = Vec::new();
        let redis_rest = yours("UPSTASH_REDIS_REST_URL");
        let redis_url = match (yours("REDIS_URL"), &redis_rest) {
            (Some(url), _) => url,
            (None, Some(_)) => String::new(),
            (None, None) => added(&mut servers, servers::redis(site)?),
        };
        let kafka_bootstrap = match yours("KAFKA_BOOTSTRAP") {
            Some(bootstrap) => bootstrap,
            None => added(&mut servers, servers::kafka(site)?),
        };
        let database_url = match yours("DATABASE_URL") {
            _ if wanted == (Parts::Servers { database: false }) => String::new(),
            Some(url) => url,
            None => added(&mut servers, servers::database(site, &secrets.database)?),
        };
        let mut parts = start_all(servers, &logs, say).await?;

        let mut gateways = Vec::new();
        let (redis_rest_url, redis_rest_token) = match redis_rest {
            Some(url) => {
                let token = yours("UPSTASH_REDIS_REST_TOKEN")
                    .ok_or_else(|| anyhow!("UPSTASH_REDIS_REST_URL is set, UPSTASH_REDIS_REST_TOKEN is missing"))?;
                (url, token)
            }
            None => {
                (added(&mut gateways, app::redis_rest(site, &redis_url, &secrets.gateway)?), secrets.gateway.clone())
            }
        };
        let (kafka_rest_url, kafka_rest_token) = match yours("KAFKA_REST_URL") {
            Some(url) => (url, yours("KAFKA_REST_TOKEN").unwrap_or_default()),
            None => (
                added(&mut gateways, app::kafka_rest(site, &kafka_bootstrap, &secrets.gateway)?),
                secrets.gateway.clone(),
            ),
        };
        let mut endpoints = Endpoints {
            edge_url: String::new(),
            redis_rest_url,
            redis_rest_token,
            kafka_bootstrap,
            kafka_rest_url,
            kafka_rest_token,
            database_url,
            code_secret: secrets.codes,
            issuer_url: format!("http://127.0.0.1:{}", ports::given("ISSUER_PORT", None)?),
        };
        if wanted == Parts::All {
            endpoints.edge_url = added(&mut gateways, app::edge(site, &endpoints)?);
            gateways.push(app::issuer(site, &endpoints)?);
        }
        if !endpoints.database_url.is_empty() {
            app::migrate(site, &endpoints)?;
        }
        parts.extend(start_all(gateways, &logs, say).await?);

        Ok((endpoints, parts))
    }

    /// Runs `issuer` with the stack's settings and returns what it prints.
    ///
    /// # Errors
    /// If it fails; the message is its own.
    pub fn issuer(&self, args: &[&str]) -> Result<String> {
        app::issuer_command(&self.site, &self.endpoints, args)
    }

    /// Starts a gate beside the stack's own, on workerd alone. `more` comes on top of the stack's
    /// settings and may replace them; `bound` as in [`Worker::start`].
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn gate(&self, name: &'static str, more: &[(&str, &str)], bound: &[&str]) -> Result<Worker> {
        let ours = self.endpoints.gate_vars();
        let kept = ours.into_iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
        let vars: Vec<_> = kept.chain(more.iter().copied()).collect();
        self.worker(Code::Gate, name, &vars, bound).await
    }

    /// Starts a worker of any code beside the stack.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn worker(
        &self,
        code: Code<'_>,
        name: &'static str,
        vars: &[(&str, &str)],
        bound: &[&str],
    ) -> Result<Worker> {
        Worker::start(&self.site, code, name, vars, bound).await
    }

    /// The process of each part.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.parts.iter().map(Part::pid).collect()
    }

    /// Stops a part for good.
    ///
    /// # Errors
    /// If there is no such part, or it cannot be told whether it has ended.
    pub async fn stop_part(&mut self, name: &str) -> Result<()> {
        let at = self.parts.iter().position(|part| part.spec.name == name);
        let part = at.map(|at| self.parts.remove(at)).with_context(|| format!("this stack has no part {name}"))?;
        part.stop().await.map(drop)
    }

    /// Keeps the stack alive: starts a part again that has ended, and does what the cron does. Returns
    /// only on an error.
    ///
    /// # Errors
    /// If a part ends again and again.
    pub async fn supervise(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let endpoints = self.endpoints.clone();
        let cron = async {
            loop {
                tokio::time::sleep(CRON_EVERY).await;
                // The gate logs what goes wrong; a failing cron run is followed by the next.
                let _ = endpoints.cron().await;
            }
        };
        let watch = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                self.mend(say).await?;
            }
        };
        tokio::select! {
            () = cron => Ok(()),
            result = watch => result,
        }
    }

    /// One look at the parts; those that have ended are started again.
    async fn mend(&mut self, say: &mut dyn FnMut(&str)) -> Result<()> {
        for at in 0..self.parts.len() {
            let Some(part) = self.parts.get_mut(at) else { break };
            let Some(status) = part.ended()? else { continue };
            self.restarts.retain(|when| when.elapsed() < Duration::from_secs(60));
            if self.restarts.len() >= RESTARTS_A_MINUTE {
                bail!("{} ends again and again ({status}); see {}", part.spec.name, self.site.logs().display());
            }
            self.restarts.push(Instant::now());
            say(&format!("{} has ended ({status}) and is started again", part.spec.name));
            let mut again = part.spec.clone().start(&self.site.logs())?;
            again.ready().await?;
            say(&format!("{} is ready again, pid {}", again.spec.name, again.pid()));
            *part = again;
            self.write_state()?;
        }
        Ok(())
    }

    /// A part by name.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.spec.name == name)
    }

    /// Stops a part for good.
    ///
    /// # Errors
    /// If there is no such part.
    pub async fn end(&mut self, name: &str) -> Result<()> {
        let at = self.parts.iter().position(|part| part.spec.name == name);
        let part = at.map(|at| self.parts.remove(at)).with_context(|| format!("this stack has no part {name}"))?;
        part.stop().await.map(drop)
    }

    /// Stops a part, runs `meanwhile` without it, and starts it again.
    ///
    /// # Errors
    /// If there is no such part, or it does not come up again.
    pub async fn without<T>(
        &mut self,
        name: &str,
        kill: bool,
        meanwhile: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let at = self.parts.iter().position(|part| part.spec.name == name);
        let part = at.map(|at| self.parts.remove(at)).with_context(|| format!("this stack has no part {name}"))?;
        let spec = part.spec.clone();
        if kill {
            part.kill()?
        } else {
            part.stop().await.map(drop)?
        }
        let result = meanwhile.await;
        let mut part = spec.start(&self.site.logs())?;
        part.ready().await?;
        self.parts.push(part);
        result
    }

    /// Stops all parts, those that depend on others first.
    ///
    /// # Errors
    /// If the system cannot tell whether one has ended.
    pub async fn stop(mut self) -> Result<()> {
        let _ = fs::remove_file(self.site.dir.join(STATE));
        while let Some(part) = self.parts.pop() {
            part.stop().await?;
        }
        Ok(())
    }

    fn write_state(&self) -> Result<()> {
        let parts = self.parts.iter().map(|part| (part.spec.name.to_owned(), part.pid())).collect();
        let state = State { supervisor: std::process::id(), endpoints: self.endpoints.clone(), parts };
        write_secret(&self.site.dir.join(STATE), &serde_json::to_string_pretty(&state)?)
    }
}

/// Interrupted: all parts are told at once, and each ends while the others do.
impl Drop for Stack {
    fn drop(&mut self) {
        for part in &self.parts {
            part.signal(Signal::TERM);
        }
    }
}

const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// What a running stack tells others about itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// Where its parts are.
    pub endpoints: Endpoints,
    /// Name and process id of each part.
    pub parts: Vec<(String, u32)>,
}

impl State {
    /// The state of the stack in `dir`, if one runs there.
    ///
    /// # Errors
    /// If the folder cannot be read, or a stack is just starting or stopping there.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        if !locked(dir)? {
            return Ok(None);
        }
        match Self::written(dir) {
            Some(state) => Ok(Some(state)),
            None => bail!("a stack is just starting or stopping in {}: try again in a moment", dir.display()),
        }
    }

    /// What was written of the stack that was started last in `dir`; it may have died without a word.
    #[must_use]
    pub fn written(dir: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(dir.join(STATE)).ok()?).ok()
    }

    /// Forgets a stack that has died without a word.
    pub fn forget(dir: &Path) {
        let _ = fs::remove_file(dir.join(STATE));
    }
}

fn added(specs: &mut Vec<Spec>, (spec, url): (Spec, String)) -> String {
    specs.push(spec);
    url
}

async fn start_all(specs: Vec<Spec>, logs: &Path, say: &mut dyn FnMut(&str)) -> Result<Vec<Part>> {
    let mut parts = specs.into_iter().map(|spec| spec.start(logs)).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let ready = parts.iter_mut().map(move |part| {
        let told = told.clone();
        async move {
            part.ready().await?;
            let (name, pid, took_s) = (part.spec.name, part.pid(), begun.elapsed().as_secs_f32());
            let _ = told.send(format!("{name:<12} ready after {took_s:>4.1} s   pid {pid}"));
            Ok::<_, anyhow::Error>(())
        }
    });
    let heard = async {
        while let Some(line) = heard.recv().await {
            say(&line);
        }
    };
    let (result, ()) = tokio::join!(try_join_all(ready), heard);
    result?;
    Ok(parts)
}

/// The secrets of a stack, made once.
#[derive(Serialize, Deserialize)]
struct Secrets {
    gateway: String,
    database: String,
    codes: String,
}

impl Secrets {
    fn of(dir: &Path) -> Result<Self> {
        let path = dir.join("secrets.json");
        if let Ok(text) = fs::read_to_string(&path) {
            return serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()));
        }
        let secrets = Self { gateway: random_id()?, database: random_id()?, codes: random_id()? };
        write_secret(&path, &serde_json::to_string_pretty(&secrets)?)?;
        Ok(secrets)
    }
}

/// 128 random bits as 22 characters of base64url: also the form of a Kafka cluster id.
fn random_id() -> Result<String> {
    use base64::Engine as _;
    // Kafka refuses an id that begins with a dash, and a program would take it for an option.
    let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::<16>()?);
    if id.starts_with('-') { random_id() } else { Ok(id) }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn lock(site: &Site) -> Result<File> {
    let path = site.folder("")?.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is in use by another run: wait for it, or stop it (`make down`)", site.dir.display())
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("{} cannot be locked", path.display())),
    }
}

/// Locks the site's folder and removes what an earlier stack has left there.
fn emptied(site: &Site) -> Result<File> {
    let lock = lock(site)?;
    // Only now it is sure that nobody's data is in the way.
    for entry in fs::read_dir(&site.dir)? {
        let path = entry?.path();
        let removed = match path.file_name().is_some_and(|name| name == LOCK) {
            true => Ok(()),
            false if path.is_dir() => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    Ok(lock)
}

/// Whether a stack runs in `dir`.
fn locked(dir: &Path) -> Result<bool> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => Ok(matches!(file.try_lock(), Err(TryLockError::WouldBlock))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}
