//! Kafka: the group's member, the topics and the dead letters.

pub mod assignment;
pub mod client;
pub mod consumer;
pub mod dead_letter_reader;
pub mod dead_letters;
pub mod ports;
pub mod settings;
pub mod silence;
pub mod topics;
