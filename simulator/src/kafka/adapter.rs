//! The decisions of the issuer's Kafka adapter in its rebalance callbacks, without Kafka.
//!
//! This mirrors `dropgate_issuer::consumer::Member`. It does no I/O: the caller executes the returned [`Step`]s.

use super::wire::Partitions;
use std::collections::BTreeMap;

/// Behaviours that the design may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterRules {
    /// At assign, new partitions are resumed, or paused if the application's last call was `pause`. Off: a partition
    /// keeps the flag that it had when it was assigned last.
    pub resume_on_assign: bool,
    /// At revoke, what is stored is committed, and the callback waits for it.
    pub commit_on_revoke: bool,
    /// At revoke, the application can learn from `revoked` which of its records in hand are void.
    pub report_revoked: bool,
}

impl Default for AdapterRules {
    /// As the issuer's adapter is.
    fn default() -> Self {
        Self { resume_on_assign: false, commit_on_revoke: true, report_revoked: true }
    }
}

/// A call to the Kafka client that a callback has to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Commit the stored offsets and wait for the answer.
    Commit,
    Pause(Partitions),
    Resume(Partitions),
}

/// A member's view of its part of the topic.
#[derive(Debug, Default)]
pub struct Adapter {
    rules: AdapterRules,
    owned: Partitions,
    revoked: Vec<i32>,
    all: usize,
    lag: Option<u64>,
    paused: bool,
}

impl Adapter {
    #[must_use]
    pub fn new(rules: AdapterRules, all: usize) -> Self {
        Self { rules, all, ..Self::default() }
    }

    /// In the callback, before the client assigns.
    pub fn assigned(&mut self, partitions: &Partitions) -> Vec<Step> {
        self.owned.extend(partitions);
        match (self.rules.resume_on_assign && !partitions.is_empty(), self.paused) {
            (false, _) => Vec::new(),
            (true, true) => vec![Step::Pause(partitions.clone())],
            (true, false) => vec![Step::Resume(partitions.clone())],
        }
    }

    /// In the callback, first. Lost partitions may have another owner already, so nothing is committed for them.
    #[must_use]
    pub fn revoking(&self, partitions: &Partitions, lost: bool) -> Vec<Step> {
        let commit = self.rules.commit_on_revoke && !lost && !partitions.is_empty();
        if commit { vec![Step::Commit] } else { Vec::new() }
    }

    /// In the callback, before the client unassigns.
    pub fn revoked(&mut self, partitions: &Partitions) {
        self.owned.retain(|partition| !partitions.contains(partition));
        if self.rules.report_revoked {
            self.revoked.extend(partitions);
        }
    }

    /// From the client's statistics: the number of partitions, and the lag of each partition where it is known.
    pub fn statistics(&mut self, all: usize, lags: &BTreeMap<i32, u64>) {
        self.all = self.all.max(all);
        self.lag = Some(lags.iter().filter(|(partition, _)| self.owned.contains(partition)).map(|(_, lag)| lag).sum());
    }

    /// The application has called `pause` or `resume`.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub fn take_revoked(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.revoked)
    }

    #[must_use]
    pub fn owned(&self) -> &Partitions {
        &self.owned
    }

    #[must_use]
    pub fn all(&self) -> usize {
        self.all
    }

    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        self.lag
    }
}
