//! The design's mistakes, one at a time. Each must be caught, or the search proves nothing.
//!
//! A mutant changes a script, a constraint or a rule of an adapter. The code of the product has no switches. A mistake
//! that another part makes harmless is not here.

use crate::kafka::MemberSettings;
use crate::mysql::Schema;
use crate::plan::{Operation, Plan, Setup, Timed};
use crate::violation::Kind;
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
    /// One user may have two coupons (I2).
    NoUniqueUser,
    /// One slot may be given away twice (I1).
    NoUniqueSlot,
    /// A claim is written before its outbox entry (I3).
    ClaimsBeforeOutbox,
    /// A partition that is assigned keeps the pause flag that it had when it was revoked (I9).
    PauseFlagKept,
    /// Offsets of a topic that was deleted and created again are not replaced (I9).
    OffsetsOfOldTopic,
    /// A consumer that reads nothing although there are records is kept (I9).
    SilentConsumerKept,
    /// The gate does not learn which secret a campaign's codes need (I12).
    CodeKeyUnread,
    /// `publish` puts the newest secret of codes in place of the campaign's own (I12).
    PublishReplacesCodeKey,
    /// A claim whose slot another user holds gets a free one before what was admitted earlier is read (I3).
    FreeSlotTakenEarly,
    /// The same, without a look at the outbox (I3).
    OutboxUnseen,
    /// Refused claims keep their slots (I10). Caught by `tests/scripts.rs`.
    CountFromClaims,
    /// Settings are written whatever version Redis has (I12). Caught by `tests/versions.rs`.
    PublishWithoutVersion,
}

impl Mutant {
    /// Those that the search must catch.
    pub const ALL: [Self; 18] = [
        Self::OffsetBeforeCommit,
        Self::OutboxRemovedOnProduce,
        Self::SweeperTriesOnce,
        Self::AdmittedTwice,
        Self::OpensEarly,
        Self::CapacityUnchecked,
        Self::Uncounted,
        Self::ConfirmKeepsOutbox,
        Self::NoUniqueUser,
        Self::NoUniqueSlot,
        Self::ClaimsBeforeOutbox,
        Self::PauseFlagKept,
        Self::OffsetsOfOldTopic,
        Self::SilentConsumerKept,
        Self::CodeKeyUnread,
        Self::PublishReplacesCodeKey,
        Self::FreeSlotTakenEarly,
        Self::OutboxUnseen,
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
                (&scripts::CONFIRM, "redis.call('ZREM', KEYS[3], unpack(users))", "redis.call('ZCARD', KEYS[3])")
            }
            Self::ClaimsBeforeOutbox => (&scripts::ADMIT, "{ due, counted, claims }", "{ claims, counted, due }"),
            Self::OutboxUnseen => (
                &scripts::READ,
                "if not reads[ARGV[1]]",
                "if ARGV[1] == 'ZSCAN' then return { '0', {} } end\nif not reads[ARGV[1]]",
            ),
            Self::CountFromClaims => (&scripts::CONFIRM, "local count = more ~= 0 and", "local count = false and"),
            Self::CodeKeyUnread => {
                (&scripts::ADMIT, "code_key, key_ids = meta[7] or '', ARGV[2] or ''", "code_key, key_ids = '', ''")
            }
            Self::PublishReplacesCodeKey => (
                &scripts::PUBLISH,
                "-- The count is the number of claims",
                "code_key = string.match(ARGV[6], '^[^,]*')\n-- The count is the number of claims",
            ),
            Self::PublishWithoutVersion => (&scripts::PUBLISH, "if stored and", "if false and"),
            _ => return None,
        })
    }

    /// The promise that only this mistake breaks, where the constraints of the database hide it unless Redis has lost
    /// data: the search then has every fault, and other violations do not count.
    #[must_use]
    pub fn breaks(self) -> Option<&'static [Kind]> {
        matches!(self, Self::NoUniqueUser | Self::NoUniqueSlot).then_some(&[Kind::Doubled, Kind::OverCapacity])
    }

    /// A plan that shows the mistake, where random plans seldom do.
    #[must_use]
    pub fn plan(self) -> Option<Plan> {
        match self {
            Self::FreeSlotTakenEarly => Some(unread_in_kafka()),
            Self::OutboxUnseen => Some(unsent_in_outbox()),
            _ => None,
        }
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
        match self {
            Self::OffsetBeforeCommit => settings.adapter.store_at_once = true,
            // A new client has no flags.
            Self::PauseFlagKept => {
                (settings.adapter.resume_on_assign, settings.adapter.replace_silent) = (false, false);
            }
            Self::OffsetsOfOldTopic => settings.adapter.commit_back = false,
            Self::SilentConsumerKept => settings.adapter.replace_silent = false,
            _ => {}
        }
    }
}

/// One campaign, batches of one record, good connections.
fn small(capacity: u32, issuers: usize, operations: Vec<(u64, Operation)>) -> Plan {
    let setup = Setup { issuers, partitions: 2, users: 8, ..Setup::small(capacity) };
    let operations = operations.into_iter().map(|(at_ms, operation)| Timed { at_ms, operation }).collect();
    Plan { seed: 0, setup, operations }
}

fn claims(user: u32) -> Operation {
    Operation::Claim { user, campaign: 0, isolate: 0 }
}

/// Redis goes back to before the claims of users 0 and 6, and gives slots 1 and 2 to 1 and 2. The record of 6 lies in a
/// partition that nobody reads for some time; all others are read. 1 has lost slot 1 to user 0, and 6 will have lost
/// slot 2: slot 3 belongs to 6, who was admitted before 1.
fn unread_in_kafka() -> Plan {
    let killed = Operation::IssuerKill { issuer: 0, down_ms: 20_000 };
    small(
        3,
        2,
        vec![
            (500, Operation::RedisSnapshot),
            (900, killed),
            (1_000, claims(0)),
            (1_100, claims(6)),
            (2_000, Operation::RedisRestore),
            (2_100, claims(1)),
            (2_200, claims(2)),
        ],
    )
}

/// User 0 has slot 1, and Kafka does not get their record for long. Redis goes back to before the claim of user 1, and
/// gives their slot 2 to user 2, who finds it taken: slot 1 has no row, and belongs to user 0.
fn unsent_in_outbox() -> Plan {
    small(
        2,
        1,
        vec![
            (1_000, Operation::KafkaRestAway { for_ms: 1_000 }),
            (1_100, claims(0)),
            (3_000, Operation::RedisSnapshot),
            (3_100, claims(1)),
            (4_000, Operation::RedisRestore),
            (4_100, claims(2)),
            (5_000, Operation::KafkaRestAway { for_ms: 84_000 }),
        ],
    )
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
