//! A model of Kafka: the broker, consumer groups, and librdkafka's consumer as the issuer uses it.
//!
//! ```text
//!   issuer core -> consumer (SimRecordSource) -> adapter, client -> world -> group, broker
//!   gate core   -> rest (SimKafkaRest)        ----------------------^
//! ```
//!
//! [`broker`], [`group`], [`assignor`], [`toppar`] and [`client`] are state machines without I/O: input and
//! time in, effects out. [`world`] delivers the messages between them, ordered by time and then by sending. The model
//! draws no random numbers and reads no clock but tokio's. The latency of each message comes from the closure given to
//! [`Kafka::set_latency`], so one seed gives one run.
//!
//! Each module lists its rules in a table with the source of each. `tests/kafka_contract.rs` runs one script against the
//! model and against a real broker with the issuer's own adapter.
//!
//! The caller injects faults: [`Kafka::set_availability`], [`MemberHandle`], [`rest::RestFault`],
//! [`dead_letters::SimDeadLetters::fail`]. Each fault that takes effect is added to [`Kafka::faults`].

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
pub mod server;
pub mod settings;
pub mod toppar;
pub mod wire;
pub mod world;

pub use adapter::AdapterRules;
pub use broker::{NewRecord, ProduceError, Record};
pub use consumer::{MemberHandle, SimRecordSource};
pub use server::Kafka;
pub use settings::{BrokerSettings, MemberSettings};
pub use world::{Availability, FaultLog};
