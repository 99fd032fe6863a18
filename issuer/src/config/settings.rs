//! The settings of `issuer run`.

use crate::consume::budget::WriteBudget;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::TopicSettings;
use crate::redis::client::RedisSettings;
use crate::store::mysql::settings::DatabaseSettings;
use dropgate_shared::code::CodeSecrets;
use std::net::SocketAddr;
use std::time::Duration;

/// Everything that `issuer run` needs.
pub struct RunSettings {
    pub database: DatabaseSettings,
    pub kafka: KafkaSettings,
    pub redis: RedisSettings,
    /// What codes are derived from.
    pub secrets: CodeSecrets,
    /// Records in one transaction at most.
    pub batch_records: usize,
    /// How long the first record of a batch waits.
    pub batch_linger: Duration,
    /// How fast rows are written.
    pub write_budget: WriteBudget,
    /// After how many dead letters in a row the service ends; 0: never.
    pub dead_letter_limit: u32,
    /// Where health and metrics are served.
    pub http_listen: Option<SocketAddr>,
    /// Where traces go: the address of an OpenTelemetry collector.
    pub otlp_endpoint: Option<String>,
    /// How absent topics are created, if they are.
    pub create_topics: Option<TopicSettings>,
}
