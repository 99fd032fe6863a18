//! The producers of dead letters behind [`DeadLetters`], and of replayed records behind [`DeadLetterReplayer`].

use super::client::{self, Logged};
use super::ports::{DeadLetter, DeadLetterReplayer, header};
use super::settings::KafkaSettings;
use crate::consume::ports::{DeadLetters, Delivery, RejectReason};
use crate::labels;
use crate::timestamp::Clock;
use dropgate_shared::fault::Fault;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::{Mutex, PoisonError};

/// A cause may quote the record; it is cut after so many characters.
const CAUSE_CHARACTERS: usize = 500;
/// What is kept of a record that is too large to be a dead letter.
const EVIDENCE_BYTES: usize = 64 << 10;
/// What this client would send; the broker's own limit is the one that counts.
const LARGEST: &str = "100000000";

/// Sends dead letters, key and payload as they came.
pub struct KafkaDeadLetters {
    settings: KafkaSettings,
    producer: Mutex<FutureProducer<Logged>>,
    source_topic: String,
    topic: String,
    clock: Clock,
}

impl KafkaDeadLetters {
    /// Sends what comes from `source_topic` to `topic`.
    ///
    /// # Errors
    /// [`Fault`] for settings that librdkafka refuses.
    pub fn new(settings: KafkaSettings, source_topic: &str, topic: &str, clock: Clock) -> Result<Self, Fault> {
        let producer = Mutex::new(producer(&settings)?);
        Ok(Self { settings, producer, source_topic: source_topic.to_owned(), topic: topic.to_owned(), clock })
    }

    fn producer(&self) -> FutureProducer<Logged> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that lost its place in the sequence rejects all later records. A new one
    /// begins a new sequence; the caller sends again what failed.
    fn replace_if_dead(&self) {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((code, reason)) = current.client().fatal_error() {
            tracing::warn!(%code, reason, "the producer of dead letters failed for good; replacing it");
            match producer(&self.settings) {
                Ok(fresh) => *current = fresh,
                Err(fault) => tracing::error!("{fault}"),
            }
        }
    }
}

impl KafkaDeadLetters {
    /// Sends letters with at most `most` bytes of key and payload each.
    async fn send(&self, letters: &[(&Delivery, &RejectReason)], most: usize) -> Vec<Result<(), KafkaError>> {
        let producer = self.producer();
        let time_ms = self.clock.now_ms();
        // All are handed over before the first is waited for.
        let sent: Vec<_> = letters
            .iter()
            .map(|(delivery, cause)| {
                let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic)
                    .payload(delivery.payload.get(..most).unwrap_or(&delivery.payload))
                    .headers(headers(&self.source_topic, delivery, cause, time_ms, most));
                record.key = delivery.key.as_deref().filter(|key| key.len() <= most);
                producer.send_result(record).map_err(|(error, _)| error)
            })
            .collect();
        acknowledged(sent).await
    }
}

/// Waits for the broker's answer to each.
async fn acknowledged(sent: Vec<Result<DeliveryFuture, KafkaError>>) -> Vec<Result<(), KafkaError>> {
    let mut results = Vec::with_capacity(sent.len());
    for delivery in sent {
        results.push(match delivery {
            Ok(acknowledgement) => match acknowledgement.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => Err(error),
                Err(_) => Err(KafkaError::Canceled),
            },
            Err(error) => Err(error),
        });
    }
    results
}

impl DeadLetters for KafkaDeadLetters {
    async fn publish(&self, letters: &[(&Delivery, &RejectReason)]) -> Vec<Result<(), Fault>> {
        let mut results = self.send(letters, usize::MAX).await;
        // With its headers a dead letter is larger than its record. No broker would ever accept it: its beginning is
        // evidence enough, and the whole record is still where it came from.
        let too_large = Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge));
        for (letter, result) in letters.iter().zip(&mut results).filter(|(_, result)| **result == too_large) {
            *result = self.send(&[*letter], EVIDENCE_BYTES).await.pop().unwrap_or(Err(KafkaError::Canceled));
        }
        if results.iter().any(Result::is_err) {
            self.replace_if_dead();
        }
        results
            .into_iter()
            .map(|result| result.map_err(|error| client::fault(labels::DEAD_LETTER, true, &error)))
            .collect()
    }
}

