//! Kafka's topics: whether they exist, creating them, and how far the group is behind.

use super::client::{self, Logged};
use super::ports::{self, Backlog, CampaignLag, Position};
use super::settings::KafkaSettings;
use super::silence::Ends;
use crate::labels;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);
/// Within this time the records that wait are read, or they are not counted by campaign.
const READ_WITHIN: Duration = Duration::from_secs(20);

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

/// The ends of these partitions, as a client reports them that knows nothing from before.
///
/// # Errors
/// [`Fault`] if no broker answers, or there is no such partition.
pub async fn ends(settings: &KafkaSettings, topic: &str, ids: BTreeSet<i32>) -> Result<BTreeMap<i32, Ends>, Fault> {
    let topic = topic.to_owned();
    look(settings.client(), move |consumer| {
        let ends = ids.into_iter().map(|id| {
            let (begin, end) = consumer.fetch_watermarks(&topic, id, DEADLINE)?;
            Ok((id, Ends { begin, end }))
        });
        ends.collect()
    })
    .await
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
    let topic = topic.to_owned();
    look(group_client(settings), move |consumer| positions_of(consumer, &topic)).await
}

/// Records of `topic` that the group has not committed, and how many of them are of this campaign: reads them.
///
/// # Errors
/// As [`positions`].
pub async fn lag_of(settings: &KafkaSettings, topic: &str, campaign: &CampaignId) -> Result<CampaignLag, Fault> {
    let (topic, campaign) = (topic.to_owned(), campaign.clone());
    let mut config = group_client(settings);
    // It joins no group, and only reads.
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
    look(config, move |consumer| {
        let mut positions = positions_of(consumer, &topic)?;
        positions.retain(|position| position.next < position.end);
        let mut lag = CampaignLag { all: ports::lag(&positions), own: Some(0), oldest_ms: None };
        let mut assigned = TopicPartitionList::new();
        for Position { partition, next, .. } in &positions {
            assigned.add_partition_offset(&topic, *partition, Offset::Offset(*next))?;
        }
        let mut ends: BTreeMap<i32, i64> = positions.iter().map(|at| (at.partition, at.end)).collect();
        consumer.assign(&assigned)?;
        let until = Instant::now() + READ_WITHIN;
        while !ends.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                _ if Instant::now() > until => return Ok(CampaignLag { own: None, oldest_ms: None, ..lag }),
                None => {}
                Some(Ok(message)) => {
                    let end = ends.get(&message.partition()).map_or(0, |end| *end);
                    if message.offset() < end {
                        lag.count(&campaign, message.payload());
                    }
                    if message.offset() + 1 >= end {
                        ends.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(id))) => drop(ends.remove(&id)),
                // librdkafka tries again by itself, until the time is over.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ))) => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(lag)
    })
    .await
}

fn group_client(settings: &KafkaSettings) -> ClientConfig {
    let mut config = settings.client();
    config.set("group.id", &settings.group);
    config
}

fn positions_of(consumer: &BaseConsumer<Observer>, topic: &str) -> Result<Vec<Position>, KafkaError> {
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

    async fn lag_of(&self, campaign: &CampaignId) -> Result<CampaignLag, Fault> {
        lag_of(self, &self.topics.admissions, campaign).await
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
            if let Some((label, reason)) = consumer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take() {
                fault.detail = format!("{}; {reason}", fault.detail);
                // A service goes on trying: the broker may learn the password later.
                if label == labels::AUTHENTICATION {
                    fault.label = label;
                }
            }
            fault
        })
    });
    looked.await.unwrap_or_else(|_| Err(client::fault(labels::METADATA, true, &KafkaError::Canceled)))
}

/// The context of a client that joins no group. Keeps the first error that librdkafka reports: the ones after it are
/// that all brokers are down.
#[derive(Default)]
struct Observer(Mutex<Option<(&'static str, String)>>);

impl rdkafka::client::ClientContext for Observer {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        Logged.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (client::label_of(&error), reason.to_owned()));
    }
}

impl rdkafka::consumer::ConsumerContext for Observer {}
