//! What Linux knows of this process, under the names that all Prometheus exporters use. Elsewhere nothing is shown.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::fs;

/// Ticks per second of the times in /proc: the same on every architecture of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads /proc at each scrape.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut add = |name: &str, help: &str, unit: Option<Unit>, value: Option<f64>| match value {
            None => Ok(()),
            Some(value) => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), gauge.metric_type())?)
            }
        };
        add("process_resident_memory", "Resident memory", Some(Unit::Bytes), resident_bytes())?;
        add("process_open_fds", "Open file descriptors", None, open_files())?;
        add("process_max_fds", "Limit of open file descriptors", None, max_files())?;
        let stat = Stat::read();
        let started = stat.as_ref().and_then(Stat::started);
        add("process_start_time", "Start of the process", Some(Unit::Seconds), started)?;
        if let Some(stat) = stat {
            let spent = ConstCounter::new(stat.cpu_ticks / TICKS_PER_SECOND);
            let unit = Some(&Unit::Seconds);
            spent.encode(encoder.encode_descriptor("process_cpu", "Processor time", unit, spent.metric_type())?)?;
        }
        Ok(())
    }
}

/// What is used of /proc/self/stat.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    /// Since the machine was started.
    started_ticks: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// proc_pid_stat(5). The name of the program may hold blanks and brackets.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let number = |nth: usize| fields.split_ascii_whitespace().nth(nth)?.parse::<f64>().ok();
        // The fields 14, 15 and 22; the first one here is number 3.
        Some(Self { cpu_ticks: number(11)? + number(12)?, started_ticks: number(19)? })
    }

    fn started(&self) -> Option<f64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        Some(field(&stat, "btime")? + self.started_ticks / TICKS_PER_SECOND)
    }
}

/// The number after `name`, on a line that begins with it.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim_start_matches(':').split_ascii_whitespace().next()?.parse().ok()
}

fn resident_bytes() -> Option<f64> {
    Some(field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS")? * 1024.0)
}

fn open_files() -> Option<f64> {
    // One of them is that of this look.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_files() -> Option<f64> {
    field(&fs::read_to_string("/proc/self/limits").ok()?, "Max open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 250 150 5 6 20 0 9 0 12345 1 2";
        assert_eq!(Stat::parse(stat), Some(Stat { cpu_ticks: 400.0, started_ticks: 12_345.0 }));
        assert_eq!(Stat::parse("1 (a) S 0"), None);
        assert_eq!(field("VmPeak:\t 1 kB\nVmRSS:\t   2048 kB\n", "VmRSS"), Some(2_048.0));
        assert_eq!(field("Max open files            1024   4096   files", "Max open files"), Some(1_024.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_shown() {
        let started = Stat::read().unwrap().started().unwrap();
        assert!(started > 1.6e9, "{started}");
        assert!(resident_bytes().unwrap() > 1e6 && open_files().unwrap() >= 3.0 && max_files().unwrap() > 3.0);
    }
}
