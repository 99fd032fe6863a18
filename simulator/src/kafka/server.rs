//! A Kafka: the handle by which the parties and the caller reach the model.

use super::broker::{NewRecord, ProduceError, Record};
use super::group;
use super::settings::BrokerSettings;
use super::world::{Availability, FaultLog, World};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A Kafka cluster of one broker. Clones refer to the same one.
#[derive(Clone)]
pub struct Kafka {
    pub(super) world: Rc<RefCell<World>>,
    /// A new event may be due before the one that the driver waits for.
    planned: Rc<Notify>,
    /// The broker can be reached again.
    up: Rc<Notify>,
}

impl Kafka {
    /// An empty broker. It makes progress while [`Kafka::run`] is polled.
    #[must_use]
    pub fn new(settings: BrokerSettings) -> Self {
        let world = Rc::new(RefCell::new(World::new(settings, Instant::now())));
        Self { world, planned: Rc::new(Notify::new()), up: Rc::new(Notify::new()) }
    }

    /// The same, driven by a task of the present `LocalSet`.
    #[must_use]
    pub fn start(settings: BrokerSettings) -> Self {
        let kafka = Self::new(settings);
        tokio::task::spawn_local(kafka.clone().run());
        kafka
    }

    /// Runs the broker and the background threads of all clients. Never ends.
    pub async fn run(self) {
        loop {
            let next = self.world.borrow_mut().step(Instant::now());
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.planned.notified() => {}
                () = sleep => {}
            }
        }
    }

    /// The network latency of each message; asked once a message.
    pub fn set_latency(&self, latency: impl FnMut() -> Duration + 'static) {
        self.world.borrow_mut().latency = Box::new(latency);
    }

    /// The faults that took effect so far.
    #[must_use]
    pub fn faults(&self) -> FaultLog {
        Rc::clone(&self.world.borrow().faults)
    }

    /// Stops, suspends or restores the broker.
    pub fn set_availability(&self, availability: Availability) {
        self.change(|world, now| world.set_availability(availability, now));
        if availability == Availability::Up {
            self.up.notify_waiters();
        }
    }

    /// Creates a topic. False if it exists.
    pub fn create_topic(&self, name: &str, partitions: i32) -> bool {
        self.change(|world, _| world.topics.create(name, partitions))
    }

    /// Deletes a topic, and what groups have committed for it. False if there is none.
    pub fn delete_topic(&self, name: &str) -> bool {
        self.change(|world, now| world.delete_topic(name, now))
    }

    /// Gives a topic more partitions.
    pub fn grow_topic(&self, name: &str, partitions: i32) {
        self.change(|world, _| world.topics.grow(name, partitions));
    }

    /// Appends a record directly, whatever the broker's availability. Returns partition and offset.
    ///
    /// # Errors
    /// [`ProduceError`]
    pub fn produce(&self, topic: &str, record: NewRecord) -> Result<(i32, i64), ProduceError> {
        self.change(|world, now| world.produce(topic, record, now))
    }

    /// Every record of a topic, by partition and offset.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<(i32, Record)> {
        self.world.borrow().topics.all(topic)
    }

    /// Partitions of a topic.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        self.world.borrow().topics.metadata(topic).map(|metadata| metadata.partitions)
    }

    /// A group's committed offsets by partition.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let partitions = self.partitions(topic).unwrap_or(0);
        let mut world = self.world.borrow_mut();
        let group = world.group(group);
        (0..partitions).filter_map(|id| Some((id, group.committed(topic, id)?))).collect()
    }

    /// Sets a committed offset, as an administrator can while the group has no members.
    pub fn set_committed(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        self.change(|world, _| {
            world.log_fault("kafka: offsets set", format!("{group} {topic}/{partition}"));
            world.group(group).set_offset(topic, partition, offset);
        });
    }

    /// How many members a group has, as the broker sees it.
    #[must_use]
    pub fn members(&self, group: &str) -> usize {
        self.world.borrow_mut().group(group).assignment().len()
    }

    /// Whether a group has no rebalance under way.
    #[must_use]
    pub fn is_settled(&self, group: &str) -> bool {
        self.world.borrow_mut().group(group).state == group::State::Stable
    }

    /// How many rebalances a group has seen.
    #[must_use]
    pub fn generation(&self, group: &str) -> i32 {
        self.world.borrow_mut().group(group).generation
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut World, Instant) -> T) -> T {
        let changed = change(&mut self.world.borrow_mut(), Instant::now());
        self.planned.notify_one();
        changed
    }

    /// Waits until the broker can be reached.
    pub(super) async fn reachable(&self) {
        loop {
            let up = self.up.notified();
            if self.world.borrow().availability() == Availability::Up {
                return;
            }
            up.await;
        }
    }

    /// Waits for one network latency.
    pub(super) async fn way(&self) {
        let latency = (self.world.borrow_mut().latency)();
        tokio::time::sleep(latency).await;
    }
}
