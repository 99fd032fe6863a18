//! A child process with a log file, a readiness probe and a way to stop it.

use crate::probe::Probe;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time from the start of a process until its probe must succeed.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time that a dropped process has to end before it is killed.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of checks while a process starts or stops.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How to run a process.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Also the name of its log file.
    pub name: &'static str,
    pub program: PathBuf,
    /// Without secrets: every user of the machine can read them.
    pub args: Vec<OsString>,
    /// Added to this process's environment; of two entries with one name the later counts.
    pub env: Vec<(&'static str, String)>,
    pub cwd: PathBuf,
    pub probe: Probe,
    /// Time that it has to end after SIGTERM before it is killed.
    pub stop_timeout: Duration,
}

/// A running process. Dropping it ends it within seconds; [`Process::stop`] gives it its whole stop timeout.
#[derive(Debug)]
pub struct Process {
    pub spec: ProcessSpec,
    log: PathBuf,
    /// Offset in the log at which this start begins.
    log_start: u64,
    child: Child,
    ended: bool,
}

impl ProcessSpec {
    /// Starts the process with its output appended to `log_dir/name.log`. Does not wait until it is ready.
    pub fn start(self, log_dir: &Path) -> Result<Process> {
        fs::create_dir_all(log_dir)?;
        let log = log_dir.join(format!("{}.log", self.name));
        let out = OpenOptions::new().create(true).append(true).open(&log)?;
        let log_start = out.metadata()?.len();
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A process group of its own: ^C reaches only the supervisor, which stops the processes in order, and
            // a signal to the group also reaches what the process has started.
            .process_group(0);
        die_with_parent(&mut command);
        let child =
            command.spawn().with_context(|| format!("cannot start {}: {}", self.name, self.program.display()))?;
        Ok(Process { spec: self, log, log_start, child, ended: false })
    }

    /// Starts the process and waits until it is ready.
    pub async fn start_ready(self, log_dir: &Path) -> Result<Process> {
        let mut process = self.start(log_dir)?;
        process.ready().await?;
        Ok(process)
    }
}

/// Makes the kernel end the child if this process dies without stopping it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "pre_exec is unsafe by its signature")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

impl Process {
    /// Waits until the probe succeeds. An error contains the end of the log.
    pub async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.reap_group();
                bail!("{} exited while starting ({status}).{}", self.spec.name, self.log_end());
            }
            let output = self.output();
            if self.spec.probe.is_ready(&output).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {} s.{}", self.spec.name, READY_TIMEOUT.as_secs(), self.log_end());
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once the process has ended.
    pub fn exit_status(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            self.reap_group();
        }
        Ok(status)
    }

    /// Ends the process: SIGTERM, and SIGKILL after the stop timeout. Returns its exit status.
    pub async fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + self.spec.stop_timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.reap_group();
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                self.ended = true;
                return Ok(self.child.wait()?);
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Kills the process at once, like a crash, and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.ended = true;
        self.child.wait()?;
        Ok(())
    }

    /// Kills what the ended process has started and left behind.
    fn reap_group(&mut self) {
        self.signal(Signal::KILL);
        self.ended = true;
    }

    /// Sends a signal to the process and to all that it has started.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = pid(self.child.id()) {
            // An error means that it has ended.
            let _ = kill_process_group(group, signal);
            if signal == Signal::TERM {
                // A frozen process gets the signal only when it continues.
                let _ = kill_process_group(group, Signal::CONT);
            }
        }
    }

    /// What the process has printed since this start.
    #[must_use]
    pub fn output(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let end = lines.split_at(lines.len().saturating_sub(12)).1.join("\n  ");
        format!(" Last lines of {}:\n  {end}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // It has a moment to end what it has started.
        self.signal(Signal::TERM);
        let deadline = Instant::now() + DROP_TIMEOUT.min(self.spec.stop_timeout);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A process id in the form that signals need.
#[must_use]
pub fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}
