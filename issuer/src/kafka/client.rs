//! What all Kafka clients here share: the log, and errors as faults.

use crate::labels;
use dropgate_shared::fault::{Fault, Source};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The context of a client: librdkafka's log goes to ours.
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

/// Logs an error that librdkafka met by itself, and handles by itself.
pub fn report(error: &KafkaError, reason: &str) {
    tracing::warn!(target: "librdkafka", %error, reason);
}

/// The stable label of an error that librdkafka met by itself.
#[must_use]
pub fn label_of(error: &KafkaError) -> &'static str {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::AllBrokersDown) => labels::ALL_BROKERS_DOWN,
        Some(Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut) => labels::TRANSPORT,
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => labels::AUTHENTICATION,
        Some(Code::SSL) => labels::TLS,
        _ => labels::OTHER,
    }
}

/// A Kafka error as a fault.
#[must_use]
pub fn fault(label: &'static str, retry: bool, error: &KafkaError) -> Fault {
    let detail = match error {
        // Its own text repeats the value, which may be a mistyped password's.
        KafkaError::ClientConfig(_, problem, key, _) => format!("{problem} ({key}; KAFKA_OPTIONS?)"),
        other => other.to_string(),
    };
    let mut fault = Fault::unknown(Source::Kafka, label, detail);
    fault.retry = retry;
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_client_have_stable_labels() {
        for (code, label) in [
            (RDKafkaErrorCode::AllBrokersDown, "all_brokers_down"),
            (RDKafkaErrorCode::BrokerTransportFailure, "transport"),
            (RDKafkaErrorCode::Authentication, "authentication"),
            (RDKafkaErrorCode::SSL, "tls"),
            (RDKafkaErrorCode::UnknownTopicOrPartition, "other"),
        ] {
            assert_eq!(label_of(&KafkaError::Global(code)), label);
        }
    }
}
