//! The design's mistakes, one at a time. Each must be caught, or the search proves nothing.
//!
//! A mutant changes a script, a constraint or a rule of an adapter. The code of the product has no switches.

use crate::kafka::MemberSettings;
use crate::mysql::Schema;
use dropgate_shared::scripts::{self, Script};
use std::fmt;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// An offset is stored when its record is read, not when it is settled (I7).
    OffsetBeforeCommit,
    /// The outbox entry ends with Kafka's acknowledgement, not with the row (I3).
    OutboxRemovedOnProduce,
    /// An outbox entry is given to the sweeper once, and never again (I9).
    SweeperTriesOnce,
    /// A repeated claim is admitted again (I5).
    AdmittedTwice,
    /// The window is not checked (I11).
    OpensEarly,
    /// Capacity is not checked by Redis: MySQL has to refuse (I3).
    CapacityUnchecked,
    /// Redis forgets to count what it admits.
    Uncounted,
    /// A confirmation leaves the outbox entry (I9).
    ConfirmKeepsOutbox,
    /// A dead letter that is confirmed late replaces a final entry.
    LateDeadLetterWins,
    /// One user may have two coupons (I2).
    NoUniqueUser,
    /// One slot may be given away twice (I1).
    NoUniqueSlot,
    /// Records in hand of a partition that was revoked still move its offset (I7).
    RevokedUnreported,
}

impl Mutant {
    pub const ALL: [Self; 12] = [
        Self::OffsetBeforeCommit,
        Self::OutboxRemovedOnProduce,
        Self::SweeperTriesOnce,
        Self::AdmittedTwice,
        Self::OpensEarly,
        Self::CapacityUnchecked,
        Self::Uncounted,
        Self::ConfirmKeepsOutbox,
        Self::LateDeadLetterWins,
        Self::NoUniqueUser,
        Self::NoUniqueSlot,
        Self::RevokedUnreported,
    ];

    /// The scripts that the mistake changes: which, the text that goes, the text that comes.
    fn changes(self) -> Option<(&'static Script, &'static str, &'static str)> {
        Some(match self {
            Self::OutboxRemovedOnProduce => (
                &scripts::LEASE,
                "redis.call('ZADD', KEYS[1], 'XX', unpack(args))",
                "for i = 2, #ARGV, 2 do redis.call('ZREM', KEYS[1], ARGV[i]) end",
            ),
            Self::SweeperTriesOnce => (
                &scripts::TAKE_DUE,
                "redis.call('ZADD', KEYS[2], 'XX', unpack(due))",
                "redis.call('ZREM', KEYS[2], unpack(users))",
            ),
            Self::AdmittedTwice => {
                (&scripts::ADMIT, "local entry = known[i] or fresh[user]", "local entry = fresh[user]")
            }
            Self::OpensEarly => (&scripts::ADMIT, "if now < opens then", "if false then"),
            Self::CapacityUnchecked => (&scripts::ADMIT, "elseif count >= capacity then", "elseif false then"),
            Self::Uncounted => {
                (&scripts::ADMIT, "'count', string.format('%d', count)", "'count', string.format('%d', count - 1)")
            }
            Self::ConfirmKeepsOutbox => {
                (&scripts::CONFIRM, "redis.call('ZREM', KEYS[2], unpack(users))", "redis.call('ZCARD', KEYS[2])")
            }
            Self::LateDeadLetterWins => (&scripts::CONFIRM, "':[ir]$'", "':[x]$'"),
            _ => return None,
        })
    }

    /// The text that runs in place of `script`.
    #[must_use]
    pub fn script(self, script: &Script) -> Option<String> {
        let (changed, goes, comes) = self.changes().filter(|(changed, ..)| changed.name == script.name)?;
        assert!(changed.text.contains(goes), "the mutant {self} no longer fits {}.lua", script.name);
        Some(changed.text.replacen(goes, comes, 1))
    }

    /// The constraints of the database.
    #[must_use]
    pub fn schema(self) -> Schema {
        Schema {
            is_user_unique: self != Self::NoUniqueUser,
            is_slot_unique: self != Self::NoUniqueSlot,
            ..Schema::default()
        }
    }

    /// The rules of a group's member.
    pub fn member(self, settings: &mut MemberSettings) {
        if self == Self::RevokedUnreported {
            settings.adapter.report_revoked = false;
        }
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_of_a_script_fits_the_script() {
        for mutant in Mutant::ALL {
            if let Some((script, ..)) = mutant.changes() {
                assert!(mutant.script(script).is_some_and(|text| text != script.text));
            }
        }
    }
}
