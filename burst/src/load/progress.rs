//! What is going on, while it goes on.

use crate::load::outcome::Outcome;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Counters that the driver moves and the display reads.
#[derive(Debug, Default)]
pub struct Live {
    start: OnceLock<Instant>,
    sent: AtomicU64,
    admitted: AtomicU64,
    sold_out: AtomicU64,
    undecided: AtomicU64,
    done: AtomicU64,
    rows: AtomicU64,
}

impl Live {
    /// The burst begins at `moment`.
    pub fn start(&self, moment: Instant) {
        let _ = self.start.set(moment);
    }

    /// Time since the start; zero before it.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.get().map(|start| Instant::now().saturating_duration_since(*start)).unwrap_or_default()
    }

    /// A request leaves.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// An answer came; `last` if its claim will not be sent again.
    pub fn answered(&self, outcome: &Outcome, last: bool) {
        let counter = match outcome {
            Outcome::Admitted(_) => Some(&self.admitted),
            Outcome::SoldOut => Some(&self.sold_out),
            Outcome::Undecided { .. } => Some(&self.undecided),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
        if last {
            self.done.fetch_add(1, Relaxed);
        }
    }

    /// MySQL has this many rows.
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

/// Shows the counters on standard error: a bar on a terminal, else a line every two seconds.
pub struct Display {
    bar: Option<ProgressBar>,
    said: Instant,
    quiet: bool,
}

const LINE_EVERY: Duration = Duration::from_secs(2);

impl Display {
    /// A display for `claims` claims. `quiet` shows nothing.
    #[must_use]
    pub fn new(claims: u64, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(claims), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:16.cyan} {pos}/{len}  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, said: Instant::now(), quiet }
    }

    /// Shows how far it is.
    pub fn show(&mut self, live: &Live, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(live.done.load(Relaxed));
                bar.set_message(format!("{what}: {}", live.line()));
            }
            None if !self.quiet && self.said.elapsed() >= LINE_EVERY => {
                self.said = Instant::now();
                eprintln!("{:6.1} s  {what}: {}", live.elapsed().as_secs_f64(), live.line());
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
