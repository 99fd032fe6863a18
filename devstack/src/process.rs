//! One part of the stack: a child process with a log file, a readiness probe and a way to stop it.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::probe::Probe;

/// How long a part may take from its start to its first good answer.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a part may take to end when the command is interrupted.
const DROP_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at a part that is starting or stopping.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How to run a part.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name for people, and of its log file.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments. No secrets: everybody on the machine can read them.
    pub args: Vec<OsString>,
    /// Environment on top of ours.
    pub env: Vec<(&'static str, String)>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// When it is ready.
    pub probe: Probe,
    /// How long it may take to stop by itself before it is killed.
    pub stop_within: Duration,
}

/// A running part. Dropping it ends it within seconds; [`Part::stop`] gives it all the time it needs.
#[derive(Debug)]
pub struct Part {
    /// How it was started, and is started again.
    pub spec: Spec,
    log: PathBuf,
    /// Where in the log this start begins.
    log_start: u64,
    child: Child,
    stopped: bool,
}

impl Spec {
    /// Starts the part with its output appended to `log_dir/name.log`. Does not wait for readiness.
    ///
    /// # Errors
    /// If the program cannot be run; the message names it.
    pub fn start(self, log_dir: &Path) -> Result<Part> {
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
            // A group of its own: ^C reaches only us, and we stop the parts in order. It also takes
            // along whatever the part has started itself.
            .process_group(0);
        die_with_parent(&mut command);
        let child =
            command.spawn().with_context(|| format!("{} cannot be started: {}", self.name, self.program.display()))?;
        Ok(Part { spec: self, log, log_start, child, stopped: false })
    }
}

/// Asks the kernel to end the child if we die without having stopped it.
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

impl Part {
    /// Waits until the probe is content.
    ///
    /// # Errors
    /// If the process ends first or the time is over; the message shows the end of its log.
    pub async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.buried();
                bail!("{} ended while starting ({status}).{}", self.spec.name, self.log_end());
            }
            let output = self.output();
            if self.spec.probe.content(&output).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {} s.{}", self.spec.name, READY_WITHIN.as_secs(), self.log_end());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let ended = self.child.try_wait()?;
        if ended.is_some() {
            self.buried();
        }
        Ok(ended)
    }

    /// Ends the process: SIGTERM, and SIGKILL when its time is over. Returns its exit status.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub async fn stop(mut self) -> Result<std::process::ExitStatus> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + self.spec.stop_within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.buried();
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.signal(Signal::KILL);
                self.stopped = true;
                return Ok(self.child.wait()?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Kills the process at once, as a crash would, and waits for its end.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.stopped = true;
        self.child.wait()?;
        Ok(())
    }

    /// The process has ended; what it may have started and left behind ends too.
    fn buried(&mut self) {
        self.signal(Signal::KILL);
        self.stopped = true;
    }

    /// Sends a signal to the process and all it has started.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone already, which is as well.
            let _ = kill_process_group(group, signal);
        }
    }

    /// What the part has printed since this start.
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
        format!(" The end of {}:\n  {end}", self.log.display())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        // It gets a moment to end what it has started itself.
        self.signal(Signal::TERM);
        let deadline = Instant::now() + DROP_WITHIN.min(self.spec.stop_within);
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
