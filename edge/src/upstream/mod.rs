//! Calls to other systems. Each returns its result or a `Fault` that names the effect of the request.

pub mod admission;
pub mod kafka_rest;
pub mod outbox;
pub mod turnstile;
