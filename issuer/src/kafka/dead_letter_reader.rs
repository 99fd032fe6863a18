//! Reads the dead-letter topic from its beginning to its present end, without joining any group.

use crate::cli::args::DlqFilter;
use crate::kafka::client::{self, Logged};
use crate::kafka::dead_letters::header;
use crate::kafka::settings::KafkaSettings;
use crate::store::mysql::replays::LetterKey;
use crate::timestamp;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::record::AdmissionRecord;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use time::PrimitiveDateTime;

const DEADLINE: Duration = Duration::from_secs(10);
/// Letters handed over at once.
pub const PAGE: usize = 500;
/// A page is handed over before it holds more than this.
const PAGE_BYTES: usize = 8 << 20;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
    /// When the record was given up.
    pub dead_at: PrimitiveDateTime,
    /// All headers, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Key of the record.
    pub key: Option<Vec<u8>>,
    /// Payload of the record.
    pub payload: Vec<u8>,
}

impl Letter {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers: Vec<(String, Vec<u8>)> = message
            .headers()
            .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect())
            .unwrap_or_default();
        let text =
            |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| String::from_utf8_lossy(value));
        let told_ms = text(header::TIME_MS).and_then(|text| text.parse::<u64>().ok());
        let sent_ms = message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok());
        let dead_at = told_ms.or(sent_ms).and_then(timestamp::from_ms).or_else(|| timestamp::from_ms(0));
        Self {
            partition: message.partition(),
            offset: message.offset(),
            dead_at: dead_at.unwrap_or(PrimitiveDateTime::MIN),
            headers,
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
        }
    }

    /// A header as text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    /// The topic that it came from.
    #[must_use]
    pub fn topic(&self) -> String {
        Some(self.header(header::TOPIC)).filter(|topic| !topic.is_empty()).unwrap_or_else(|| TOPIC.to_owned())
    }

    /// What MySQL remembers a replay by.
    #[must_use]
    pub fn identity(&self) -> LetterKey {
        (self.partition, self.offset, self.dead_at)
    }

    /// Campaign and user: from the payload, or else from the key `campaign/user`, which a malformed record
    /// has too.
    #[must_use]
    pub fn claim(&self) -> (Option<String>, Option<String>) {
        if let Ok(record) = AdmissionRecord::decode(&self.payload) {
            return (Some(record.campaign.to_string()), Some(record.user.as_str().to_owned()));
        }
        let key = self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        match key.as_ref().and_then(|key| key.split_once('/')) {
            Some((campaign, user)) => (Some(campaign.to_owned()), Some(user.to_owned())),
            None => (None, None),
        }
    }

    /// Whether `filter` lets it through, `limit` aside.
    #[must_use]
    pub fn passes(&self, filter: &DlqFilter) -> bool {
        filter.campaign.as_ref().is_none_or(|id| self.claim().0.as_deref() == Some(id.as_str()))
            && filter.cause.as_ref().is_none_or(|cause| self.header(header::CAUSE) == *cause)
            && filter.since.is_none_or(|since| self.dead_at >= since)
            && filter.until.is_none_or(|until| self.dead_at < until)
    }
}

/// A reading of the topic.
pub struct Reader {
    consumer: BaseConsumer<Logged>,
    /// Partition to where its end was when the reading began.
    ends: HashMap<i32, i64>,
    total: u64,
}

// `Logged` is the context of every client here; a consumer that joins no group needs nothing more.
impl rdkafka::consumer::ConsumerContext for Logged {}

impl Reader {
    /// Opens the topic. Blocks for some seconds at most.
    ///
    /// # Errors
    /// [`Fault`] if no broker answers, or there is no such topic.
    pub fn open(settings: &KafkaSettings, only: Option<(i32, i64)>) -> Result<Self, Fault> {
        let mut config = settings.client();
        config
            // assign() asks for a name although no group is joined.
            .set("group.id", "dropgate-dlq-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "16384");
        let failed = |error: KafkaError| client::fault("dead_letters", true, &error);
        let consumer: BaseConsumer<Logged> = config.create_with_context(Logged).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(DEAD_LETTER_TOPIC), DEADLINE).map_err(failed)?;
        let partitions: Vec<i32> = metadata
            .topics()
            .first()
            .map(|topic| topic.partitions().iter().map(|p| p.id()).collect())
            .unwrap_or_default();
        if partitions.is_empty() {
            return Err(Fault::none(
                Source::Kafka,
                "no_topic",
                false,
                format!("Kafka has no topic {DEAD_LETTER_TOPIC}; `issuer run --create-topics` creates it"),
            ));
        }
        let mut assignment = TopicPartitionList::new();
        let (mut ends, mut total) = (HashMap::new(), 0);
        for partition in partitions.into_iter().filter(|id| only.is_none_or(|(wanted, _)| wanted == *id)) {
            let (low, high) = consumer.fetch_watermarks(DEAD_LETTER_TOPIC, partition, DEADLINE).map_err(failed)?;
            let (from, to) = only.map_or((low, high), |(_, offset)| (offset.max(low), high.min(offset + 1)));
            if from < to {
                assignment.add_partition_offset(DEAD_LETTER_TOPIC, partition, Offset::Offset(from)).map_err(failed)?;
                ends.insert(partition, to);
                total += u64::try_from(to - from).unwrap_or(0);
            }
        }
        consumer.assign(&assignment).map_err(failed)?;
        Ok(Self { consumer, ends, total })
    }

    /// How many letters there are, at most.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next letters; none at the end. Blocks.
    ///
    /// # Errors
    /// [`Fault`] if the broker stops answering.
    pub fn page(&mut self) -> Result<Vec<Letter>, Fault> {
        let mut letters = Vec::new();
        let (mut bytes, mut quiet_since) = (0, Instant::now());
        while !self.ends.is_empty() && letters.len() < PAGE && bytes < PAGE_BYTES {
            match self.consumer.poll(Duration::from_millis(200)) {
                None if quiet_since.elapsed() > DEADLINE => {
                    return Err(Fault::unknown(
                        Source::Kafka,
                        "timeout",
                        "no dead letter within 10 s, although there are more",
                    ));
                }
                None => continue,
                Some(Ok(message)) => {
                    let end = self.ends.get(&message.partition()).copied().unwrap_or(0);
                    if message.offset() + 1 >= end {
                        self.ends.remove(&message.partition());
                    }
                    if message.offset() < end {
                        bytes += message.payload_len();
                        letters.push(Letter::of(&message));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ends.remove(&partition);
                }
                // librdkafka tries those again by itself, until the deadline above.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Resolve,
                ))) => continue,
                Some(Err(error)) => return Err(client::fault("dead_letters", true, &error)),
            }
            quiet_since = Instant::now();
        }
        Ok(letters)
    }
}
