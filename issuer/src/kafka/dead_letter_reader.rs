//! Reads the dead-letter topic from its beginning to its present end, without joining any group.

use super::client::{self, Logged};
use super::ports::{DeadLetter, DeadLetterReader, header};
use super::settings::KafkaSettings;
use crate::labels;
use crate::timestamp;
use dropgate_shared::fault::{Fault, Source};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use time::PrimitiveDateTime;

const DEADLINE: Duration = Duration::from_secs(10);
/// Dead letters of one page.
pub const PAGE: usize = 500;
/// A page ends before it holds more than this.
const PAGE_BYTES: usize = 8 << 20;

fn read(message: &BorrowedMessage<'_>) -> DeadLetter {
    let headers: Vec<(String, Vec<u8>)> = message
        .headers()
        .map(|headers| headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect())
        .unwrap_or_default();
    let sent_ms = message.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok());
    let mut letter = DeadLetter {
        partition: message.partition(),
        offset: message.offset(),
        dead_at: PrimitiveDateTime::MIN,
        headers,
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
    };
    let given_up_ms = letter.header(header::TIME_MS).parse().ok().or(sent_ms);
    if let Some(dead_at) = given_up_ms.and_then(timestamp::from_ms).or_else(|| timestamp::from_ms(0)) {
        letter.dead_at = dead_at;
    }
    letter
}

/// The [`DeadLetterReader`] on rdkafka.
pub struct KafkaDeadLetterReader {
    /// `None` while a page is read on another thread, and after that failed.
    reading: Option<Reading>,
    total: u64,
}

struct Reading {
    consumer: BaseConsumer<Logged>,
    /// Partition to where its end was when the reading began.
    ends: HashMap<i32, i64>,
}

// `Logged` is the context of every client here; a consumer that joins no group needs nothing more.
impl rdkafka::consumer::ConsumerContext for Logged {}

impl KafkaDeadLetterReader {
    /// Opens the topic, or only the dead letter at one partition and offset of it.
    ///
    /// # Errors
    /// [`Fault`] if no broker answers, or there is no such topic.
    pub async fn open(settings: &KafkaSettings, only: Option<(i32, i64)>) -> Result<Self, Fault> {
        let settings = settings.clone();
        let (reading, total) = blocking(move || Reading::open(&settings, only)).await?;
        Ok(Self { reading: Some(reading), total })
    }

    /// How many dead letters there are at most.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl DeadLetterReader for KafkaDeadLetterReader {
    async fn page(&mut self) -> Result<Vec<DeadLetter>, Fault> {
        let Some(mut reading) = self.reading.take() else { return Ok(Vec::new()) };
        let (reading, page) = blocking(move || {
            let page = reading.page()?;
            Ok((reading, page))
        })
        .await?;
        self.reading = Some(reading);
        Ok(page)
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let cancelled = |_| Fault::unknown(Source::Kafka, labels::CANCELLED, "the read was cancelled");
    tokio::task::spawn_blocking(call).await.map_err(cancelled)?
}

impl Reading {
    fn open(settings: &KafkaSettings, only: Option<(i32, i64)>) -> Result<(Self, u64), Fault> {
        let topic = settings.topics.dead_letters.as_str();
        let mut config = settings.client();
        config
            // assign() asks for a name although no group is joined.
            .set("group.id", "dropgate-dlq-reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("queued.max.messages.kbytes", "16384");
        let failed = |error: KafkaError| client::fault(labels::DEAD_LETTERS, true, &error);
        let consumer: BaseConsumer<Logged> = config.create_with_context(Logged).map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).map_err(failed)?;
        let partitions: Vec<i32> = metadata
            .topics()
            .first()
            .map(|topic| topic.partitions().iter().map(|p| p.id()).collect())
            .unwrap_or_default();
        if partitions.is_empty() {
            return Err(Fault::none(
                Source::Kafka,
                labels::NO_TOPIC,
                false,
                format!("Kafka has no topic {topic}; `issuer run --create-topics` creates it"),
            ));
        }
        let mut assignment = TopicPartitionList::new();
        let (mut ends, mut total) = (HashMap::new(), 0);
        for partition in partitions.into_iter().filter(|id| only.is_none_or(|(wanted, _)| wanted == *id)) {
            let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).map_err(failed)?;
            let (from, to) = only.map_or((low, high), |(_, offset)| (offset.max(low), high.min(offset + 1)));
            if from < to {
                assignment.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(failed)?;
                ends.insert(partition, to);
                total += u64::try_from(to - from).unwrap_or(0);
            }
        }
        consumer.assign(&assignment).map_err(failed)?;
        Ok((Self { consumer, ends }, total))
    }

    /// Blocks.
    fn page(&mut self) -> Result<Vec<DeadLetter>, Fault> {
        let mut letters = Vec::new();
        let (mut bytes, mut quiet_since) = (0, Instant::now());
        while !self.ends.is_empty() && letters.len() < PAGE && bytes < PAGE_BYTES {
            match self.consumer.poll(Duration::from_millis(200)) {
                None if quiet_since.elapsed() > DEADLINE => {
                    return Err(Fault::unknown(
                        Source::Kafka,
                        labels::TIMEOUT,
                        "no dead letter arrived within 10 s, although there are more",
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
                        letters.push(read(&message));
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
                Some(Err(error)) => return Err(client::fault(labels::DEAD_LETTERS, true, &error)),
            }
            quiet_since = Instant::now();
        }
        Ok(letters)
    }
}
