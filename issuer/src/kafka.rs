//! What all Kafka clients here share: addresses, the log, and the words for errors.

use dropgate_shared::fault::{Fault, Source};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// A Kafka.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// Consumer group of the issuers.
    pub group: String,
}

impl KafkaSettings {
    /// The configuration that every client begins with.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "dropgate-issuer")
            // A topic that somebody deleted, or mistyped, must not appear by itself.
            .set("allow.auto.create.topics", "false");
        config
    }
}

/// Sends librdkafka's log to ours.
#[derive(Debug, Clone, Copy)]
pub struct Logged;

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&error, reason);
    }
}

/// Writes a line of librdkafka's log.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(target: "librdkafka", facility, message);
        }
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, message),
        _ => tracing::debug!(target: "librdkafka", facility, message),
    }
}

/// Writes an error that librdkafka met by itself, and mends by itself.
pub fn report(error: &KafkaError, reason: &str) {
    tracing::warn!(target: "librdkafka", %error, reason);
}

/// A Kafka error as a fault.
#[must_use]
pub fn fault(label: &'static str, retry: bool, error: &KafkaError) -> Fault {
    let mut fault = Fault::unknown(Source::Kafka, label, error.to_string());
    fault.retry = retry;
    fault
}
