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
use super::silence::{LOOK_EVERY, Reading, Silent};
use super::topics;
use crate::consume::ports::{Delivery, Partitions, RecordSource};
use crate::labels;
use crate::metrics::{Metrics, PartitionLabel, ReasonLabel};
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long leaving the group may take before the process continues without it.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);

/// What waits in this process: enough for half a second at full speed, and bounded. The rest waits in the broker.
const QUEUED_RECORDS: u32 = 20_000;
const QUEUED_KIB: u32 = 16_384;

/// A member of the issuers' group. Its client is replaced if it stops reading ([`super::silence`]).
pub struct KafkaSource {
    shared: Arc<Shared>,
    client: Arc<Mutex<Client>>,
}

/// What the source, the callbacks of its client and the task that looks at the ends share.
struct Shared {
    settings: KafkaSettings,
    topic: String,
    metrics: Arc<Metrics>,
    assignment: Mutex<Assignment>,
    /// How many responses have come from the brokers, and since when no more.
    received: Mutex<(i64, Instant)>,
    /// What is to be done with the client; the callback has none.
    due: Mutex<Due>,
    /// Something is due, or there is another client.
    news: Notify,
}

#[derive(Default)]
struct Due {
    step: Option<Step>,
    silent: Option<Silent>,
}

enum Client {
    Joined(Arc<StreamConsumer<Member>>),
    /// The one before is leaving the group, and another one follows.
    Replaced,
    /// There will be no other one, for this reason.
    Failed(Fault),
    Left,
}

/// What librdkafka reports to a member.
struct Member(Arc<Shared>);

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
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            topic: topic.to_owned(),
            metrics,
            assignment: Mutex::new(Assignment::new(partitions)),
            received: Mutex::new((0, Instant::now())),
            due: Mutex::default(),
            news: Notify::new(),
        });
        let client = Arc::new(Mutex::new(Client::Joined(shared.new_client()?)));
        tokio::spawn(look(Arc::downgrade(&shared)));
        Ok(Self { shared, client })
    }

    /// Commits what is stored and leaves the group. Waits for both, within a bound.
    pub async fn leave(self) {
        let client = std::mem::replace(&mut *lock(&self.client), Client::Left);
        let left = tokio::task::spawn_blocking(move || {
            if let Client::Joined(consumer) = client {
                commit(&*consumer);
                drop(consumer); // waits until the group has been left
            }
        });
        if tokio::time::timeout(LEAVE_DEADLINE, left).await.is_err() {
            tracing::warn!(
                "the group was not left within {} s; some records may come again, which changes nothing",
                LEAVE_DEADLINE.as_secs()
            );
        }
    }

    fn set_paused(&self, paused: bool) {
        self.shared.assignment().set_paused(paused);
        // What another client is assigned gets the flag that holds then.
        let Ok(Some(consumer)) = self.consumer() else { return };
        let done = consumer.assignment().and_then(|partitions| match (partitions.count(), paused) {
            (0, _) => Ok(()),
            (_, true) => consumer.pause(&partitions),
            (_, false) => consumer.resume(&partitions),
        });
        if let Err(error) = done {
            tracing::warn!(%error, "pausing or resuming failed");
        }
    }

    /// The client that reads; none while it is being replaced.
    fn consumer(&self) -> Result<Option<Arc<StreamConsumer<Member>>>, Fault> {
        match &*lock(&self.client) {
            Client::Joined(consumer) => Ok(Some(Arc::clone(consumer))),
            Client::Replaced | Client::Left => Ok(None),
            Client::Failed(fault) => Err(fault.clone()),
        }
    }

    /// Does what is due.
    fn do_due(&self) {
        let Due { step, silent } = std::mem::take(&mut *lock(&self.shared.due));
        if let Some(silent) = silent {
            self.replace(silent);
        } else if let Some(Step::CommitBack(offsets)) = step
            && let Ok(Some(consumer)) = self.consumer()
        {
            tracing::debug!(?offsets, "committing again what is settled");
            let done =
                list(&self.shared.topic, offsets).and_then(|offsets| consumer.commit(&offsets, CommitMode::Async));
            if let Err(error) = done {
                tracing::warn!(%error, "the offsets were not committed; trying again");
            }
        }
    }

    /// Ends the client that does not read, on a thread that may block, and joins with another one.
    fn replace(&self, silent: Silent) {
        let consumer = {
            let mut client = lock(&self.client);
            match std::mem::replace(&mut *client, Client::Replaced) {
                Client::Joined(consumer) => consumer,
                other => return *client = other,
            }
        };
        self.shared.metrics.consumers_replaced.inc();
        tracing::warn!("records do not arrive, so a new consumer joins the group: {silent}");
        // What is stored may belong to an earlier topic, and librdkafka commits it when it gives a partition up.
        let forgotten = consumer.assignment().and_then(|mut partitions| {
            partitions.set_all_offsets(Offset::Invalid)?;
            consumer.store_offsets(&partitions)
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "the stored offsets were not discarded");
        }
        let (shared, client) = (Arc::clone(&self.shared), Arc::clone(&self.client));
        tokio::task::spawn_blocking(move || {
            if let Some(begin_at) = silent.begin_at {
                let done = list(&shared.topic, begin_at).and_then(|begin| consumer.commit(&begin, CommitMode::Sync));
                if let Err(error) = done {
                    tracing::warn!(%error, "the offsets of the earlier topic were not replaced");
                }
            }
            drop(consumer); // waits until the group has been left
            let mut client = lock(&client);
            if matches!(*client, Client::Replaced) {
                // The old client may have reported until it was gone.
                lock(&shared.due).step = None;
                *client = shared.new_client().map_or_else(Client::Failed, Client::Joined);
            }
            drop(client);
            shared.news.notify_one();
        });
    }
}

