//! The calls to other systems.

pub mod admission;
pub mod kafka_rest;
pub mod turnstile;
