//! Starts, supervises and stops the processes of a stack.

use crate::cron;
use crate::endpoints::Endpoints;
use crate::paths::Paths;
use crate::ports;
use crate::process::{Process, ProcessSpec};
use crate::secrets::Secrets;
use crate::servers::kafka::{self, ProxiedListener};
use crate::servers::{mysql, redis};
use crate::services::{gate, issuer, rest_proxy};
use crate::settings::env_override;
use crate::state::{FolderLock, State};
use crate::workerd::{Code, Worker};
use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

/// A stack with this many restarts within a minute is given up.
const RESTARTS_PER_MINUTE: usize = 10;
/// How often the supervisor checks the processes.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// A running stack.
pub struct Stack {
    pub endpoints: Endpoints,
    pub paths: Paths,
    /// In the order of their start: each depends only on earlier ones.
    processes: Vec<Process>,
    /// The restarts of the last minute.
    restarts: Vec<Instant>,
    _lock: FolderLock,
}

/// What to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    /// The servers and REST proxies.
    Servers {
        database: bool,
    },
}

impl Stack {
    /// Starts everything and waits until each process is ready. `report` gets one line per process.
    ///
    /// Servers that the user already runs are used instead: `REDIS_URL`, `UPSTASH_REDIS_REST_URL` (with
    /// `UPSTASH_REDIS_REST_TOKEN`), `KAFKA_BOOTSTRAP`, `KAFKA_REST_URL` (with `KAFKA_REST_TOKEN`),
    /// `DATABASE_URL`.
    ///
    /// # Errors
    /// If a process does not become ready; the others are stopped. The message contains the end of its log.
    pub async fn start(paths: Paths, report: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = FolderLock::acquire(&paths)?;
        Self::start_locked(paths, lock, Scope::All, &[], report).await
    }

    /// As [`Stack::start`], in a folder that is emptied first.
    pub async fn start_anew(paths: Paths, report: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = FolderLock::acquire_and_empty(&paths)?;
        Self::start_locked(paths, lock, Scope::All, &[], report).await
    }

    /// Starts only the servers and REST proxies, in a folder that is emptied first: a benchmark starts its own
    /// gates and issuers. Without `database` there is none, and its URL is empty.
    pub async fn start_servers(paths: Paths, database: bool, report: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = FolderLock::acquire_and_empty(&paths)?;
        Self::start_locked(paths, lock, Scope::Servers { database }, &[], report).await
    }

    /// As [`Stack::start_servers`] with a database, and a Kafka that has `listeners` besides its own.
    pub async fn start_servers_with(
        paths: Paths,
        listeners: &[ProxiedListener],
        report: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let lock = FolderLock::acquire_and_empty(&paths)?;
        Self::start_locked(paths, lock, Scope::Servers { database: true }, listeners, report).await
    }

    async fn start_locked(
        paths: Paths,
        lock: FolderLock,
        scope: Scope,
        listeners: &[ProxiedListener],
        report: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        State::remove(&paths.dir);
        let mut tries = 0;
        let (endpoints, processes) = loop {
            match start_processes(&paths, scope, listeners, report).await {
                // Another process can take a free port between its choice and its use.
                Err(e) if tries < 2 && format!("{e:#}").to_lowercase().contains("address already in use") => {
                    tries += 1;
                    report("another process took a port; trying again with other ports");
                }
                result => break result?,
            }
        };
        let stack = Self { endpoints, paths, processes, restarts: Vec::new(), _lock: lock };
        stack.write_state()?;
        Ok(stack)
    }

    /// Runs an `issuer` command with the stack's settings and returns its output.
    pub fn run_issuer(&self, args: &[&str]) -> Result<String> {
        issuer::run(&self.paths, &self.endpoints, args)
    }

