//! What was asked, what was answered, and what stands in MySQL.

use crate::load::identity::Crowd;
use crate::load::outcome::Outcome;
use crate::load::schedule::Arrival;

/// One request and its answer. Moments are microseconds since the start of the burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// Index of the arrival that it belongs to.
    pub claim: u32,
    /// 1 for the first press of the button.
    pub number: u16,
    /// When the request was handed to its connection.
    pub sent_us: u64,
    /// When the answer was there, or when it was given up.
    pub answered_us: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// Everything that the driver saw.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Who was sent.
    pub crowd: Crowd,
    /// The schedule.
    pub arrivals: Vec<Arrival>,
    /// The tries, in the order of their answers.
    pub tries: Vec<Try>,
    /// The start of the burst by this machine's clock, in ms since the epoch.
    pub started_ms: i64,
}

impl Ledger {
    /// Whose try this is.
    #[must_use]
    pub fn user(&self, one: &Try) -> Option<u32> {
        self.arrivals.get(one.claim as usize).map(|arrival| arrival.user)
    }

    /// The last try of each claim, by the claim's index; none where the claim was never sent.
    #[must_use]
    pub fn last_tries(&self) -> Vec<Option<&Try>> {
        let mut last: Vec<Option<&Try>> = vec![None; self.arrivals.len()];
        for one in &self.tries {
            if let Some(entry) = last.get_mut(one.claim as usize)
                && entry.is_none_or(|before| before.number < one.number)
            {
                *entry = Some(one);
            }
        }
        last
    }
}

/// A row of `coupons`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    /// The slot.
    pub slot: u32,
    /// Who holds it.
    pub user: String,
    /// The code.
    pub code: String,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: i64,
    /// When the issuer wrote the row, by its clock, in ms since the epoch.
    pub issued_ms: i64,
}

/// A row of `refusals`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whose claim it was.
    pub user: String,
    /// The slot that could not be given.
    pub proposed_slot: u32,
    /// Why not.
    pub reason: String,
}

/// What MySQL holds of the campaign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The coupons, by slot.
    pub coupons: Vec<Coupon>,
    /// The refusals.
    pub refusals: Vec<Refusal>,
}
