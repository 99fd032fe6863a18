//! What `verify` can find: the kinds, the invariant that each concerns, and what helps.

use serde::Serialize;

/// What can be found, in the order of the report; [`FindingKind::words`] says what each means. The names are those of
/// the JSON report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    BeyondCapacity,
    UserTwice,
    CouponAndRefusal,
    WrongCode,
    OtherCodeKey,
    GatePromisesMore,
    #[serde(rename = "told_without_row")]
    SettledWithoutRow,
    Stranded,
    OutboxWithoutClaim,
    Unreadable,
    RowWithoutClaim,
    #[serde(rename = "told_otherwise")]
    EntryDiffers,
    CountOff,
    Uncounted,
    GateDiffers,
    NoCodeKey,
    Unconfirmed,
    Owed,
    Waiting,
    DeadLettered,
    SlotResolved,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    Note,
    /// Nothing is broken, and something is open.
    UnderWay,
    /// Whether a promise is broken is unknown.
    Unknown,
    /// A promise is broken.
    Violated,
}

/// The verdict on a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Every promise holds, and nothing is open.
    #[serde(rename = "holds")]
    Holds,
    /// Nothing is open, and some users were admitted and then refused.
    #[serde(rename = "capacity kept")]
    CapacityKept,
    /// Nothing is broken, and something is open.
    #[serde(rename = "under way")]
    UnderWay,
    /// A promise is broken.
    #[serde(rename = "violated")]
    Violated,
    /// A server did not respond.
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
            Self::CapacityKept => 5,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::CapacityKept => "capacity kept",
            Self::UnderWay => "under way",
            Self::Violated => "violated",
            Self::Unknown => "unknown",
        }
    }
}

/// What repairs a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Publish the campaign as a whole.
    Publish,
    /// Write the entries that MySQL has to Redis.
    Confirm,
    /// Restore the outbox entry.
    Restore,
    /// Write rows again from what Redis has; only where it is asked for.
    Reissue,
}

impl FindingKind {
    /// The invariant, the finding in words, and the remedy.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::BeyondCapacity => {
                ("I1", "coupons beyond the capacity", "the constraints of the schema are missing: issuer check-config")
            }
            Self::UserTwice => {
                ("I2", "users with two coupons", "the constraints of the schema are missing: issuer check-config")
            }
            Self::CouponAndRefusal => {
                ("I3", "users with a coupon and a refusal", "the coupon is valid; delete the refusal by hand")
            }
            Self::WrongCode => (
                "I5",
                "codes that are not those of their users",
                "check that COUPON_CODE_SECRET is that of the gate and the issuer",
            ),
            Self::OtherCodeKey => (
                "I12",
                "secret of the codes in Redis that is not COUPON_CODE_SECRET",
                "give the gate, the issuer and this command the same COUPON_CODE_SECRET, or while it is replaced the \
                 other one as COUPON_CODE_SECRET_PREVIOUS; then issuer campaign publish",
            ),
            Self::GatePromisesMore => ("I1", "the gate admits more than MySQL has granted", "issuer reconcile --apply"),
            Self::SettledWithoutRow => (
                "I3",
                "claims that Redis calls settled, without a row",
                "if DATABASE_URL is the right database, it has lost rows: issuer reconcile --apply --reissue writes \
                 them again",
            ),
            Self::Stranded => {
                ("I3", "admitted claims without a row that will not be sent again", "issuer reconcile --apply")
            }
            Self::OutboxWithoutClaim => (
                "I3",
                "outbox entries whose claim is gone from Redis",
                "Redis has lost data, and with it their slots; these users may claim again",
            ),
            Self::Unreadable => ("I3", "claims in Redis that cannot be read", "another program writes these keys"),
            Self::RowWithoutClaim => {
                ("I4", "rows whose claim is gone from Redis", "Redis has lost data: issuer reconcile --apply")
            }
            Self::EntryDiffers => {
                ("I5", "claims whose entry in Redis differs from the row in MySQL", "issuer reconcile --apply")
            }
            Self::CountOff => ("I10", "slots that the gate has counted and nobody holds", "issuer reconcile --apply"),
            Self::Uncounted => (
                "I10",
                "claims that the gate has not counted, so that it may admit too many users, whom MySQL will refuse",
                "issuer reconcile --apply",
            ),
            Self::GateDiffers => ("", "settings at the gate that differ from MySQL", "issuer reconcile --apply"),
            Self::NoCodeKey => (
                "I12",
                "campaign of which Redis does not name the secret of the codes, so that a gate with another one goes \
                 unnoticed",
                "issuer reconcile --apply",
            ),
            Self::Unconfirmed => (
                "I3",
                "coupons that Redis does not have as issued",
                "the sweeper corrects it; to correct it now: issuer reconcile --apply",
            ),
            Self::Owed => (
                "I3",
                "admitted claims whose row is still to come",
                "wait; if it lasts, check that the issuer and the gate's cron are running",
            ),
            Self::Waiting => (
                "I3",
                "claims whose slot another user holds, not decided yet",
                "wait: they are decided when all that was admitted before them is settled",
            ),
            Self::DeadLettered => (
                "I3",
                "admitted claims in the dead-letter topic",
                "issuer dlq list --remaining, then fix the cause, then issuer dlq replay",
            ),
            Self::SlotResolved => {
                ("", "coupons under another slot than Redis proposed", "nothing to do: the coupons are valid")
            }
        }
    }

    /// What repairs it, where a command can.
    #[must_use]
    pub fn repair(self) -> Option<Repair> {
        match self {
            Self::RowWithoutClaim
            | Self::CountOff
            | Self::Uncounted
            | Self::GateDiffers
            | Self::GatePromisesMore
            | Self::NoCodeKey => Some(Repair::Publish),
            Self::EntryDiffers | Self::Unconfirmed => Some(Repair::Confirm),
            Self::Stranded => Some(Repair::Restore),
            Self::SettledWithoutRow => Some(Repair::Reissue),
            _ => None,
        }
    }
}