    /// `issuer run` as a process beside the stack's own, and the URL of its health and metrics on a free port.
    /// `env` overrides the stack's settings.
    pub fn issuer_spec(&self, name: &'static str, env: &[(&'static str, &str)]) -> Result<(ProcessSpec, String)> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let spec = issuer::spec(&self.paths, &self.endpoints, name, &listen, env)?;
        Ok((spec, format!("http://{listen}")))
    }

    /// Starts a gate beside the stack's own, on workerd. `vars` override the stack's settings; `bindings` as in
    /// [`Worker::start`].
    pub async fn gate(&self, name: &'static str, vars: &[(&str, &str)], bindings: &[&str]) -> Result<Worker> {
        let settings = self.endpoints.gate_vars();
        let kept = settings.into_iter().filter(|(name, _)| !vars.iter().any(|(other, _)| other == name));
        let vars: Vec<_> = kept.chain(vars.iter().copied()).collect();
        Worker::start(&self.paths, Code::Gate, name, &vars, bindings).await
    }

    /// Does once what Cloudflare's cron does.
    pub async fn run_cron(&self) -> Result<()> {
        cron::run_once(&self.endpoints.edge_url).await
    }

    /// Restarts every process that ends, and runs the cron. Returns only on an error.
    ///
    /// # Errors
    /// If processes end again and again.
    pub async fn supervise(&mut self, report: &mut dyn FnMut(&str)) -> Result<()> {
        let edge_url = self.endpoints.edge_url.clone();
        let watch = async {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                self.restart_ended(report).await?;
            }
        };
        tokio::select! {
            () = cron::run_forever(&edge_url) => Ok(()),
            result = watch => result,
        }
    }

    /// Those that have ended start at the same time: none waits until another is ready.
    async fn restart_ended(&mut self, report: &mut dyn FnMut(&str)) -> Result<()> {
        let logs = self.paths.logs();
        let mut starting = Vec::new();
        for process in &mut self.processes {
            let Some(status) = process.exit_status()? else { continue };
            let name = process.spec.name;
            self.restarts.retain(|when| when.elapsed() < Duration::from_secs(60));
            if self.restarts.len() >= RESTARTS_PER_MINUTE {
                bail!(
                    "{name} exited ({status}) after {RESTARTS_PER_MINUTE} restarts in a minute; see {}",
                    logs.display()
                );
            }
            self.restarts.push(Instant::now());
            report(&format!("{name} exited ({status}); restarting it"));
            *process = process.spec.clone().start(&logs)?;
            starting.push(process);
        }
        if starting.is_empty() {
            return Ok(());
        }
        all_ready(starting, report).await?;
        self.write_state()
    }

    #[must_use]
    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|process| process.spec.name == name)
    }

    /// Hands a process over to the caller, who supervises and stops it from now on.
    pub fn take(&mut self, name: &str) -> Result<Process> {
        let at = self.processes.iter().position(|process| process.spec.name == name);
        at.map(|at| self.processes.remove(at)).with_context(|| format!("this stack has no process {name}"))
    }

    /// Stops a process; the supervisor does not restart it.
    pub async fn stop_process(&mut self, name: &str) -> Result<()> {
        self.take(name)?.stop().await.map(drop)
    }

    /// Stops a process (kills it if `kill`), runs `meanwhile` without it, and starts it again.
    pub async fn without<T>(
        &mut self,
        name: &str,
        kill: bool,
        meanwhile: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let process = self.take(name)?;
        let spec = process.spec.clone();
        if kill {
            process.kill()?
        } else {
            process.stop().await.map(drop)?
        }
        let result = meanwhile.await;
        self.processes.push(spec.start_ready(&self.paths.logs()).await?);
        result
    }

    /// Stops all processes, in the reverse order of their start.
    pub async fn stop(mut self) -> Result<()> {
        State::remove(&self.paths.dir);
        while let Some(process) = self.processes.pop() {
            process.stop().await?;
        }
        Ok(())
    }

    fn write_state(&self) -> Result<()> {
        let processes = self.processes.iter().map(|process| (process.spec.name.to_owned(), process.pid())).collect();
        let state = State { supervisor: std::process::id(), endpoints: self.endpoints.clone(), processes };
        state.write(&self.paths.dir)
    }
}

/// When the stack is dropped, all processes get SIGTERM first, so that they end at the same time.
impl Drop for Stack {
    fn drop(&mut self) {
        for process in &self.processes {
            process.signal(Signal::TERM);
        }
    }
}

