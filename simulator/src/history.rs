//! What was answered to whom, and what became true: all that the oracle needs.

use dropgate_shared::claim::ClaimEntry;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// An answer, as a person understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The user holds a claim.
    Holds {
        slot: u32,
        /// `admitted`, `issued` or `refused`.
        status: String,
        code: Option<String>,
    },
    SoldOut,
    Closed,
    NotOpen,
    Paused,
    UnknownCampaign,
    NoClaim,
    /// 503, or no answer: nothing is known.
    Unknown,
    /// A campaign, to those who look.
    Campaign,
    /// Anything else: status and body.
    Unexpected(String),
}

impl Answer {
    /// What a person understands of a response.
    #[must_use]
    pub fn read(status: u16, text: &str) -> Self {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let field = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
        let problem = field("type").strip_prefix("urn:dropgate:problem:").unwrap_or_default();
        match (status, problem) {
            (200 | 202, "") if body.get("slot").is_some() => Self::Holds {
                slot: body.get("slot").and_then(Value::as_u64).and_then(|slot| u32::try_from(slot).ok()).unwrap_or(0),
                status: field("status").to_owned(),
                code: body.get("code").and_then(Value::as_str).map(str::to_owned),
            },
            (200, "") if body.get("capacity").is_some() => Self::Campaign,
            (410, "sold-out") => Self::SoldOut,
            (410, "closed") => Self::Closed,
            (403, "not-open") => Self::NotOpen,
            (503, "paused") => Self::Paused,
            (404, "unknown-campaign") => Self::UnknownCampaign,
            (404, "no-claim") => Self::NoClaim,
            (503, "unavailable" | "misconfigured") => Self::Unknown,
            _ => Self::Unexpected(format!("{status} {text}")),
        }
    }

    /// Whether the answer says that the user holds nothing.
    #[must_use]
    pub fn denies(&self) -> bool {
        matches!(
            self,
            Self::SoldOut | Self::Closed | Self::NotOpen | Self::Paused | Self::UnknownCampaign | Self::NoClaim
        )
    }
}

/// One answer with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub asked_ms: u64,
    pub at_ms: u64,
    pub campaign: usize,
    pub user: String,
    pub answer: Answer,
}

/// An admission as the script made it, whoever was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// When the script ran, ms of the run.
    pub at_ms: u64,
    pub user: String,
    pub entry: ClaimEntry,
}

/// Everything about one campaign when all is quiet, or when it should be.
#[derive(Debug, Clone, Default)]
pub struct CampaignFacts {
    /// The newest allotment.
    pub capacity: u32,
    /// The first allotment. No refusal is undone by a later one.
    pub first_capacity: u32,
    /// Opening time by Redis's clock, ms since the epoch.
    pub opens_ms: u64,
    /// Coupon rows: user, slot, admission time.
    pub coupons: Vec<(String, u32, u64)>,
    /// The codes of the coupon rows, by user.
    pub codes: BTreeMap<String, String>,
    /// Refusal rows: user, admission time.
    pub refusals: Vec<(String, u64)>,
    /// Users whose claim waits in MySQL to be decided, or has waited.
    pub waiting: BTreeSet<String>,
    pub admissions: Vec<Admitted>,
    /// Users whose claim Redis has lost at some time, with that time, ms of the run.
    pub lost: BTreeMap<String, u64>,
    /// Users whose record has reached Kafka, and was not deleted with its topic before it was read.
    pub in_kafka: BTreeSet<String>,
    /// Users whose record is in the dead-letter topic.
    pub dead_letters: BTreeSet<String>,
    /// Users whose row a failover of MySQL has lost.
    pub rows_lost: BTreeSet<String>,
    /// A failover of MySQL has lost a raise, of which the gate knew.
    pub raise_lost: bool,
    /// `count` in Redis, and its claims; `None` where the campaign is not published.
    pub redis: Option<(u64, BTreeMap<String, String>)>,
    pub outbox: usize,
}

impl CampaignFacts {
    /// Whether Redis has lost anything that the promises rest on.
    #[must_use]
    pub fn redis_lost_data(&self) -> bool {
        !self.lost.is_empty()
    }

    #[must_use]
    pub fn row_of(&self, user: &str) -> Option<u32> {
        self.coupons.iter().find(|(name, ..)| name == user).map(|(_, slot, _)| *slot)
    }

    #[must_use]
    pub fn is_refused(&self, user: &str) -> bool {
        self.refusals.iter().any(|(name, _)| name == user)
    }
}
