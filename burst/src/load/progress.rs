//! Progress of a run, on standard error.

use super::outcome::ClaimOutcome;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Counters that the driver and the row watcher write and the display reads.
#[derive(Debug, Default)]
pub struct LiveCounters {
    start: OnceLock<Instant>,
    sent: AtomicU64,
    admitted: AtomicU64,
    sold_out: AtomicU64,
    undecided: AtomicU64,
    done: AtomicU64,
    rows: AtomicU64,
}

impl LiveCounters {
    pub fn start(&self, at: Instant) {
        let _ = self.start.set(at);
    }

    /// Time since the start; zero before it.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.get().map(|start| Instant::now().saturating_duration_since(*start)).unwrap_or_default()
    }

    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// Counts a response; `last` if its claim is not retried.
    pub fn answered(&self, outcome: &ClaimOutcome, last: bool) {
        let counter = match outcome {
            ClaimOutcome::Admitted(_) => Some(&self.admitted),
            ClaimOutcome::SoldOut => Some(&self.sold_out),
            ClaimOutcome::Undecided { .. } => Some(&self.undecided),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
        if last {
            self.done.fetch_add(1, Relaxed);
        }
    }

    pub fn rows(&self, rows: u64) {
        self.rows.store(rows, Relaxed);
    }

    fn line(&self) -> String {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        format!(
            "sent {}  admitted {}  sold out {}  undecided {}  rows {}",
            get(&self.sent),
            get(&self.admitted),
            get(&self.sold_out),
            get(&self.undecided),
            get(&self.rows)
        )
    }
}

/// Shows the counters: a bar on a terminal, otherwise a line every two seconds.
pub struct ProgressDisplay {
    bar: Option<ProgressBar>,
    last_line: Instant,
    quiet: bool,
}

const LINE_EVERY: Duration = Duration::from_secs(2);

impl ProgressDisplay {
    /// `quiet` shows nothing.
    #[must_use]
    pub fn new(claims: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(claims), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:16.cyan} {pos}/{len}  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last_line: Instant::now(), quiet }
    }

    pub fn show(&mut self, live: &LiveCounters, phase: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(live.done.load(Relaxed));
                bar.set_message(format!("{phase}: {}", live.line()));
            }
            None if !self.quiet && self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("{:6.1} s  {phase}: {}", live.elapsed().as_secs_f64(), live.line());
            }
            None => {}
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
