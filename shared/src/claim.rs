//! An admitted claim as Redis keeps it.

use crate::ids::Slot;
use std::fmt;
use std::str::FromStr;

/// State of an admitted claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimStatus {
    /// Admitted; as far as Redis knows, the coupon row does not exist yet.
    Admitted,
    /// The coupon row exists.
    Issued,
    /// A refusal row exists: the claim can never be issued.
    Refused,
    /// The record is in the dead-letter topic and awaits a replay.
    DeadLettered,
}

impl ClaimStatus {
    /// The word the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            // A dead letter can still be replayed, so the visitor's claim is undecided.
            Self::Admitted | Self::DeadLettered => "admitted",
            Self::Issued => "issued",
            Self::Refused => "refused",
        }
    }
}

/// The value of a user's field in `dg:{ID}:claims`: `slot:admitted_ms:status`, status one letter.
///
/// `lua/admit.lua` writes it, `lua/confirm.lua` overwrites it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimEntry {
    /// The slot proposed at admission, or the one MySQL settled on.
    pub slot: Slot,
    /// Time of admission by Redis's clock, in ms since the epoch.
    pub admitted_ms: u64,
    /// Its state.
    pub status: ClaimStatus,
}

/// The text is not a claim entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a claim entry reads slot:admitted_ms:status, status one of a, i, r, d")]
pub struct ClaimEntryError;

impl fmt::Display for ClaimEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            ClaimStatus::Admitted => 'a',
            ClaimStatus::Issued => 'i',
            ClaimStatus::Refused => 'r',
            ClaimStatus::DeadLettered => 'd',
        };
        write!(f, "{}:{}:{status}", self.slot, self.admitted_ms)
    }
}

impl FromStr for ClaimEntry {
    type Err = ClaimEntryError;

    fn from_str(text: &str) -> Result<Self, ClaimEntryError> {
        let mut parts = text.split(':');
        let (Some(slot), Some(admitted_ms), Some(status), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ClaimEntryError);
        };
        Ok(Self {
            slot: slot.parse().ok().and_then(|n| Slot::new(n).ok()).ok_or(ClaimEntryError)?,
            admitted_ms: admitted_ms.parse().map_err(|_| ClaimEntryError)?,
            status: match status {
                "a" => ClaimStatus::Admitted,
                "i" => ClaimStatus::Issued,
                "r" => ClaimStatus::Refused,
                "d" => ClaimStatus::DeadLettered,
                _ => return Err(ClaimEntryError),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes() {
        for text in ["1:0:a", "57:1763700000123:i", "4294967295:1763700000123:r", "2:3:d"] {
            assert_eq!(text.parse::<ClaimEntry>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn rejects_malformed_entries() {
        for text in ["", "1", "0:1:a", "1:1:x", "1:1:a:b", "-1:1:a", "1::a", "1:1:"] {
            assert_eq!(text.parse::<ClaimEntry>(), Err(ClaimEntryError), "{text:?}");
        }
    }
}
