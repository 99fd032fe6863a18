//! Settings of the broker and of a member; the defaults are those of the issuer's adapter, and else librdkafka's.

use super::adapter::AdapterRules;
use std::time::Duration;

/// Settings of the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Wall clock at the start, in ms since the epoch.
    pub epoch_ms: u64,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay: Duration,
    /// Records of a partition in the answer to one fetch, at most.
    pub fetch_records: usize,
    /// `max.message.bytes`; 0: no limit.
    pub max_record_bytes: usize,
    /// Whether committed offsets outlive the deletion of their topic. Kafka 4.3.1 removes them.
    pub offsets_outlive_topic: bool,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            epoch_ms: 1_767_225_600_000,
            initial_rebalance_delay: Duration::from_secs(3),
            fetch_records: 500,
            max_record_bytes: 1_048_588,
            offsets_outlive_topic: false,
        }
    }
}

/// Settings of a group member.
#[derive(Debug, Clone)]
pub struct MemberSettings {
    pub group: String,
    /// `group.instance.id`: a static member.
    pub instance_id: Option<String>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub max_poll_interval: Duration,
    pub auto_commit_interval: Duration,
    pub statistics_interval: Duration,
    /// `topic.metadata.refresh.interval.ms`
    pub metadata_refresh_interval: Duration,
    /// `topic.metadata.propagation.max.ms`
    pub metadata_propagation: Duration,
    pub socket_timeout: Duration,
    /// `fetch.wait.max.ms`
    pub fetch_wait: Duration,
    /// `queued.min.messages`
    pub queued_min_messages: usize,
    /// Whether an OffsetFetch that fails while the assignment changes is never retried, so that its partitions are never
    /// fetched. librdkafka's source reads so (rdkafka_assignment.c `rd_kafka_assignment_handle_OffsetFetch`), but it was
    /// not reproduced on a real broker: off.
    pub lost_offset_fetch_hangs: bool,
    pub adapter: AdapterRules,
}

impl MemberSettings {
    #[must_use]
    pub fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            instance_id: None,
            session_timeout: Duration::from_secs(15),
            heartbeat_interval: Duration::from_secs(1),
            max_poll_interval: Duration::from_secs(300),
            auto_commit_interval: Duration::from_secs(1),
            statistics_interval: Duration::from_secs(5),
            metadata_refresh_interval: Duration::from_secs(300),
            metadata_propagation: Duration::from_secs(30),
            socket_timeout: Duration::from_secs(10),
            fetch_wait: Duration::from_millis(500),
            queued_min_messages: 20_000,
            lost_offset_fetch_hangs: false,
            adapter: AdapterRules::default(),
        }
    }
}
