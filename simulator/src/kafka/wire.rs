//! Requests and answers between a client and the broker, reduced to what the model needs.

use super::broker::{Slice, TopicMetadata};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Partition numbers.
pub type Partitions = BTreeSet<i32>;

/// A client of the broker.
pub type ClientId = u32;

/// A member's metadata in JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub owned: Partitions,
    /// The generation in which it received them; -1 for none.
    pub owned_generation: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    FindCoordinator,
    Metadata { purpose: MetadataPurpose },
    Join { subscription: Subscription },
    Sync { generation: i32, assignments: BTreeMap<String, Partitions> },
    Heartbeat { generation: i32 },
    Leave,
    Commit { generation: i32, offsets: BTreeMap<i32, i64>, ticket: Option<u64> },
    OffsetFetch { partitions: Partitions, assignment_version: u64 },
    ListOffsets { partition: i32, version: u64, leader_epoch: i32 },
    Fetch { topic_id: u64, leader_epoch: i32, from: Vec<FetchFrom>, wait: Duration },
}

impl Request {
    /// For the fault log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::FindCoordinator => "find coordinator",
            Self::Metadata { .. } => "metadata",
            Self::Join { .. } => "join",
            Self::Sync { .. } => "sync",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Leave => "leave",
            Self::Commit { .. } => "commit",
            Self::OffsetFetch { .. } => "offset fetch",
            Self::ListOffsets { .. } => "list offsets",
            Self::Fetch { .. } => "fetch",
        }
    }
}

/// The purpose of a metadata request decides what its answer changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataPurpose {
    /// Before a join, and every `topic.metadata.refresh.interval.ms`.
    Subscription,
    /// The leader of a group counts the partitions.
    Assignor,
    /// A fetch has failed with an unknown topic.
    Leader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFrom {
    pub partition: i32,
    pub offset: i64,
    /// Version barrier of the partition at the time of the request.
    pub version: u64,
}

/// A request in transit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub client: ClientId,
    /// Number of the request.
    pub id: u64,
    pub topic: String,
    pub group: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    pub request: Request,
}

/// A member as the group's leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub subscription: Subscription,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Coordinator,
    Metadata(Option<TopicMetadata>),
    /// `members` only for the leader.
    Joined {
        member_id: String,
        generation: i32,
        members: Vec<MemberInfo>,
    },
    Synced(Partitions),
    Done,
    /// By partition, where a commit failed for that partition alone.
    Committed(BTreeMap<i32, ErrorCode>),
    Offsets(BTreeMap<i32, Option<i64>>),
    Offset(i64),
    Fetched(BTreeMap<i32, Result<Slice, ErrorCode>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorCode {
    /// No answer: the connection broke, could not be made, or nothing came in time.
    Transport,
    UnknownMemberId,
    IllegalGeneration,
    RebalanceInProgress,
    /// With the id to join with (KIP-394).
    MemberIdRequired(String),
    FencedInstanceId,
    UnknownTopicOrPartition,
    UnknownTopicId,
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
    OffsetOutOfRange,
}

pub type Outcome = Result<Answer, ErrorCode>;
