//! The way of an admitted claim to Kafka: at once by the forwarder, later and as often as it takes by the sweeper.

pub mod forwarder;
pub mod schedule;
pub mod sweeper;
