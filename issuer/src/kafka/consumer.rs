//! The Kafka consumer behind [`RecordSource`].
//!
//! Offsets: librdkafka commits, every second, what was *stored*, and we store what is settled. So
//! `enable.auto.offset.store` is off: with it on, a crash loses what was delivered and not written.
//!
//! Rebalance: cooperative, so a change in the group stops only the partitions that move. Before one is
//! given up, what is stored is committed, so that the next owner repeats little. librdkafka refuses to
//! store an offset for a partition that is no longer assigned, and clears stored ones when it is.
//!
//! Liveness: rebalances and `max.poll.interval.ms` are served only while the stream is polled. The
//! loop polls whatever it waits for (see [`crate::consume::inbox`]), at most a second apart.

use super::client;
use super::ports::header;
use super::settings::KafkaSettings;
use crate::consume::ports::{Delivery, Partitions, RecordSource};
use crate::labels;
use crate::metrics::{Metrics, PartitionLabel};
use dropgate_shared::fault::{Fault, Source};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long leaving the group may take before the process continues without it.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
const LAG_UNKNOWN: u64 = u64::MAX;

/// A member of the issuers' group.
pub struct KafkaSource {
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
}

/// What librdkafka reports to a member.
struct Member {
    topic: String,
    revoked: Mutex<Vec<i32>>,
    owned: Mutex<BTreeSet<i32>>,
    all: AtomicUsize,
    lag: AtomicU64,
    metrics: Arc<Metrics>,
}

impl KafkaSource {
    /// Joins the group and asks for a share of `topic`, which has `partitions` partitions (more of them
    /// are noticed).
    ///
    /// # Errors
    /// [`Fault`] for settings that librdkafka refuses. An absent broker is no error here.
    pub fn join(
        settings: &KafkaSettings,
        topic: &str,
        partitions: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Fault> {
        let member = Member {
            topic: topic.to_owned(),
            revoked: Mutex::default(),
            owned: Mutex::default(),
            all: AtomicUsize::new(partitions),
            lag: AtomicU64::new(LAG_UNKNOWN),
            metrics,
        };
        let mut config = settings.client_with(&[
            ("auto.commit.interval.ms", "1000"),
            // How long the partitions of a member that died without leaving stay with it.
            ("session.timeout.ms", "15000"),
            // How soon a member learns that it must give up partitions, or gets some.
            ("heartbeat.interval.ms", "1000"),
            // The commit before a partition is given up waits for a broker no longer than a session lasts.
            ("socket.timeout.ms", "10000"),
            // What waits in this process: enough for half a second at full speed, and bounded. The rest
            // waits in the broker.
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.queue.backoff.ms", "50"),
        ]);
        config
            .set("group.id", &settings.group)
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("statistics.interval.ms", "5000");
        if let Some(instance_id) = &settings.instance_id {
            config.set("group.instance.id", instance_id);
        }
        let consumer: StreamConsumer<Member> =
            config.create_with_context(member).map_err(|error| client::fault(labels::SETTINGS, false, &error))?;
        consumer.subscribe(&[topic]).map_err(|error| client::fault(labels::SUBSCRIBE, false, &error))?;
        Ok(Self { consumer: Arc::new(consumer), topic: topic.to_owned() })
    }

    /// Commits what is stored and leaves the group. Waits for both, within a bound.
    pub async fn leave(self) {
        let left = tokio::task::spawn_blocking(move || {
            commit(&*self.consumer);
            drop(self.consumer); // waits until the group has been left
        });
        if tokio::time::timeout(LEAVE_DEADLINE, left).await.is_err() {
            tracing::warn!(
                "the group was not left within {} s; some records may come again, which changes nothing",
                LEAVE_DEADLINE.as_secs()
            );
        }
    }

    fn on_assignment(&self, call: impl Fn(&StreamConsumer<Member>, &TopicPartitionList) -> KafkaResult<()>) {
        let done = self
            .consumer
            .assignment()
            .and_then(|partitions| if partitions.count() == 0 { Ok(()) } else { call(&self.consumer, &partitions) });
        if let Err(error) = done {
            tracing::warn!(%error, "pausing or resuming failed");
        }
    }
}

impl RecordSource for KafkaSource {
    async fn recv(&self) -> Result<Delivery, Fault> {
        match self.consumer.recv().await {
            Ok(message) => Ok(Delivery {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
                replayed: message.headers().is_some_and(|all| all.iter().any(|one| one.key == header::REPLAYED)),
            }),
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => Err(client::fault(labels::FATAL, false, &error)),
            Err(error) => Err(client::fault(labels::CONSUME, true, &error)),
        }
    }

