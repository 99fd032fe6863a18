//! The application in a member's process, on the issuer's port: it polls continuously and executes commands.

use dropgate_issuer::consume::ports::RecordSource;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tokio::sync::{mpsc, oneshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// No effect.
    Report,
    Pause,
    /// Pause as soon as so many records were seen.
    PauseAt(usize),
    Resume,
    Store(i32, i64),
    /// Whether each record is stored as soon as it is seen.
    Settle(bool),
    /// Whether the consumer is polled.
    Poll(bool),
    /// Forget what was seen and revoked.
    Forget,
    /// Leave the group in order, and end.
    Leave,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub owned: usize,
    /// Offsets by partition, in the order of arrival.
    pub seen: BTreeSet<(i32, Vec<i64>)>,
    pub revoked: BTreeSet<i32>,
    pub lag: Option<u64>,
    /// Whether the last store failed.
    pub store_failed: bool,
    pub fatal: bool,
}

impl Report {
    pub fn seen(&self, partition: i32) -> Vec<i64> {
        self.seen.iter().find(|(id, _)| *id == partition).map(|(_, offsets)| offsets.clone()).unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.seen.iter().map(|(_, offsets)| offsets.len()).sum()
    }

    pub fn partitions(&self) -> Vec<i32> {
        self.seen.iter().map(|(partition, _)| *partition).collect()
    }
}

pub type Call = (Command, oneshot::Sender<Report>);

/// Runs until [`Command::Leave`]; then returns the source, and where to confirm.
pub async fn run<S: RecordSource>(
    source: S,
    mut commands: mpsc::UnboundedReceiver<Call>,
) -> Option<(S, oneshot::Sender<Report>)> {
    let mut seen: Vec<(i32, i64)> = Vec::new();
    let mut report = Report::default();
    let (mut settle, mut polls, mut pause_at) = (true, true, usize::MAX);
    loop {
        tokio::select! {
            biased;
            call = commands.recv() => {
                let (command, reply) = call?;
                match command {
                    Command::Report => {}
                    Command::Pause => source.pause(),
                    Command::PauseAt(count) => pause_at = count,
                    Command::Resume => source.resume(),
                    Command::Store(partition, next) => report.store_failed = source.store(&[(partition, next)]).is_err(),
                    Command::Settle(on) => settle = on,
                    Command::Poll(on) => polls = on,
                    Command::Forget => {
                        seen.clear();
                        report.revoked.clear();
                    }
                    Command::Leave => return Some((source, reply)),
                }
                report.revoked.extend(source.revoked());
                report.owned = source.partitions().owned;
                report.lag = source.lags().iter().filter_map(|(_, lag)| *lag).reduce(|sum, lag| sum + lag);
                let partitions: BTreeSet<i32> = seen.iter().map(|(partition, _)| *partition).collect();
                let of = |id: i32| (id, seen.iter().filter(|(p, _)| *p == id).map(|(_, offset)| *offset).collect());
                report.seen = partitions.into_iter().map(of).collect();
                let _ = reply.send(report.clone());
            }
            received = source.recv(), if polls => match received {
                Ok(delivery) => {
                    seen.push((delivery.partition, delivery.offset));
                    if seen.len() == pause_at {
                        source.pause();
                    }
                    if settle {
                        let _ = source.store(&[(delivery.partition, delivery.offset + 1)]);
                    }
                }
                Err(fault) => {
                    if !fault.retry {
                        report.fatal = true;
                        polls = false;
                    }
                }
            },
        }
    }
}
