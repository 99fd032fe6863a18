//! What the loop needs from the systems around it, and what crosses these ports.

use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use std::collections::BTreeSet;
use std::time::Duration;
use time::PrimitiveDateTime;

/// An admitted claim whose every field fits into a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub record: AdmissionRecord,
    /// `record.admitted_at` as MySQL takes it.
    pub admitted_at: PrimitiveDateTime,
}

/// A Kafka record as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    /// The value; empty where there is none.
    pub payload: Vec<u8>,
    /// Whether an operator has sent it again (`dlq replay`).
    pub replayed: bool,
}

/// Where the records come from.
pub trait RecordSource {
    /// The next record. Dropping the future loses none.
    ///
    /// # Errors
    /// [`Fault`]; one that says no retry means that this source will never deliver again.
    async fn recv(&self) -> Result<Delivery, Fault>;

    /// Takes note of partitions that were revoked since the last call: nothing received from them
    /// before may move their offset any more.
    fn revoked(&self) -> Vec<i32>;

    /// Stops the flow of records. [`RecordSource::recv`] must still be called, and may still yield one.
    fn pause(&self);

    /// Lets the records flow again.
    fn resume(&self);

    /// Marks, for each partition, the offset from which another consumer would go on.
    ///
    /// # Errors
    /// [`Fault`]; the records will come again, which changes nothing (I6).
    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault>;

    /// Each partition that is ours, with the number of its records that are not settled where that is known.
    fn lags(&self) -> Vec<(i32, Option<u64>)>;

    /// How long no broker has answered anything.
    fn silent_for(&self) -> Duration;

    /// Why records do not arrive that the broker has, if so. The source does something about it.
    fn unread(&self) -> Option<String> {
        None
    }

    /// How many partitions are ours, of how many that the topic has.
    fn partitions(&self) -> Partitions;
}

/// A member's part of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions {
    /// Partitions that are assigned to this member.
    pub owned: usize,
    /// Partitions of the topic.
    pub all: usize,
}

/// Why a batch is held: it can become rows, but not here and now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Stable label for metrics.
    pub label: &'static str,
    /// What happened and the remedy.
    pub text: String,
}

/// Where the rows go.
pub trait CouponStore {
    /// Why these admissions must not be written by this process as it is configured, if so. No row and no dead letter
    /// may come of them, since others can write them.
    fn must_hold(&self, _admissions: &[&Admission]) -> Option<Hold> {
        None
    }

    /// Writes a batch in one transaction. On `Ok`, one outcome an admission, in their order, and all
    /// of them durable.
    ///
    /// # Errors
    /// [`Fault`]: nothing is known to be written, and the whole batch may be handed in again (I6).
    async fn persist(&self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, Fault>;

    /// What the rows say that are there already, one answer an admission, in their order: a coupon or a refusal, or
    /// `None` if there is neither, or it is not known. Nothing is written, and nothing is locked.
    ///
    /// # Errors
    /// [`Fault`]; reading is repeatable.
    async fn look_up(&self, admissions: &[&Admission]) -> Result<Vec<Option<ClaimOutcome>>, Fault> {
        Ok(vec![None; admissions.len()])
    }

    /// The claims of those who hold these slots.
    ///
    /// # Errors
    /// [`Fault`]; reading is repeatable.
    async fn holders(&self, _slots: &BTreeSet<(&CampaignId, Slot)>) -> Result<Vec<Confirmation>, Fault> {
        Ok(Vec::new())
    }

    /// Whether some of the claims that wait may be decided now.
    fn can_decide(&self) -> bool {
        false
    }

    /// Decides claims that wait, at most `limit` of them, each transaction durable. Returns what became of them.
    ///
    /// # Errors
    /// [`Fault`]: those that were not decided wait on.
    async fn decide(&self, _limit: usize) -> Result<Vec<Confirmation>, Fault> {
        Ok(Vec::new())
    }
}

/// What became of an admission once its transaction is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// A coupon row was written, under this slot.
    Issued { slot: Slot },
    /// The user's coupon row existed before (I6), under this slot.
    Already { slot: Slot },
    /// A refusal row exists: no slot was left under the newest allotment. `slot` is the one that Redis had proposed.
    Refused { slot: Slot },
    /// Another user holds the proposed slot, and others are free: the claim waits in MySQL until nothing that was
    /// admitted before it is under way.
    Waiting,
    /// No row can be written. The record belongs into the dead-letter topic.
    Rejected(RejectReason),
}

/// Why a record can never become a row as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectReason {
    /// Stable label for headers, logs and metrics.
    pub label: &'static str,
    /// The same for a human. May quote the record: it goes to the dead letter, never to a log.
    pub text: String,
}

/// Where the records go that can never become a row.
pub trait DeadLetters {
    /// Sends them all. One result a record, in their order; `Ok` once the broker has acknowledged it.
    async fn publish(&self, records: &[(&Delivery, &RejectReason)]) -> Vec<Result<(), Fault>>;
}

/// A settled claim, to be written to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    pub campaign: CampaignId,
    pub user: UserId,
    /// What the user's entry becomes.
    pub entry: ClaimEntry,
}

/// Where settled claims are confirmed.
pub trait Confirmations {
    /// Takes what it can without waiting. What is lost here is sent again by the outbox, and
    /// confirmed when it arrives again.
    fn offer(&self, settled: Vec<Confirmation>);
}