/// Looks at the ends of the partitions until the source is gone.
async fn look(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        let expected = shared.assignment().expected();
        let ends = if expected.is_empty() {
            Ok(BTreeMap::new())
        } else {
            topics::ends(&shared.settings, &shared.topic, expected).await
        };
        match ends {
            Ok(ends) => {
                let mut assignment = shared.assignment();
                if let Some(silent) = assignment.looked(&ends, Instant::now()) {
                    // A step is for the client that is replaced. Statistics take the same lock.
                    *lock(&shared.due) = Due { step: None, silent: Some(silent) };
                    shared.news.notify_one();
                }
            }
            // The client that reads reports it, too.
            Err(fault) => {
                shared.assignment().not_looked();
                tracing::debug!(label = fault.label, "the ends of the partitions are not known: {fault}");
            }
        }
    }
}

impl Shared {
    /// A client that joins the group.
    fn new_client(self: &Arc<Self>) -> Result<Arc<StreamConsumer<Member>>, Fault> {
        let mut config = self.settings.client_with(&[
            ("auto.commit.interval.ms", "1000"),
            // How long the partitions of a member that died without leaving stay with it.
            ("session.timeout.ms", "15000"),
            // How soon a member learns that it must give up partitions, or gets some.
            ("heartbeat.interval.ms", "1000"),
            // The commit before a partition is given up waits for a broker no longer than a session lasts.
            ("socket.timeout.ms", "10000"),
            ("queued.min.messages", &QUEUED_RECORDS.to_string()),
            ("queued.max.messages.kbytes", &QUEUED_KIB.to_string()),
            ("fetch.queue.backoff.ms", "50"),
        ]);
        config
            .set("group.id", &self.settings.group)
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("statistics.interval.ms", "5000");
        if let Some(instance_id) = &self.settings.instance_id {
            config.set("group.instance.id", instance_id);
        }
        let consumer: StreamConsumer<Member> = config
            .create_with_context(Member(Arc::clone(self)))
            .map_err(|error| client::fault(labels::SETTINGS, false, &error))?;
        consumer.subscribe(&[&self.topic]).map_err(|error| client::fault(labels::SUBSCRIBE, false, &error))?;
        Ok(Arc::new(consumer))
    }

    fn assignment(&self) -> MutexGuard<'_, Assignment> {
        lock(&self.assignment)
    }
}

impl RecordSource for KafkaSource {
    async fn recv(&self) -> Result<Delivery, Fault> {
        loop {
            self.do_due();
            let Some(consumer) = self.consumer()? else {
                self.shared.news.notified().await;
                continue;
            };
            let received = tokio::select! {
                received = consumer.recv() => received,
                // Nothing may arrive for a long time: what is due is done all the same.
                () = self.shared.news.notified() => continue,
            };
            return match received {
                Ok(message) => Ok(Delivery {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
                    replayed: message.headers().is_some_and(|all| all.iter().any(|one| one.key == header::REPLAYED)),
                }),
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => Err(client::fault(labels::FATAL, false, &error)),
                Err(error) => {
                    consumer.context().count_fault(labels::CONSUME);
                    Err(client::fault(labels::CONSUME, true, &error))
                }
            };
        }
    }

    fn revoked(&self) -> Vec<i32> {
        self.shared.assignment().take_revoked()
    }

    fn pause(&self) {
        self.set_paused(true);
    }