    fn revoked(&self) -> Vec<i32> {
        std::mem::take(&mut *self.consumer.context().revoked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn pause(&self) {
        self.on_assignment(|consumer, partitions| consumer.pause(partitions));
    }

    fn resume(&self) {
        self.on_assignment(|consumer, partitions| consumer.resume(partitions));
    }

    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault> {
        let mut offsets = TopicPartitionList::with_capacity(next.len());
        for (partition, offset) in next {
            offsets
                .add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))
                .map_err(|error| client::fault(labels::STORE_OFFSET, true, &error))?;
        }
        match self.consumer.store_offsets(&offsets) {
            // All of them belong to other members by now, who will find the rows.
            Ok(()) | Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            Err(error) => Err(client::fault(labels::STORE_OFFSET, true, &error)),
        }
    }

    fn lag(&self) -> Option<u64> {
        let lag = self.consumer.context().lag.load(Ordering::Relaxed);
        (lag != LAG_UNKNOWN).then_some(lag)
    }

    fn partitions(&self) -> Partitions {
        let member = self.consumer.context();
        Partitions { owned: member.owned().len(), all: member.all.load(Ordering::Relaxed) }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::report(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        // Partition -1 is librdkafka's own. A topic may be given more partitions at any time.
        self.all.fetch_max(topic.partitions.keys().filter(|id| **id >= 0).count(), Ordering::Relaxed);
        let owned = self.owned();
        let mut sum = 0;
        for (id, partition) in &topic.partitions {
            // -1 where it is unknown: nothing was fetched yet. What counts is what is not settled.
            let lag = partition.consumer_lag_stored;
            match u64::try_from(lag) {
                Ok(lag) if owned.contains(id) => {
                    sum += lag;
                    let gauge = self.metrics.lag.get_or_create_owned(&PartitionLabel { partition: *id });
                    gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
                }
                _ => {}
            }
        }
        self.lag.store(sum, Ordering::Relaxed);
    }
}

impl Member {
    fn owned(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // A rebalance among the others, seen from here.
            Rebalance::Assign(partitions) | Rebalance::Revoke(partitions) if partitions.count() == 0 => {}
            Rebalance::Assign(partitions) => {
                let partitions = ids(partitions);
                tracing::info!(?partitions, "partitions assigned");
                self.owned().extend(partitions);
            }
            Rebalance::Revoke(partitions) => {
                let partitions = ids(partitions);
                // Partitions that were lost belong to other members already: a commit would be rejected.
                let lost = consumer.assignment_lost();
                tracing::info!(?partitions, lost, "partitions revoked");
                if !lost {
                    commit(consumer);
                }
                let mut owned = self.owned();
                for partition in &partitions {
                    owned.remove(partition);
                    self.metrics.lag.remove(&PartitionLabel { partition: *partition });
                }
                self.revoked.lock().unwrap_or_else(PoisonError::into_inner).extend(partitions);
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => {
                tracing::warn!(%error, "offsets were not committed; records may come again")
            }
        }
    }
}

fn ids(partitions: &TopicPartitionList) -> Vec<i32> {
    partitions.elements().iter().map(|element| element.partition()).collect()
}

/// Commits what is stored and waits for the answer.
fn commit<C: Consumer<Member>>(consumer: &C) {
    match consumer.commit_consumer_state(CommitMode::Sync) {
        // Nothing was stored since the last commit.
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
        Err(error) => {
            let fault = Fault::unknown(Source::Kafka, labels::COMMIT, error.to_string());
            tracing::warn!(label = fault.label, "{fault}; records may come again, which changes nothing");
        }
    }
}
