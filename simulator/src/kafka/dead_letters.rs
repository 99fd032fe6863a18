//! The issuer's producer of dead letters, and the produce step of `dlq replay`.
//!
//! | rule | source |
//! |---|---|
//! | key and payload as they came; headers as `dropgate_issuer::kafka::ports::header` names them | issuer/src/kafka/dead_letters.rs |
//! | a letter that the broker rejects for its size is sent again, truncated | as above |
//! | the producer retries for `message.timeout.ms`, 10 s; then the outcome is unknown | as above; librdkafka CONFIGURATION.md |
//! | one idempotent producer: within a try nothing is written twice or out of order | librdkafka INTRODUCTION.md, "Idempotent Producer" |

use super::broker::{NewRecord, ProduceError, Record};
use super::server::Kafka;
use super::world::Availability;
use dropgate_issuer::kafka::ports::header;
use std::cell::RefCell;
use std::time::Duration;

/// `message.timeout.ms`
const TIMEOUT: Duration = Duration::from_secs(10);
const CAUSE_CHARACTERS: usize = 500;
const EVIDENCE_BYTES: usize = 64 << 10;

/// A record that can never become a row, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub label: &'static str,
    pub text: String,
}

/// Not acknowledged. Whether it is in the topic is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendError(pub &'static str);

/// What happens to one letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterFault {
    /// It never reaches the broker.
    Lost,
    /// It is written, but the acknowledgement is lost.
    Unacknowledged,
}

type Fails = Box<dyn FnMut() -> Option<LetterFault>>;

/// Sends dead letters from one topic to another.
pub struct SimDeadLetters {
    kafka: Kafka,
    source_topic: String,
    topic: String,
    fails: RefCell<Fails>,
}

impl SimDeadLetters {
    #[must_use]
    pub fn new(kafka: &Kafka, source_topic: &str, topic: &str) -> Self {
        let (source_topic, topic) = (source_topic.to_owned(), topic.to_owned());
        Self { kafka: kafka.clone(), source_topic, topic, fails: RefCell::new(Box::new(|| None)) }
    }

    /// `fails` is called once a letter.
    pub fn fail(&self, fails: impl FnMut() -> Option<LetterFault> + 'static) {
        *self.fails.borrow_mut() = Box::new(fails);
    }

    /// Sends letters. One result each, in their order.
    pub async fn send(&self, letters: Vec<DeadLetter>) -> Vec<Result<(), SendError>> {
        if tokio::time::timeout(TIMEOUT, self.kafka.reachable()).await.is_err() {
            self.kafka.world.borrow().log_fault("kafka: down", "dead letters");
            return letters.iter().map(|_| Err(SendError("MessageTimedOut"))).collect();
        }
        self.kafka.way().await;
        let mut results = Vec::with_capacity(letters.len());
        for letter in letters {
            let fault = (self.fails.borrow_mut())();
            results.push(self.append(&letter, fault));
        }
        self.kafka.way().await;
        results
    }

    fn append(&self, letter: &DeadLetter, fault: Option<LetterFault>) -> Result<(), SendError> {
        if let Some(fault) = fault {
            let kind = match fault {
                LetterFault::Lost => "dead letter: lost",
                LetterFault::Unacknowledged => "dead letter: not acknowledged",
            };
            self.kafka.world.borrow().log_fault(kind, format!("{}/{}", letter.partition, letter.offset));
        }
        if fault == Some(LetterFault::Lost) || self.kafka.world.borrow().availability() != Availability::Up {
            return Err(SendError("MessageTimedOut"));
        }
        let mut appended = self.kafka.produce(&self.topic, self.record(letter, usize::MAX));
        if appended == Err(ProduceError::MessageTooLarge) {
            appended = self.kafka.produce(&self.topic, self.record(letter, EVIDENCE_BYTES));
        }
        match (appended, fault) {
            (Ok(_), None) => Ok(()),
            (Ok(_), Some(_)) => Err(SendError("MessageTimedOut")),
            (Err(ProduceError::UnknownTopicOrPartition), _) => Err(SendError("UnknownTopicOrPartition")),
            (Err(ProduceError::MessageTooLarge), _) => Err(SendError("MessageSizeTooLarge")),
        }
    }

    fn record(&self, letter: &DeadLetter, most: usize) -> NewRecord {
        let now_ms = self.kafka.world.borrow().now_ms(tokio::time::Instant::now());
        let text: String = letter.text.chars().take(CAUSE_CHARACTERS).collect();
        let cut = letter.payload.len() > most || letter.key.as_ref().is_some_and(|key| key.len() > most);
        let mut headers: Vec<(String, Vec<u8>)> = [
            (header::TOPIC, self.source_topic.clone()),
            (header::PARTITION, letter.partition.to_string()),
            (header::OFFSET, letter.offset.to_string()),
            (header::CAUSE, letter.label.to_owned()),
            (header::CAUSE_TEXT, text),
            (header::ISSUER_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (header::TIME_MS, now_ms.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into_bytes()))
        .collect();
        if cut {
            headers.push((header::PAYLOAD_BYTES.to_owned(), letter.payload.len().to_string().into_bytes()));
        }
        NewRecord {
            partition: None,
            key: letter.key.clone().filter(|key| key.len() <= most),
            value: letter.payload.get(..most).unwrap_or(&letter.payload).to_vec(),
            headers,
        }
    }
}

/// Produces one record of the dead-letter topic to its source topic, key and payload unchanged, marked as replayed.
/// Returns partition and offset; none for a truncated letter, which is not replayed.
///
/// # Errors
/// [`SendError`]
pub async fn replay(kafka: &Kafka, letter: &Record) -> Result<Option<(i32, i64)>, SendError> {
    if letter.header(header::PAYLOAD_BYTES).is_some() {
        return Ok(None);
    }
    if tokio::time::timeout(TIMEOUT, kafka.reachable()).await.is_err() {
        return Err(SendError("MessageTimedOut"));
    }
    kafka.way().await;
    let topic = letter.header(header::TOPIC).map(|topic| String::from_utf8_lossy(topic).into_owned());
    let topic = topic.unwrap_or_else(|| dropgate_shared::names::TOPIC.to_owned());
    let headers = vec![(header::REPLAYED.to_owned(), b"1".to_vec())];
    let record = NewRecord { partition: None, key: letter.key.clone(), value: letter.value.clone(), headers };
    let produced = kafka.produce(&topic, record).map_err(|_| SendError("UnknownTopicOrPartition"));
    kafka.way().await;
    produced.map(Some)
}
