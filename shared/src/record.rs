//! The Kafka record of an admitted claim.

use crate::code::CodeKeyId;
use crate::ids::{CampaignId, Slot, UserId};
use serde::{Deserialize, Serialize};

/// The version that this build writes and reads.
pub const VERSION: u32 = 1;

/// An admitted claim on its way to the issuer: JSON that begins with the version, `v`. Unknown fields are ignored on
/// reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRecord {
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// The slot that Redis proposes.
    pub slot: Slot,
    /// Time of admission by Redis's clock, in ms since the epoch.
    pub admitted_at: u64,
    /// `traceparent` (W3C Trace Context) of the claim, if known. A record that the sweeper resends has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The secret of the code that the user was shown; none in a record of a gate that knew no key ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_key: Option<CodeKeyId>,
}

/// Why a record can never become a row. `Display` is the reason in the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a JSON object, or a field is missing or invalid.
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
    /// The record as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        struct Versioned<'a> {
            v: u32,
            #[serde(flatten)]
            record: &'a AdmissionRecord,
        }
        // A struct of strings and numbers always serialises.
        serde_json::to_string(&Versioned { v: VERSION, record: self }).unwrap_or_default()
    }

    /// Reads a record. The version is checked first: the fields of another version mean nothing here.
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
