//! The producer behind the REST API, and its cache of the topics.

use super::record::Record;
use crate::error::StartError;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The environment variable that holds the brokers' addresses.
pub const KAFKA_BOOTSTRAP_ENV: &str = "KAFKA_BOOTSTRAP";

/// How long the metadata of a topic is used before a broker is asked again.
const TOPIC_TTL: Duration = Duration::from_secs(10);
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);

/// Settings of the producer.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// After this time an unacknowledged record is reported as failed; its outcome is unknown then.
    pub message_timeout_ms: u32,
    /// How long a record waits for others to form a batch.
    pub linger_ms: u32,
}

impl ProducerSettings {
    /// The defaults for the brokers at `bootstrap`.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), message_timeout_ms: 10_000, linger_ms: 2 }
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "dropgate-kafka-rest-proxy")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", self.message_timeout_ms.to_string())
            .set("linger.ms", self.linger_ms.to_string())
            // The same key goes to the same partition as with a Java producer.
            .set("partitioner", "murmur2_random")
            // A topic that was deleted or mistyped must not be created by a request.
            .set("allow.auto.create.topics", "false")
            .set("socket.nagle.disable", "true")
            // A restarted broker is found within 1 s; the default grows to 10 s.
            .set("reconnect.backoff.max.ms", "1000");
        config
    }
}

/// Writes librdkafka's log to this process's log.
#[derive(Clone, Copy)]
struct Context;

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(target: "librdkafka", facility, message);
            }
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, message),
            _ => tracing::debug!(target: "librdkafka", facility, message),
        }
    }

    // Repeated for every attempt to reconnect; the log above reports it at intervals.
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
    }
}

type KafkaProducer = FutureProducer<Context>;

/// Partition and offset of a written record, or why it failed.
pub(super) type Delivery = Result<(i32, i64), KafkaError>;

/// What the brokers report of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// It exists and has this many partitions.
    Partitions(i32),
    /// It does not exist.
    Unknown,
}

/// A Kafka, over one idempotent producer.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    settings: ProducerSettings,
    producer: RwLock<KafkaProducer>,
    topics: RwLock<HashMap<String, (Instant, i32)>>,
}

impl Upstream {
    /// Creates a producer and waits until a broker responds, for `wait` at most.
    ///
    /// # Errors
    /// [`StartError::Setting`] for settings that librdkafka rejects, [`StartError::Unreachable`] when the wait
    /// is over.
    pub async fn connect(settings: ProducerSettings, wait: Duration) -> Result<Self, StartError> {
        let producer = settings.client_config().create_with_context(Context).map_err(|error: KafkaError| {
            StartError::Setting { setting: KAFKA_BOOTSTRAP_ENV, cause: error.to_string() }
        })?;
        let inner = Inner { settings, producer: RwLock::new(producer), topics: RwLock::default() };
        let upstream = Self(Arc::new(inner));
        let deadline = Instant::now() + wait;
        loop {
            let Err(error) = upstream.topic_names().await else { return Ok(upstream) };
            if Instant::now() >= deadline {
                return Err(StartError::Unreachable {
                    upstream: format!("Kafka at {}", upstream.0.settings.bootstrap),
                    env: KAFKA_BOOTSTRAP_ENV,
                    waited_s: wait.as_secs(),
                    cause: error.to_string(),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The names of all topics except internal ones, from a broker.
    pub(super) async fn topic_names(&self) -> Result<Vec<String>, KafkaError> {
        self.metadata(None, |metadata| {
            let names = metadata.topics().iter().map(|topic| topic.name());
            names.filter(|name| !name.starts_with("__")).map(str::to_owned).collect()
        })
        .await
    }

    /// The topic `name`, from the cache while that is fresh, otherwise from a broker.
    pub(super) async fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let known = self.0.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some((seen, partitions)) = known
            && seen.elapsed() < TOPIC_TTL
        {
            return Ok(Topic::Partitions(partitions));
        }
        let topic = self
            .metadata(Some(name.to_owned()), |metadata| match metadata.topics().first() {
                Some(topic) => match topic.error().map(RDKafkaErrorCode::from) {
                    None => Ok(Topic::Partitions(i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))),
                    Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::InvalidTopic) => {
                        Ok(Topic::Unknown)
                    }
                    Some(code) => Err(KafkaError::MetadataFetch(code)),
                },
                None => Ok(Topic::Unknown),
            })
            .await??;
        let mut topics = self.0.topics.write().unwrap_or_else(PoisonError::into_inner);
        match topic {
            Topic::Partitions(partitions) => topics.insert(name.to_owned(), (Instant::now(), partitions)),
            Topic::Unknown => topics.remove(name),
        };
        Ok(topic)
    }

    /// Removes `name` from the cache.
    pub(super) fn forget(&self, name: &str) {
        self.0.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    async fn metadata<T: Send + 'static>(
        &self,
        topic: Option<String>,
        read: impl FnOnce(&rdkafka::metadata::Metadata) -> T + Send + 'static,
    ) -> Result<T, KafkaError> {
        let producer = self.producer();
        let fetched = tokio::task::spawn_blocking(move || {
            producer.client().fetch_metadata(topic.as_deref(), METADATA_TIMEOUT).map(|metadata| read(&metadata))
        });
        fetched.await.unwrap_or(Err(KafkaError::Canceled))
    }

    /// Gives all records to the producer before it awaits the first: a batch costs one round trip, not one a
    /// record. The deliveries are in the order of the records.
    pub(super) async fn produce(&self, topic: &str, records: &[Record<'_>]) -> Vec<Delivery> {
        let producer = self.producer();
        let sent: Vec<_> = records
            .iter()
            .map(|record| {
                let mut message: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic);
                message.key = record.key.as_deref();
                message.payload = record.value.as_deref();
                message.partition = record.partition;
                producer.send_result(message).map_err(|(error, _)| error)
            })
            .collect();
        let mut deliveries = Vec::with_capacity(sent.len());
        for record in sent {
            deliveries.push(match record {
                Ok(pending) => match pending.await {
                    Ok(Ok(delivered)) => Ok((delivered.partition, delivered.offset)),
                    Ok(Err((error, _))) => Err(error),
                    Err(_) => Err(KafkaError::Canceled),
                },
                Err(error) => Err(error),
            });
        }
        if deliveries.iter().any(Result::is_err) {
            self.replace_if_dead(&producer);
        }
        deliveries
    }

    fn producer(&self) -> KafkaProducer {
        self.0.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that lost its place in the sequence (for example because the topic was deleted)
    /// rejects every later record. A new one starts a new sequence; callers repeat what failed.
    fn replace_if_dead(&self, used: &KafkaProducer) {
        let Some((code, reason)) = used.client().fatal_error() else { return };
        let mut current = self.0.producer.write().unwrap_or_else(PoisonError::into_inner);
        if current.client().fatal_error().is_none() {
            return; // another request has replaced it
        }
        match self.0.settings.client_config().create_with_context(Context) {
            Ok(fresh) => {
                tracing::warn!(%code, reason, "the producer failed permanently and was replaced");
                *current = fresh;
            }
            Err(error) => tracing::error!(%error, "no new producer could be created"),
        }
    }

    /// Waits for records in flight; call it after the last request.
    pub async fn flush(&self) {
        let producer = self.producer();
        let timeout = Duration::from_millis(self.0.settings.message_timeout_ms.into());
        let flushed = tokio::task::spawn_blocking(move || producer.flush(timeout)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("some records were still in flight at the end");
        }
    }
}
