//! The machine: which cores the measured program has for itself, and what its processes use.

use anyhow::{Context as _, Result};
use std::fs;

/// The cores, split between the measured program and everything around it.
#[derive(Debug, Clone)]
pub struct Cores {
    /// Cores of the measured program and of all others; none where they cannot be told apart.
    #[cfg(target_os = "linux")]
    split: Option<(rustix::thread::CpuSet, rustix::thread::CpuSet)>,
}

#[cfg(target_os = "linux")]
impl Cores {
    /// The first core for the measured program, the others for the load and the servers. With one
    /// core there is nothing to split.
    ///
    /// # Errors
    /// If the system does not tell which cores there are.
    pub fn split() -> Result<Self> {
        use rustix::thread::{CpuSet, sched_getaffinity};
        let all = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
        let Some(first) = cores.next().filter(|_| all.count() > 1) else { return Ok(Self { split: None }) };
        let (mut measured, mut others) = (CpuSet::new(), CpuSet::new());
        measured.set(first);
        cores.for_each(|core| others.set(core));
        Ok(Self { split: Some((measured, others)) })
    }

    /// What this thread starts from now on runs on the core of the measured program.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn measured(&self) -> Result<()> {
        self.take(|(measured, _)| measured)
    }

    /// What this thread starts from now on, and the thread itself, runs on the other cores.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn others(&self) -> Result<()> {
        self.take(|(_, others)| others)
    }

    fn take<'a>(
        &'a self,
        which: impl Fn(&'a (rustix::thread::CpuSet, rustix::thread::CpuSet)) -> &'a rustix::thread::CpuSet,
    ) -> Result<()> {
        let Some(split) = &self.split else { return Ok(()) };
        rustix::thread::sched_setaffinity(None, which(split)).context("this thread cannot be bound to a core")
    }

    /// Whether the measured program has a core for itself, in words.
    #[must_use]
    pub fn described(&self) -> &'static str {
        match self.split {
            Some(_) => "the measured program alone on one core, load and servers on the others",
            None => "all on one core",
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Cores {
    /// Cores cannot be told apart here.
    ///
    /// # Errors
    /// None.
    pub fn split() -> Result<Self> {
        Ok(Self {})
    }

    /// Does nothing here.
    ///
    /// # Errors
    /// None.
    pub fn measured(&self) -> Result<()> {
        Ok(())
    }

    /// Does nothing here.
    ///
    /// # Errors
    /// None.
    pub fn others(&self) -> Result<()> {
        Ok(())
    }

    /// Whether the measured program has a core for itself, in words.
    #[must_use]
    pub fn described(&self) -> &'static str {
        "no program bound to a core"
    }
}

/// What a process has had of the processors so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Processor {
    /// Time on a core, in seconds.
    pub used_s: f64,
    /// Time in which it could have run and something else had the core, in seconds.
    pub waited_s: f64,
}

impl Processor {
    /// Of all threads of a process; zero where the system does not tell.
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

    /// What came since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { used_s: self.used_s - before.used_s, waited_s: self.waited_s - before.waited_s }
    }
}

/// Memory that a process holds, in MB (10^6 bytes): (now, the most so far).
#[must_use]
pub fn rss_mb(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0 / 1e6)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// The machine in a line.
#[must_use]
pub fn described() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    // All there are: by now this thread is bound to some of them.
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!("{model}, {cores} cores, {}", std::env::consts::OS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_time_and_memory() {
        let mut n = 0_u64;
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            n = std::hint::black_box(n + 1);
        }
        assert!(Processor::of(std::process::id()).used_s >= 0.03);
        let (now, most) = rss_mb(std::process::id()).unwrap();
        assert!(now > 0.5 && most >= now, "{now} {most}");
        assert_eq!(Processor::of(u32::MAX), Processor::default());
    }
}
