//! A broken promise, as the oracle reports it.

use std::fmt;

/// Which promise. The invariants are those of `docs/correctness.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// I1: more coupons than capacity, or a slot beyond it.
    OverCapacity,
    /// I2: two coupons for one user, or one slot for two.
    Doubled,
    /// I3: an admission without coupon or refusal.
    Owed,
    /// I3: a coupon and a refusal for one user.
    CouponAndRefusal,
    /// I4: a coupon without an admission.
    Spurious,
    /// I5: answers to one user that cannot all be true.
    Contradiction,
    /// I7: an offset is committed beyond a record that is neither a row nor a dead letter.
    OffsetAhead,
    /// I8: a refusal was reported to a user who holds a claim.
    RefusedHolder,
    /// I9: not quiet in time.
    NotQuiet,
    /// I9: after all was quiet, a new claim or a raise did not go through.
    Stuck,
    /// I10: another number of coupons than the capacity, although enough users claimed.
    NotExactly,
    /// A user who was told "admitted" is refused, although Redis lost nothing.
    RefusedAfterAdmission,
    /// A user is refused although somebody who was admitted later has a coupon.
    NotFirstCome,
    /// I11: an admission before the opening.
    OpenedEarly,
    /// The count in Redis differs from the coupons in MySQL when all is quiet.
    CountOff,
    /// I12: a user was shown another code than that of their row.
    OtherCode,
    /// `verify` does not agree that every promise is kept, or agrees although one is broken.
    VerifyWrong,
    /// A part of the system panicked or ended.
    Crashed,
}

impl Kind {
    /// The invariant that it breaks.
    #[must_use]
    pub fn invariant(self) -> &'static str {
        match self {
            Self::OverCapacity => "I1",
            Self::Doubled => "I2",
            Self::Owed | Self::CouponAndRefusal => "I3",
            Self::Spurious => "I4",
            Self::Contradiction => "I5",
            Self::OffsetAhead => "I7",
            Self::RefusedHolder => "I8",
            Self::NotQuiet | Self::Stuck | Self::Crashed => "I9",
            Self::NotExactly | Self::CountOff => "I10",
            Self::RefusedAfterAdmission | Self::NotFirstCome => "I3",
            Self::OpenedEarly => "I11",
            Self::OtherCode | Self::VerifyWrong => "I12",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.kind.invariant(), self.kind, self.detail)
    }
}
