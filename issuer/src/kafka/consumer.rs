//! The Kafka consumer behind [`RecordSource`].
//!
//! Offsets: librdkafka commits, every second, what was *stored*, and we store what is settled. So
//! `enable.auto.offset.store` is off: with it on, a crash loses what was delivered and not written.
//!
//! Rebalance: cooperative, so a change in the group stops only the partitions that move. Before one is
//! given up, what is stored is committed, so that the next owner repeats little. librdkafka refuses to
//! store an offset for a partition that is no longer assigned, and clears stored ones when it is. What follows from a
//! rebalance is decided in [`super::assignment`].
//!
//! Liveness: rebalances and `max.poll.interval.ms` are served only while the stream is polled. The
//! loop polls whatever it waits for (see [`crate::consume::inbox`]), at most a second apart.

use super::assignment::{Assignment, Offsets, Partitions as Ids, Step};
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
use rdkafka::statistics::{self, Statistics};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long leaving the group may take before the process continues without it.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);

/// A member of the issuers' group.
pub struct KafkaSource {
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
}

/// What librdkafka reports to a member.
struct Member {
    topic: String,
    assignment: Mutex<Assignment>,
    /// How many responses have come from the brokers, and since when no more.
    received: Mutex<(i64, Instant)>,
    /// What the statistics ask for; the callback has no client.
    due: Mutex<Option<Step>>,
    is_due: Notify,
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
            assignment: Mutex::new(Assignment::new(partitions)),
            received: Mutex::new((0, Instant::now())),
            due: Mutex::default(),
            is_due: Notify::new(),
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

    fn set_paused(&self, paused: bool) {
        self.consumer.context().assignment().set_paused(paused);
        let done = self.consumer.assignment().and_then(|partitions| match (partitions.count(), paused) {
            (0, _) => Ok(()),
            (_, true) => self.consumer.pause(&partitions),
            (_, false) => self.consumer.resume(&partitions),
        });
        if let Err(error) = done {
            tracing::warn!(%error, "pausing or resuming failed");
        }
    }

    /// Commits the offsets that librdkafka does not commit by itself, where the statistics have found any.
    fn commit_back(&self) {
        let due = lock(&self.consumer.context().due).take();
        let Some(Step::CommitBack(offsets)) = due else { return };
        tracing::debug!(?offsets, "committing again what is settled");
        let done = list(&self.topic, offsets.iter().map(|(partition, offset)| (*partition, *offset)))
            .and_then(|offsets| self.consumer.commit(&offsets, CommitMode::Async));
        if let Err(error) = done {
            tracing::warn!(%error, "the offsets were not committed; trying again");
        }
    }
}

impl RecordSource for KafkaSource {
    async fn recv(&self) -> Result<Delivery, Fault> {
        let received = loop {
            self.commit_back();
            tokio::select! {
                received = self.consumer.recv() => break received,
                // Nothing may arrive for a long time: what is settled is committed all the same.
                () = self.consumer.context().is_due.notified() => {}
            }
        };
        match received {
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
        self.consumer.context().assignment().take_revoked()
    }

    fn pause(&self) {
        self.set_paused(true);
    }

    fn resume(&self) {
        self.set_paused(false);
    }

    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault> {
        let stored = list(&self.topic, next.iter().copied()).and_then(|offsets| self.consumer.store_offsets(&offsets));
        match stored {
            // All of them belong to other members by now, who will find the rows.
            Ok(()) | Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            Err(error) => Err(client::fault(labels::STORE_OFFSET, true, &error)),
        }
    }

    fn lags(&self) -> Vec<(i32, Option<u64>)> {
        self.consumer.context().assignment().lags()
    }

    fn silent_for(&self) -> Duration {
        lock(&self.consumer.context().received).1.elapsed()
    }

    fn partitions(&self) -> Partitions {
        let assignment = self.consumer.context().assignment();
        Partitions { owned: assignment.owned().len(), all: assignment.all() }
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
        let mut received = lock(&self.received);
        // Heartbeats are answered every second, so a number that stands still means that no broker answers.
        if received.0 != statistics.rx {
            *received = (statistics.rx, Instant::now());
        }
        drop(received);
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        // Partition -1 is librdkafka's own. A topic may be given more partitions at any time.
        let partitions: BTreeMap<i32, Offsets> =
            topic.partitions.iter().filter(|(id, _)| **id >= 0).map(|(id, found)| (*id, offsets(found))).collect();
        let mut assignment = self.assignment();
        let step = assignment.statistics(partitions.len(), &partitions);
        for (partition, lag) in assignment.lags() {
            // A partition of which nothing is known shows no lag rather than an old one.
            let label = PartitionLabel { partition };
            match lag {
                Some(lag) => {
                    let gauge = self.metrics.lag.get_or_create_owned(&label);
                    gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
                }
                None => drop(self.metrics.lag.remove(&label)),
            }
        }
        let is_due = step.is_some();
        *lock(&self.due) = step;
        if is_due {
            self.is_due.notify_one();
        }
    }
}

impl Member {
    fn assignment(&self) -> MutexGuard<'_, Assignment> {
        lock(&self.assignment)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// librdkafka writes negative numbers for what it does not know.
fn offsets(found: &statistics::Partition) -> Offsets {
    let known = |offset: i64| (offset >= 0).then_some(offset);
    Offsets {
        begin: known(found.lo_offset),
        end: known(found.hi_offset),
        committed: known(found.committed_offset),
        stored: known(found.stored_offset),
    }
}

fn list(topic: &str, offsets: impl IntoIterator<Item = (i32, i64)>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // A rebalance among the others, seen from here.
            Rebalance::Assign(partitions) | Rebalance::Revoke(partitions) if partitions.count() == 0 => {}
            Rebalance::Assign(list) => {
                let partitions = ids(list);
                tracing::info!(?partitions, "partitions assigned");
                let done = match self.assignment().assigned(&partitions) {
                    Some(Step::Pause(_)) => consumer.pause(list),
                    Some(Step::Resume(_)) => consumer.resume(list),
                    _ => Ok(()),
                };
                if let Err(error) = done {
                    tracing::warn!(%error, "pausing or resuming what is assigned failed");
                }
            }
            Rebalance::Revoke(list) => {
                let partitions = ids(list);
                let lost = consumer.assignment_lost();
                tracing::info!(?partitions, lost, "partitions revoked");
                let step = self.assignment().revoking(&partitions, lost);
                if step == Some(Step::Commit) {
                    commit(consumer);
                }
                self.assignment().revoked(&partitions);
                for partition in partitions {
                    self.metrics.lag.remove(&PartitionLabel { partition });
                }
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

fn ids(partitions: &TopicPartitionList) -> Ids {
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
