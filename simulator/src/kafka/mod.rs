//! A model of Kafka: the broker, consumer groups, and librdkafka's consumer as the issuer uses it.
//!
//! ```text
//!   issuer core -> consumer (SimRecordSource) -> adapter, client -> world -> group, broker
//!   gate core   -> rest (SimKafkaRest)        ----------------------^
//! ```
//!
//! [`broker`], [`group`], [`assignor`], [`toppar`] and [`client`] are state machines without I/O: they
//! take what happened and the time, and say what follows. [`world`] carries what is on its way between them, in the
//! order of time and then of sending. Nothing here draws a number at random or reads a clock but tokio's; the way of
//! a message takes as long as the closure given to [`Kafka::set_latency`] says. So one seed gives one run.
//!
//! Each module says in a table which rules it follows and where each comes from. `tests/kafka_contract.rs` runs one
//! script against the model and against a real broker with the issuer's own adapter.
//!
//! Faults are the caller's: [`Kafka::set_availability`], [`MemberHandle`], [`rest::RestFault`],
//! [`dead_letters::SimDeadLetters::fail`]. Each one that strikes is added to [`Kafka::strikes`].

pub mod adapter;
pub mod assignor;
pub mod broker;
pub mod client;
pub mod consumer;
pub mod dead_letters;
pub mod group;
pub mod lag;
mod port;
pub mod rest;
pub mod settings;
pub mod toppar;
pub mod wire;
pub mod world;

pub use adapter::AdapterRules;
pub use broker::{NewRecord, ProduceError, Record};
pub use consumer::{MemberHandle, SimRecordSource};
pub use settings::{BrokerSettings, MemberSettings};
pub use world::{Availability, Strikes};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use world::World;

/// A Kafka. Clones are the same one.
#[derive(Clone)]
pub struct Kafka {
    world: Rc<RefCell<World>>,
    /// Something was planned that may come before what the driver waits for.
    planned: Rc<Notify>,
    /// The broker can be reached again.
    up: Rc<Notify>,
}

impl Kafka {
    /// A broker with nothing in it. It lives as long as [`Kafka::run`] is polled.
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

    /// Lets time pass for the broker and for librdkafka's own threads. Never ends.
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

    /// How long each message takes on its way.
    pub fn set_latency(&self, latency: impl FnMut() -> Duration + 'static) {
        self.world.borrow_mut().latency = Box::new(latency);
    }

    /// What struck so far.
    #[must_use]
    pub fn strikes(&self) -> Strikes {
        Rc::clone(&self.world.borrow().strikes)
    }

    /// Breaks the broker, or brings it back.
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

    /// Appends a record at once, whatever is broken. Returns partition and offset.
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

    /// What a group has committed, by partition.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let partitions = self.partitions(topic).unwrap_or(0);
        let mut world = self.world.borrow_mut();
        let group = world.group(group);
        (0..partitions).filter_map(|id| Some((id, group.committed(topic, id)?))).collect()
    }

    /// Sets what a group has committed, as an administrator can while no member runs.
    pub fn set_committed(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        self.change(|world, _| {
            world.strike("kafka: offsets set", format!("{group} {topic}/{partition}"));
            world.group(group).set_offset(topic, partition, offset);
        });
    }

    /// How many members a group has, by the broker's book.
    #[must_use]
    pub fn members(&self, group: &str) -> usize {
        self.world.borrow_mut().group(group).assignment().len()
    }

    fn change<T>(&self, change: impl FnOnce(&mut World, Instant) -> T) -> T {
        let changed = change(&mut self.world.borrow_mut(), Instant::now());
        self.planned.notify_one();
        changed
    }

    /// Waits until the broker can be reached.
    async fn reachable(&self) {
        loop {
            let up = self.up.notified();
            if self.world.borrow().availability() == Availability::Up {
                return;
            }
            up.await;
        }
    }

    /// The time of one way over the network.
    async fn way(&self) {
        let latency = (self.world.borrow_mut().latency)();
        tokio::time::sleep(latency).await;
    }
}
