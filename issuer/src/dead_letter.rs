//! The producer of dead letters behind [`DeadLetters`].

use crate::kafka::{self, KafkaSettings, Logged};
use crate::moment;
use crate::ports::{Cause, DeadLetters, Delivery};
use dropgate_shared::fault::Fault;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use std::sync::{Mutex, PoisonError};

/// Headers of a dead letter. Their names are a format: tools read them.
pub mod header {
    /// Topic that the record came from.
    pub const TOPIC: &str = "dropgate.topic";
    /// Its partition there, a number.
    pub const PARTITION: &str = "dropgate.partition";
    /// Its offset there, a number.
    pub const OFFSET: &str = "dropgate.offset";
    /// Stable label of the cause.
    pub const CAUSE: &str = "dropgate.cause";
    /// The cause for a human.
    pub const CAUSE_TEXT: &str = "dropgate.cause_text";
    /// Version of the issuer that gave up on it.
    pub const ISSUER_VERSION: &str = "dropgate.issuer_version";
    /// When, in ms since the epoch.
    pub const TIME_MS: &str = "dropgate.time_ms";
}

/// Sends dead letters, key and payload as they came.
pub struct KafkaDeadLetters {
    settings: KafkaSettings,
    producer: Mutex<FutureProducer<Logged>>,
    source_topic: String,
    topic: String,
}

impl KafkaDeadLetters {
    /// Sends what comes from `source_topic` to `topic`.
    ///
    /// # Errors
    /// [`Fault`] for settings that librdkafka refuses.
    pub fn new(settings: KafkaSettings, source_topic: &str, topic: &str) -> Result<Self, Fault> {
        let producer = Mutex::new(producer(&settings)?);
        Ok(Self { settings, producer, source_topic: source_topic.to_owned(), topic: topic.to_owned() })
    }

    fn producer(&self) -> FutureProducer<Logged> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that lost its place in the sequence refuses all later records. A new one
    /// begins a new sequence; the caller sends again what failed.
    fn replace_if_dead(&self) {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, reason)) = current.client().fatal_error() {
            tracing::warn!(%code, reason, "the producer of dead letters failed for good; a new one takes over");
            match producer(&self.settings) {
                Ok(fresh) => *current = fresh,
                Err(fault) => tracing::error!("{fault}"),
            }
        }
    }
}

impl DeadLetters for KafkaDeadLetters {
    async fn bury(&self, letters: &[(&Delivery, &Cause)]) -> Vec<Result<(), Fault>> {
        let producer = self.producer();
        let time_ms = moment::to_ms(moment::now());
        let unsent = |error: &KafkaError| kafka::fault("dead_letter", true, error);
        // All are handed over before the first is waited for.
        let sent: Vec<_> = letters
            .iter()
            .map(|(delivery, cause)| {
                let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic)
                    .payload(&delivery.payload)
                    .headers(headers(&self.source_topic, delivery, cause, time_ms));
                record.key = delivery.key.as_deref();
                producer.send_result(record).map_err(|(error, _)| error)
            })
            .collect();
        let mut results = Vec::with_capacity(letters.len());
        for delivery in sent {
            results.push(match delivery {
                Ok(acknowledgement) => match acknowledgement.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(unsent(&error)),
                    Err(_) => Err(unsent(&KafkaError::Canceled)),
                },
                Err(error) => Err(unsent(&error)),
            });
        }
        if results.iter().any(Result::is_err) {
            self.replace_if_dead();
        }
        results
    }
}

fn producer(settings: &KafkaSettings) -> Result<FutureProducer<Logged>, Fault> {
    // The partitioner is the one of a Java producer.
    let defaults = [("message.timeout.ms", "10000"), ("linger.ms", "0"), ("partitioner", "murmur2_random")];
    settings
        .client_with(&defaults)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .create_with_context(Logged)
        .map_err(|error| kafka::fault("settings", false, &error))
}

fn headers(topic: &str, delivery: &Delivery, cause: &Cause, time_ms: u64) -> OwnedHeaders {
    let (partition, offset, time_ms) =
        (delivery.partition.to_string(), delivery.offset.to_string(), time_ms.to_string());
    [
        (header::TOPIC, topic),
        (header::PARTITION, &partition),
        (header::OFFSET, &offset),
        (header::CAUSE, cause.label),
        (header::CAUSE_TEXT, &cause.text),
        (header::ISSUER_VERSION, env!("CARGO_PKG_VERSION")),
        (header::TIME_MS, &time_ms),
    ]
    .into_iter()
    .fold(OwnedHeaders::new_with_capacity(7), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    #[test]
    fn a_dead_letter_carries_its_evidence() {
        let delivery = Delivery { partition: 3, offset: 42, key: None, payload: b"?".to_vec() };
        let cause = Cause { label: "malformed", text: "malformed: expected value".to_owned() };
        let headers = headers("coupon_create", &delivery, &cause, 1_763_700_000_123);
        let read: Vec<(&str, &str)> =
            headers.iter().map(|header| (header.key, std::str::from_utf8(header.value.unwrap()).unwrap())).collect();
        assert_eq!(
            read,
            [
                ("dropgate.topic", "coupon_create"),
                ("dropgate.partition", "3"),
                ("dropgate.offset", "42"),
                ("dropgate.cause", "malformed"),
                ("dropgate.cause_text", "malformed: expected value"),
                ("dropgate.issuer_version", env!("CARGO_PKG_VERSION")),
                ("dropgate.time_ms", "1763700000123"),
            ]
        );
    }
}
