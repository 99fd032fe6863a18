//! What the oracle found, check by check.

use serde::Serialize;

/// Which check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Every admission is a row, or a refusal with its reason (I3).
    Owed,
    /// No row without an admission (I4).
    Spurious,
    /// All answers of a user agree (I5).
    Repeats,
    /// Slots are 1..N, each once (I1, I2).
    Slots,
    /// N coupons if N users came (I10).
    Full,
    /// Nobody is sent away while a coupon is left.
    SoldOut,
    /// Every answer was one that a valid claim can get.
    Answers,
}

impl Check {
    /// What is promised, in plain words.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::Owed => "everyone who was admitted got his coupon",
            Self::Spurious => "nobody got a coupon without being admitted",
            Self::Repeats => "asking again gave the same answer",
            Self::Slots => "no coupon beyond the last, none twice",
            Self::Full => "every coupon was given away",
            Self::SoldOut => "nobody was sent away while one was left",
            Self::Answers => "every answer made sense",
        }
    }

    /// How it is established.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Owed => {
                "Each answer 202 or 200 is a debt. It must stand in MySQL as a row of the same user with the slot \
                 and the code he was told, or as a refusal with its reason, which is counted apart."
            }
            Self::Spurious => {
                "Each row must belong to a user who was told so, or who never got a definite answer. A user who was \
                 sent away and holds a row was wronged; a user whom this run did not send is a stranger."
            }
            Self::Repeats => {
                "All answers to one user name the same slot and code, at most one of them says 202, and once \
                 admitted he is never told that it is too late."
            }
            Self::Slots => {
                "Slots run from 1 to N. Each is held by one user, each user holds one, and rows never exceed N."
            }
            Self::Full => "If at least N users ask, exactly N rows exist when all is quiet.",
            Self::SoldOut => "If anybody was told `sold out`, all N rows exist in the end.",
            Self::Answers => {
                "A valid claim is admitted, repeated, sent away, or asked to come again. Anything else is a fault of \
                 the system or of this run's settings."
            }
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It does not apply to this run.
    NotApplicable,
}

/// Somebody who was wronged, or something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offence {
    /// The user; empty where it is about no single one.
    pub user: String,
    /// What happened.
    pub what: String,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub check: Check,
    /// How it ended.
    pub grade: Grade,
    /// What was looked at, in a few words.
    pub note: String,
    /// How many offences there are.
    pub offences: usize,
    /// The first of them.
    pub named: Vec<Offence>,
}

/// What is no fault, and is never silent either.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remarks {
    /// Users who were admitted and then refused with a reason, by reason.
    pub refused: Vec<(String, usize)>,
    /// Users who never got a definite answer.
    pub undecided_users: usize,
    /// Of those, how many hold a row.
    pub undecided_with_row: usize,
    /// Rows of users that this run did not send.
    pub foreign_rows: usize,
    /// Users whose row has another slot than they were told (with `allow_moved`).
    pub moved_slots: usize,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether nothing failed.
    pub pass: bool,
    /// Every check.
    pub findings: Vec<Finding>,
    /// What else is to be told.
    pub remarks: Remarks,
}