/// Starts what `scope` needs and the user does not run already.
async fn start_processes(
    paths: &Paths,
    scope: Scope,
    listeners: &[ProxiedListener],
    report: &mut dyn FnMut(&str),
) -> Result<(Endpoints, Vec<Process>)> {
    let secrets = Secrets::of(&paths.dir)?;

    let mut servers = Vec::new();
    let redis_rest = env_override("UPSTASH_REDIS_REST_URL");
    let redis_url = match (env_override("REDIS_URL"), &redis_rest) {
        (Some(url), _) => url,
        (None, Some(_)) => String::new(),
        (None, None) => add(&mut servers, redis::spec(paths)?),
    };
    let kafka_bootstrap = match env_override("KAFKA_BOOTSTRAP") {
        Some(bootstrap) => bootstrap,
        None => add(&mut servers, kafka::spec(paths, listeners)?),
    };
    let database_url = match env_override("DATABASE_URL") {
        _ if scope == (Scope::Servers { database: false }) => String::new(),
        Some(url) => url,
        None => add(&mut servers, mysql::spec(paths, &secrets.database)?),
    };
    let mut processes = start_all(servers, &paths.logs(), report).await?;

    let mut services = Vec::new();
    let (redis_rest_url, redis_rest_token) = match redis_rest {
        Some(url) => {
            let token = env_override("UPSTASH_REDIS_REST_TOKEN");
            (url, token.context("UPSTASH_REDIS_REST_TOKEN is not set; UPSTASH_REDIS_REST_URL needs it")?)
        }
        None => {
            let token = secrets.rest_proxies.clone();
            (add(&mut services, rest_proxy::redis(paths, &redis_url, &token)?), token)
        }
    };
    let (kafka_rest_url, kafka_rest_token) = match env_override("KAFKA_REST_URL") {
        Some(url) => (url, env_override("KAFKA_REST_TOKEN").unwrap_or_default()),
        None => {
            let token = secrets.rest_proxies;
            (add(&mut services, rest_proxy::kafka(paths, &kafka_bootstrap, &token)?), token)
        }
    };
    let issuer_listen = format!("127.0.0.1:{}", ports::choose("ISSUER_PORT", None)?);
    let mut endpoints = Endpoints {
        edge_url: String::new(),
        redis_rest_url,
        redis_rest_token,
        kafka_bootstrap,
        kafka_rest_url,
        kafka_rest_token,
        database_url,
        code_secret: secrets.codes,
        issuer_url: format!("http://{issuer_listen}"),
    };
    if scope == Scope::All {
        endpoints.edge_url = add(&mut services, gate::spec(paths, &endpoints)?);
        // This database has no other users; and next to the crowd, on the same machine, it always seems busy.
        let budget = env_override("WRITE_BUDGET").unwrap_or_else(|| "unlimited".to_owned());
        services.push(issuer::spec(paths, &endpoints, "issuer", &issuer_listen, &[("WRITE_BUDGET", &budget)])?);
    }
    if !endpoints.database_url.is_empty() {
        issuer::run(paths, &endpoints, &["migrate"])?;
    }
    processes.extend(start_all(services, &paths.logs(), report).await?);
    Ok((endpoints, processes))
}

fn add(specs: &mut Vec<ProcessSpec>, (spec, address): (ProcessSpec, String)) -> String {
    specs.push(spec);
    address
}

/// Starts the processes at the same time and waits until all are ready.
async fn start_all(specs: Vec<ProcessSpec>, logs: &Path, report: &mut dyn FnMut(&str)) -> Result<Vec<Process>> {
    let mut processes = specs.into_iter().map(|spec| spec.start(logs)).collect::<Result<Vec<_>>>()?;
    all_ready(&mut processes, report).await?;
    Ok(processes)
}

/// Waits until all are ready.
async fn all_ready(processes: impl IntoIterator<Item = &mut Process>, report: &mut dyn FnMut(&str)) -> Result<()> {
    let begun = Instant::now();
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let ready = processes.into_iter().map(move |process| {
        let sender = sender.clone();
        async move {
            process.ready().await?;
            let (name, pid, took_s) = (process.spec.name, process.pid(), begun.elapsed().as_secs_f32());
            let _ = sender.send(format!("{name:<12} ready after {took_s:>4.1} s   pid {pid}"));
            Ok::<_, anyhow::Error>(())
        }
    });
    let reporting = async {
        while let Some(line) = lines.recv().await {
            report(&line);
        }
    };
    let (result, ()) = tokio::join!(try_join_all(ready), reporting);
    result.map(drop)
}