    fn resume(&self) {
        self.set_paused(false);
    }

    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault> {
        // Without a client, the records come again.
        let Some(consumer) = self.consumer()? else { return Ok(()) };
        let stored =
            list(&self.shared.topic, next.iter().copied()).and_then(|offsets| consumer.store_offsets(&offsets));
        match stored {
            // All of them belong to other members by now, who will find the rows.
            Ok(()) | Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            Err(error) => Err(client::fault(labels::STORE_OFFSET, true, &error)),
        }
    }

    fn lags(&self) -> Vec<(i32, Option<u64>)> {
        self.shared.assignment().lags()
    }

    fn silent_for(&self) -> Duration {
        lock(&self.shared.received).1.elapsed()
    }

    fn unread(&self) -> Option<String> {
        self.shared.assignment().silence().map(ToString::to_string)
    }

    fn partitions(&self) -> Partitions {
        let assignment = self.shared.assignment();
        Partitions { owned: assignment.owned().len(), all: assignment.all() }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.count_fault(client::label_of(&error));
        client::report(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let shared = &*self.0;
        let mut received = lock(&shared.received);
        // Heartbeats are answered every second, so a number that stands still means that no broker answers.
        if received.0 != statistics.rx {
            *received = (statistics.rx, Instant::now());
        }
        drop(received);
        let Some(topic) = statistics.topics.get(&shared.topic) else {
            return;
        };
        let partitions = offsets(topic);
        let mut assignment = shared.assignment();
        let step = assignment.statistics(partitions.len(), &partitions);
        for (partition, lag) in assignment.lags() {
            // A partition of which nothing is known shows no lag rather than an old one.
            let label = PartitionLabel { partition };
            match lag {
                Some(lag) => {
                    let gauge = shared.metrics.lag.get_or_create_owned(&label);
                    gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
                }
                None => drop(shared.metrics.lag.remove(&label)),
            }
        }
        let is_due = step.is_some();
        lock(&shared.due).step = step;
        drop(assignment);
        if is_due {
            shared.news.notify_one();
        }
    }
}

impl Member {
    fn count_fault(&self, reason: &'static str) {
        self.0.metrics.kafka_faults.get_or_create(&ReasonLabel { reason }).inc();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// librdkafka writes negative numbers for what it does not know.
fn offsets(topic: &statistics::Topic) -> BTreeMap<i32, Offsets> {
    let known = |offset: i64| (offset >= 0).then_some(offset);
    // The queue is that of all partitions, and none is fetched while it is full (rdkafka_fetcher.c,
    // `rd_kafka_toppar_fetch_decide`). It may have been full since the last statistics if half of it is left.
    let is_filled = |found: &statistics::Partition| {
        found.fetchq_cnt >= i64::from(QUEUED_RECORDS / 2) || found.fetchq_size >= u64::from(QUEUED_KIB / 2) * 1024
    };
    let is_filled = topic.partitions.values().any(is_filled);
    let offsets = |found: &statistics::Partition| Offsets {
        begin: known(found.lo_offset),
        end: known(found.hi_offset),
        committed: known(found.committed_offset),
        stored: known(found.stored_offset),
        reading: Reading {
            next: known(found.next_offset),
            is_queued: is_filled
                || found.fetchq_cnt > 0 && (found.app_offset < 0 || found.next_offset > found.app_offset),
        },
    };
    // Partition -1 is librdkafka's own. A topic may be given more partitions at any time.
    topic.partitions.iter().filter(|(id, _)| **id >= 0).map(|(id, found)| (*id, offsets(found))).collect()
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
                let done = match self.0.assignment().assigned(&partitions) {
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
                let step = self.0.assignment().revoking(&partitions, lost);
                if step == Some(Step::Commit) {
                    commit(consumer);
                }
                self.0.assignment().revoked(&partitions);
                for partition in partitions {
                    self.0.metrics.lag.remove(&PartitionLabel { partition });
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => {
                self.count_fault(labels::COMMIT);
                tracing::warn!(%error, "offsets were not committed; records may come again");
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_partition_counts_as_queued_also_while_the_records_of_others_fill_the_queue() {
        let topic = |fetchq_cnt, fetchq_size| {
            let starved = statistics::Partition { next_offset: 3, app_offset: 3, ..Default::default() };
            let busy = statistics::Partition { fetchq_cnt, fetchq_size, ..Default::default() };
            let partitions = HashMap::from([(0, starved), (1, busy)]);
            offsets(&statistics::Topic { partitions, ..Default::default() })[&0].reading
        };
        assert_eq!(topic(9_999, 1_000), Reading { next: Some(3), is_queued: false });
        assert_eq!(topic(10_000, 1_000), Reading { next: Some(3), is_queued: true });
        assert_eq!(topic(10, 8 << 20), Reading { next: Some(3), is_queued: true });
    }
}
