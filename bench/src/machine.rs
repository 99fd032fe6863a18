//! The machine: which core the measured program has for itself, and what its processes use.

use anyhow::{Context as _, Result};
#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// The cores, split between the measured program and everything else.
#[derive(Debug, Clone)]
pub struct Cores {
    /// Cores of the measured program and all others; none on a machine with one core.
    #[cfg(target_os = "linux")]
    split: Option<(CpuSet, CpuSet)>,
}

#[cfg(target_os = "linux")]
impl Cores {
    /// The first core is for the measured program.
    pub fn split() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let Some(first) = cores.next().filter(|_| all.count() > 1) else { return Ok(Self { split: None }) };
        let (mut measured, mut others) = (CpuSet::new(), CpuSet::new());
        measured.set(first);
        cores.for_each(|core| others.set(core));
        Ok(Self { split: Some((measured, others)) })
    }

    /// Binds this thread, and what it starts from now on, to the core of the measured program.
    pub fn use_measured(&self) -> Result<()> {
        self.split.as_ref().map_or(Ok(()), |(measured, _)| bind(measured))
    }

    /// Binds this thread, and what it starts from now on, to the other cores.
    pub fn use_others(&self) -> Result<()> {
        self.split.as_ref().map_or(Ok(()), |(_, others)| bind(others))
    }

    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self.split {
            Some(_) => "the measured program alone on one core, load and servers on the others",
            None => "all on one core",
        }
    }
}

#[cfg(target_os = "linux")]
fn bind(cores: &CpuSet) -> Result<()> {
    sched_setaffinity(None, cores).context("cannot bind this thread to a core")
}

/// Other systems cannot bind a thread to a core.
#[cfg(not(target_os = "linux"))]
impl Cores {
    pub fn split() -> Result<Self> {
        Ok(Self {})
    }

    pub fn use_measured(&self) -> Result<()> {
        Ok(())
    }

    pub fn use_others(&self) -> Result<()> {
        Ok(())
    }

    #[must_use]
    pub fn describe(&self) -> &'static str {
        "no program bound to a core"
    }
}

/// What a process has used of the processors so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CpuTime {
    /// Time on a core, in seconds.
    pub used_s: f64,
    /// Time in which it was ready to run while another process had the core, in seconds.
    pub waited_s: f64,
}

impl CpuTime {
    /// Of all threads of a process; zero if the system has no such counters.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
        texts.fold(Self::default(), |sum, text| {
            let mut ns = text.split_whitespace().map(|field| field.parse::<f64>().unwrap_or(0.0));
            let mut seconds = || ns.next().unwrap_or(0.0) / 1e9;
            Self { used_s: sum.used_s + seconds(), waited_s: sum.waited_s + seconds() }
        })
    }

    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { used_s: self.used_s - before.used_s, waited_s: self.waited_s - before.waited_s }
    }
}

/// Resident memory of a process in MB (10^6 bytes): (now, maximum so far).
#[must_use]
pub fn rss_mb(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0 / 1e6)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// The machine in one line.
#[must_use]
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    // All cores of the machine: this thread may already be bound to some of them.
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores, {}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_time_and_memory() {
        use std::time::{Duration, Instant};
        let pid = std::process::id();
        let before = CpuTime::of(pid);
        let deadline = Instant::now() + Duration::from_secs(20);
        while CpuTime::of(pid).since(before).used_s < 0.03 {
            assert!(Instant::now() < deadline, "{:?}", CpuTime::of(pid));
        }
        let (now, most) = rss_mb(pid).unwrap();
        assert!(now > 0.5 && most >= now, "{now} {most}");
        assert_eq!(CpuTime::of(u32::MAX), CpuTime::default());
    }
}
