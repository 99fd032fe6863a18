//! What was sent and what was answered.

use super::identity::Crowd;
use super::outcome::ClaimOutcome;
use super::schedule::Arrival;

/// One request and its response. Times are microseconds since the start of the burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Index of the arrival that it belongs to.
    pub claim: u32,
    /// 1 for the first attempt of the claim.
    pub number: u16,
    /// When the request was handed to its connection.
    pub sent_us: u64,
    /// When the response was complete, or when the attempt was given up.
    pub answered_us: u64,
    pub outcome: ClaimOutcome,
}

/// Everything that the driver observed.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub crowd: Crowd,
    pub arrivals: Vec<Arrival>,
    /// In the order of their responses.
    pub attempts: Vec<Attempt>,
    /// The start of the burst by this machine's clock, in ms since the epoch.
    pub started_ms: i64,
}

impl Ledger {
    /// The index of the user who made this attempt.
    #[must_use]
    pub fn user(&self, attempt: &Attempt) -> Option<u32> {
        self.arrivals.get(attempt.claim as usize).map(|arrival| arrival.user)
    }

    /// The last attempt of each claim, by the claim's index; none where the claim was never sent.
    #[must_use]
    pub fn last_attempts(&self) -> Vec<Option<&Attempt>> {
        let mut last: Vec<Option<&Attempt>> = vec![None; self.arrivals.len()];
        for attempt in &self.attempts {
            if let Some(entry) = last.get_mut(attempt.claim as usize)
                && entry.is_none_or(|before| before.number < attempt.number)
            {
                *entry = Some(attempt);
            }
        }
        last
    }
}
