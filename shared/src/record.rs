//! The Kafka record of an admitted claim.

use crate::ids::{CampaignId, Slot, UserId};
use serde::{Deserialize, Serialize};

/// The version this build writes and reads.
pub const VERSION: u32 = 1;

/// An admitted claim on its way to the issuer, as JSON. Unknown fields are ignored on reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRecord {
    v: u32,
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// The slot that Redis proposes.
    pub slot: Slot,
    /// Time of admission by Redis's clock, in ms since the epoch.
    pub admitted_at: u64,
    /// `traceparent` (W3C Trace Context) of the claim, where one is known. A record that the sweeper
    /// sends again has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// Why a record can never become a row as it is. `Display` is the cause that the dead letter carries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a JSON object, or a field is missing or wrong.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Written by another version.
    #[error("unknown version {0}, this issuer reads version {VERSION}")]
    Version(u64),
}

impl RecordError {
    /// Stable label for metrics and headers.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "unknown_version",
        }
    }
}

impl AdmissionRecord {
    /// A record of the current version.
    #[must_use]
    pub fn new(campaign: CampaignId, user: UserId, slot: Slot, admitted_at: u64, trace: Option<String>) -> Self {
        Self { v: VERSION, campaign, user, slot, admitted_at, trace }
    }

    /// The record as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        // A struct of strings and numbers always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a record. The version is looked at first: another version's fields mean nothing here.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u64,
        }
        let malformed = |e: serde_json::Error| RecordError::Malformed(e.to_string());
        let head: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.v != u64::from(VERSION) {
            return Err(RecordError::Version(head.v));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}
