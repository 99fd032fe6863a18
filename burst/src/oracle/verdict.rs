//! The result of the oracle, check by check.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// I3
    Owed,
    /// I4
    Spurious,
    /// I5
    Repeats,
    /// I1, I2
    Slots,
    /// I10
    Full,
    SoldOut,
    Answers,
}

impl Check {
    /// What holds if the check passes.
    #[must_use]
    pub fn statement(self) -> &'static str {
        match self {
            Self::Owed => "every admitted user has a coupon",
            Self::Spurious => "no coupon without an admission",
            Self::Repeats => "repeated claims get the same answer",
            Self::Slots => "no slot above the capacity, none twice",
            Self::Full => "all coupons are issued",
            Self::SoldOut => "no user was denied while a coupon was left",
            Self::Answers => "every response is valid",
        }
    }

    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Owed => {
                "A response 202 or 200 promises a slot and a code. MySQL has a coupon of this user with the same slot \
                 and code, or a refusal with its reason. Refusals are counted separately."
            }
            Self::Spurious => {
                "Every coupon belongs to a user whose response promised it, or who never got a definite response. A \
                 user who was denied has no coupon. Users outside this run have none, unless --allow-foreign is set."
            }
            Self::Repeats => {
                "All responses to a user name the same slot and code. At most one of them is 202. An admitted user is \
                 not denied later."
            }
            Self::Slots => {
                "Slots run from 1 to N. Each slot has one user, each user has one slot, and there are at most N rows."
            }
            Self::Full => "If at least N users claim, exactly N coupons exist at the end.",
            Self::SoldOut => "If any user got `sold out`, all N coupons exist at the end.",
            Self::Answers => {
                "A valid claim is admitted, repeated, denied, or undecided. Any other response is a fault of the \
                 system or of the settings of this run."
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    Pass,
    Fail,
    /// Some admitted users were refused afterwards, each with a reason in MySQL.
    Refused,
    /// The check does not apply to this run.
    NotApplicable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Empty if it is about no single user.
    pub user: String,
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub grade: Grade,
    /// What was checked, in a few words.
    pub note: String,
    #[serde(rename = "offences")]
    pub violations: usize,
    /// The first violations.
    pub named: Vec<Violation>,
}

/// What is no violation and still worth reporting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Remarks {
    /// Users who were admitted and then refused, by reason.
    pub refused: Vec<(String, usize)>,
    /// Users who never got a definite response.
    pub undecided_users: usize,
    /// Those of them who have a row.
    pub undecided_with_row: usize,
    /// Rows of users who are not part of this run.
    pub foreign_rows: usize,
    /// Users whose row has another slot than was promised (with `allow_moved`).
    pub moved_slots: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Every promise was kept, to every user.
    pub pass: bool,
    pub findings: Vec<Finding>,
    pub remarks: Remarks,
}

impl Verdict {
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.status() {
            0 => "PASS",
            1 => "FAIL",
            _ => "CAPACITY KEPT",
        }
    }

    /// The process's exit status. A user who was admitted and then refused was promised a coupon: that is no success,
    /// even if the capacity was kept and the refusal has a reason.
    #[must_use]
    pub fn status(&self) -> u8 {
        let is_any = |grade| self.findings.iter().any(|finding| finding.grade == grade);
        if is_any(Grade::Fail) { 1 } else { 4 * u8::from(is_any(Grade::Refused)) }
    }
}
