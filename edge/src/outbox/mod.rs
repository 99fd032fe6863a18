//! The way of an admitted claim to Kafka.

pub mod sweeper;
