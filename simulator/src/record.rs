//! What is written down during a run.

use crate::history::{Admitted, Answered};
use crate::plan::FaultKind;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// When runs begin, ms since the epoch.
pub const START_MS: u64 = 1_800_000_000_000;
/// The issuers' group.
pub const GROUP: &str = "dropgate-issuer";

/// A phase of a campaign's life, as Redis and MySQL have it: the columns of the coverage table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nobody is admitted yet.
    Before,
    /// Some slots are handed out.
    Admitting,
    /// All slots are handed out, rows are missing.
    SoldOut,
    /// All slots are rows.
    Settled,
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Before, Self::Admitting, Self::SoldOut, Self::Settled];
}

/// What is written down during a run.
#[derive(Default)]
pub struct Record {
    pub answers: Vec<Answered>,
    /// By campaign.
    pub admissions: Vec<Vec<Admitted>>,
    /// By campaign: users whose claim Redis has lost, with the time.
    pub lost: Vec<BTreeMap<String, u64>>,
    /// By campaign: users whose row MySQL has lost.
    pub rows_lost: Vec<BTreeSet<String>>,
    /// Campaigns of which a failover of MySQL has lost a raise.
    pub raises_lost: BTreeSet<usize>,
    pub struck: BTreeMap<(FaultKind, Phase), u64>,
    pub crashes: Vec<String>,
    pub trace: String,
    /// Lines of the trace that are kept; the digest is over all of them.
    pub keep_trace: bool,
    digest: u64,
}

impl Record {
    /// Of a run with so many campaigns.
    #[must_use]
    pub fn new(campaigns: usize, keep_trace: bool) -> Self {
        Self {
            admissions: vec![Vec::new(); campaigns],
            lost: vec![BTreeMap::new(); campaigns],
            rows_lost: vec![BTreeSet::new(); campaigns],
            raises_lost: BTreeSet::new(),
            keep_trace,
            ..Self::default()
        }
    }

    /// Adds a line to the trace.
    pub fn line(&mut self, at_ms: u64, text: &str) {
        for byte in at_ms.to_le_bytes().iter().chain(text.as_bytes()) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.keep_trace {
            let _ = writeln!(self.trace, "{at_ms:>8} {text}");
        }
    }

    /// A digest of every line of the trace.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }
}
