//! Kafka's topics: whether they exist, creating them, and how far the group is behind.

use super::client::{self, Logged};
use super::ports::{self, Backlog, Position};
use super::settings::KafkaSettings;
use crate::labels;
use dropgate_shared::fault::{Fault, Source};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(5);

/// How topics are created.
#[derive(Debug, Clone, Copy)]
pub struct TopicSettings {
    pub partitions: i32,
    /// Copies of each partition; -1 for the broker's own default.
    pub replication: i32,
}

/// Those of `topics` that do not exist.
///
/// # Errors
/// [`Fault`] if no broker answers.
pub async fn missing(settings: &KafkaSettings, topics: &[&str]) -> Result<Vec<String>, Fault> {
    let config = settings.client();
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    look(config, move |consumer| {
        let mut missing = Vec::new();
        for topic in topics {
            if partitions(consumer, &topic)?.is_empty() {
                missing.push(topic);
            }
        }
        Ok(missing)
    })
    .await
}

/// How many partitions `topic` has.
///
/// # Errors
/// [`Fault`] if no broker answers, or one that does not know the topic yet.
pub async fn count(settings: &KafkaSettings, topic: &str) -> Result<usize, Fault> {
    let (config, name) = (settings.client(), topic.to_owned());
    match look(config, move |consumer| Ok(partitions(consumer, &name)?.len())).await? {
        0 => Err(Fault::none(
            Source::Kafka,
            labels::NO_TOPIC,
            true,
            format!("the broker has no partition of {topic} yet"),
        )),
        count => Ok(count),
    }
}

/// Creates topics: the dead-letter topic with one partition and unlimited retention, the others with the wanted
/// number of partitions.
///
/// # Errors
/// [`Fault`]. A topic that exists already is none.
pub async fn create(
    settings: &KafkaSettings,
    topics: &[String],
    dead_letter_topic: &str,
    TopicSettings { partitions, replication }: TopicSettings,
) -> Result<(), Fault> {
    let admin: AdminClient<DefaultClientContext> =
        settings.client().create().map_err(|error| client::fault(labels::SETTINGS, false, &error))?;
    let new = topics.iter().map(|topic| {
        let replication = TopicReplication::Fixed(replication);
        if topic == dead_letter_topic {
            NewTopic::new(topic, 1, replication).set("retention.ms", "-1")
        } else {
            NewTopic::new(topic, partitions, replication)
        }
    });
    let new: Vec<NewTopic<'_>> = new.collect();
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE)).request_timeout(Some(DEADLINE));
    let results =
        admin.create_topics(&new, &options).await.map_err(|error| client::fault(labels::CREATE_TOPIC, true, &error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(Fault::none(Source::Kafka, labels::CREATE_TOPIC, false, format!("topic {topic}: {code}")));
            }
        }
    }
    Ok(())
}

/// How far the group is in each partition of `topic`.
///
/// # Errors
/// [`Fault`] if no broker answers, or there is no such topic.
pub async fn positions(settings: &KafkaSettings, topic: &str) -> Result<Vec<Position>, Fault> {
    let (mut config, topic) = (settings.client(), topic.to_owned());
    config.set("group.id", &settings.group);
    look(config, move |consumer| {
        let topic = topic.as_str();
        let ids = partitions(consumer, topic)?;
        if ids.is_empty() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        let mut wanted = TopicPartitionList::with_capacity(ids.len());
        for id in &ids {
            wanted.add_partition(topic, *id);
        }
        // Before the ends: what is committed by then lies before them.
        let committed = consumer.committed_offsets(wanted, DEADLINE)?;
        let position = |element: TopicPartitionListElem<'_>| {
            let ends = consumer.fetch_watermarks(topic, element.partition(), DEADLINE)?;
            let next = if let Offset::Offset(next) = element.offset() { Some(next) } else { None };
            Ok(Position::new(element.partition(), next, ends))
        };
        committed.elements().into_iter().map(position).collect()
    })
    .await
}

/// Records of `topic` that the group has not committed.
///
/// # Errors
/// As [`positions`].
pub async fn lag(settings: &KafkaSettings, topic: &str) -> Result<u64, Fault> {
    Ok(ports::lag(&positions(settings, topic).await?))
}

impl Backlog for KafkaSettings {
    async fn positions(&self) -> Result<Vec<Position>, Fault> {
        positions(self, &self.topics.admissions).await
    }
}

/// The partitions of a topic; none if it does not exist.
fn partitions(consumer: &BaseConsumer<Observer>, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let Some(topic) = metadata.topics().first() else {
        return Ok(Vec::new());
    };
    match topic.error().map(RDKafkaErrorCode::from) {
        None => Ok(topic.partitions().iter().map(|partition| partition.id()).collect()),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(Vec::new()),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}

/// Runs a call on a client of its own, on a thread that may block.
async fn look<T: Send + 'static>(
    config: ClientConfig,
    call: impl FnOnce(&BaseConsumer<Observer>) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, Fault> {
    let looked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer<Observer> = config
            .create_with_context(Observer::default())
            .map_err(|error| client::fault(labels::SETTINGS, false, &error))?;
        call(&consumer).map_err(|error| {
            // The call reports "no answer"; the reason, such as a wrong password, comes through the context.
            for _ in 0..10 {
                let _ = consumer.poll(Duration::from_millis(1));
            }
            let mut fault = client::fault(labels::METADATA, true, &error);
            if let Some(reason) = consumer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                fault.detail = format!("{}; {reason}", fault.detail);
            }
            fault
        })
    });
    looked.await.unwrap_or_else(|_| Err(client::fault(labels::METADATA, true, &KafkaError::Canceled)))
}

/// The context of a client that joins no group. Keeps the first error that librdkafka reports: the ones after it are
/// that all brokers are down.
#[derive(Default)]
struct Observer(Mutex<Option<String>>);

impl rdkafka::client::ClientContext for Observer {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        Logged.log(level, facility, message);
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.to_owned());
    }
}

impl rdkafka::consumer::ConsumerContext for Observer {}
