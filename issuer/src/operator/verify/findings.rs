//! What `verify` can find: the kinds, the invariant that each concerns, and what helps.

use serde::Serialize;

/// What can be found. In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// More rows than were ever granted, or a slot beyond.
    BeyondCapacity,
    /// A user with two coupons.
    UserTwice,
    /// A user with a coupon and a refusal.
    CouponAndRefusal,
    /// A code that is not the one of its campaign and user.
    WrongCode,
    /// The gate promises more than MySQL has granted.
    GatePromisesMore,
    /// Redis calls a claim settled, and there is no row.
    ToldWithoutRow,
    /// Admitted; no row, no obligation, nothing on its way.
    Stranded,
    /// An obligation whose claim is gone.
    OutboxWithoutClaim,
    /// A claim entry that cannot be read.
    Unreadable,
    /// A row that Redis does not know of.
    RowWithoutClaim,
    /// Redis tells another slot or another outcome than MySQL.
    ToldOtherwise,
    /// The gate has counted more slots than there are claims.
    CountOff,
    /// There are claims that the gate has not counted: Redis was rebuilt while they were on their way.
    Uncounted,
    /// State, capacity or window at the gate are not those of MySQL.
    GateDiffers,
    /// The row exists, and Redis calls the claim admitted.
    Unconfirmed,
    /// Admitted, no row yet, in the outbox.
    Owed,
    /// The record is in the dead-letter topic.
    DeadLettered,
    /// The slot that MySQL settled on is not the one that Redis had proposed.
    SlotResolved,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Good to know.
    Note,
    /// Not at its end.
    UnderWay,
    /// Whether it is broken cannot be told.
    Unknown,
    /// A promise is broken.
    Violated,
}

/// The whole in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Every promise is kept, nothing is open.
    #[serde(rename = "holds")]
    Holds,
    /// Nothing is broken, something is open.
    #[serde(rename = "under way")]
    UnderWay,
    /// A promise is broken.
    #[serde(rename = "violated")]
    Violated,
    /// A source did not answer.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Verdict {
    /// The process's exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Violated => 1,
            Self::Unknown => 3,
            Self::UnderWay => 4,
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::UnderWay => "under way",
            Self::Violated => "violated",
            Self::Unknown => "unknown",
        }
    }
}

/// What mends a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Publish the campaign as a whole.
    Publish,
    /// Tell Redis what MySQL has.
    Confirm,
    /// Put the obligation back into the outbox.
    Restore,
}

impl FindingKind {
    /// The invariant, the finding in words, and what helps.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::BeyondCapacity => {
                ("I1", "coupons beyond the capacity", "the constraints of the schema are gone: issuer check-config")
            }
            Self::UserTwice => {
                ("I2", "users with two coupons", "the constraints of the schema are gone: issuer check-config")
            }
            Self::CouponAndRefusal => {
                ("I3", "users with a coupon and a refusal", "their coupon counts; delete the refusal by hand")
            }
            Self::WrongCode => (
                "I5",
                "codes that are not those of their users",
                "is COUPON_CODE_SECRET the one of the gate and the issuer?",
            ),
            Self::GatePromisesMore => ("I1", "the gate admits more than MySQL has granted", "issuer reconcile --apply"),
            Self::ToldWithoutRow => (
                "I3",
                "claims that Redis calls settled, without a row",
                "is DATABASE_URL the right database, and was it restored from a backup?",
            ),
            Self::Stranded => {
                ("I3", "admitted claims without a row that nobody will send again", "issuer reconcile --apply")
            }
            Self::OutboxWithoutClaim => (
                "I3",
                "obligations whose claim is gone from Redis",
                "Redis has lost data; their slots are not known any more, the users may claim again",
            ),
            Self::Unreadable => ("I3", "claims in Redis that cannot be read", "somebody else writes these keys"),
            Self::RowWithoutClaim => {
                ("I4", "rows whose claim is gone from Redis", "Redis has lost data: issuer reconcile --apply")
            }
            Self::ToldOtherwise => ("I5", "claims that Redis tells otherwise than MySQL", "issuer reconcile --apply"),
            Self::CountOff => ("I10", "slots that the gate counts and nobody holds", "issuer reconcile --apply"),
            Self::Uncounted => (
                "I10",
                "claims that the gate has not counted, so that it may admit too many; MySQL will refuse them",
                "issuer reconcile --apply",
            ),
            Self::GateDiffers => ("", "settings at the gate that are not those of MySQL", "issuer reconcile --apply"),
            Self::Unconfirmed => (
                "I3",
                "coupons that Redis does not know to be issued",
                "the sweeper tells it, or at once: issuer reconcile --apply",
            ),
            Self::Owed => (
                "I3",
                "admitted claims whose row is still to come",
                "wait; if it lasts: is the issuer running, and the gate's cron?",
            ),
            Self::DeadLettered => (
                "I3",
                "admitted claims in the dead-letter topic",
                "issuer dlq list --remaining, mend the cause, issuer dlq replay",
            ),
            Self::SlotResolved => {
                ("", "coupons under another slot than Redis had proposed", "nothing to do: the users hold them")
            }
        }
    }

    /// What mends it, where a command can.
    #[must_use]
    pub fn repair(self) -> Option<Repair> {
        match self {
            Self::RowWithoutClaim | Self::CountOff | Self::Uncounted | Self::GateDiffers | Self::GatePromisesMore => {
                Some(Repair::Publish)
            }
            Self::ToldOtherwise | Self::Unconfirmed => Some(Repair::Confirm),
            Self::Stranded => Some(Repair::Restore),
            _ => None,
        }
    }
}