fn producer(settings: &KafkaSettings) -> Result<FutureProducer<Logged>, Fault> {
    // The partitioner is the one of a Java producer.
    let defaults = [
        ("message.timeout.ms", "10000"),
        ("linger.ms", "0"),
        ("partitioner", "murmur2_random"),
        ("message.max.bytes", LARGEST),
    ];
    settings
        .client_with(&defaults)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .create_with_context(Logged)
        .map_err(|error| client::fault(labels::SETTINGS, false, &error))
}

/// The [`DeadLetterReplayer`] on rdkafka.
pub struct KafkaReplayer {
    producer: FutureProducer<Logged>,
    /// Of letters that do not name theirs.
    topic: String,
}

impl KafkaReplayer {
    /// A producer of its own.
    ///
    /// # Errors
    /// [`Fault`] for settings that librdkafka refuses.
    pub fn new(settings: &KafkaSettings) -> Result<Self, Fault> {
        let producer = settings
            .client()
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "30000")
            .set("linger.ms", "5")
            // The partition that the record came from: that of a Java producer.
            .set("partitioner", "murmur2_random")
            .create_with_context(Logged)
            .map_err(|error| client::fault(labels::SETTINGS, false, &error))?;
        Ok(Self { producer, topic: settings.topics.admissions.clone() })
    }
}

impl DeadLetterReplayer for KafkaReplayer {
    async fn replay(&self, letters: &[DeadLetter]) -> Vec<Result<(), Fault>> {
        // All are handed over before the first is waited for.
        let sent = letters.iter().map(|letter| {
            let topic = letter.topic().unwrap_or_else(|| self.topic.clone());
            let replayed = OwnedHeaders::new().insert(Header { key: header::REPLAYED, value: Some("1") });
            let mut record = FutureRecord::<[u8], [u8]>::to(&topic).payload(&letter.payload).headers(replayed);
            record.key = letter.key.as_deref();
            self.producer.send_result(record).map_err(|(error, _)| error)
        });
        let results = acknowledged(sent.collect()).await;
        results.into_iter().map(|result| result.map_err(|error| client::fault(labels::REPLAY, true, &error))).collect()
    }
}

fn headers(topic: &str, delivery: &Delivery, cause: &RejectReason, time_ms: u64, most: usize) -> OwnedHeaders {
    let (partition, offset, time_ms) =
        (delivery.partition.to_string(), delivery.offset.to_string(), time_ms.to_string());
    let end = cause.text.char_indices().nth(CAUSE_CHARACTERS).map_or(cause.text.len(), |(end, _)| end);
    let text = cause.text.get(..end).unwrap_or_default();
    let payload_bytes = delivery.payload.len().to_string();
    let partly = delivery.payload.len() > most || delivery.key.as_ref().is_some_and(|key| key.len() > most);
    [
        (header::TOPIC, topic),
        (header::PARTITION, &partition),
        (header::OFFSET, &offset),
        (header::CAUSE, cause.label),
        (header::CAUSE_TEXT, text),
        (header::ISSUER_VERSION, env!("CARGO_PKG_VERSION")),
        (header::TIME_MS, &time_ms),
    ]
    .into_iter()
    .chain(partly.then_some((header::PAYLOAD_BYTES, payload_bytes.as_str())))
    .fold(OwnedHeaders::new_with_capacity(8), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers;

    #[test]
    fn a_dead_letter_carries_its_evidence() {
        let delivery = Delivery { partition: 3, offset: 42, key: None, payload: b"?".to_vec(), replayed: false };
        let cause = RejectReason { label: "malformed", text: "malformed: expected value".to_owned() };
        let headers = headers("coupon_create", &delivery, &cause, 1_763_700_000_123, usize::MAX);
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
    #[test]
    fn a_record_that_is_too_large_carries_its_size_and_a_long_cause_is_cut() {
        let delivery = Delivery { partition: 0, offset: 0, key: None, payload: vec![b'x'; 100], replayed: false };
        let cause = RejectReason { label: "malformed", text: "é".repeat(9_999) };
        let headers = headers("coupon_create", &delivery, &cause, 0, 10);
        let value = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
        assert_eq!(value(header::PAYLOAD_BYTES), Some("100".as_bytes()));
        assert_eq!(value(header::CAUSE_TEXT).map(<[u8]>::len), Some(2 * CAUSE_CHARACTERS));
    }
}
