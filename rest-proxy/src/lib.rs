//! Two REST proxies for one machine and for self-hosting: [`redis_rest`] serves the Upstash Redis REST API
//! over a plain Redis, [`kafka_rest`] the portable part of the Kafka REST v2 API over a plain Kafka.
//! Neither supports TLS: they listen on loopback, or behind a server that terminates TLS.
//!
//! This crate depends on no other crate of its workspace.
#![warn(missing_docs)]

mod error;
pub mod kafka_rest;
pub mod redis_rest;
mod server;
mod token;

pub use error::StartError;
pub use server::{DRAIN, listen, serve, stop_signal};
pub use token::{EmptyToken, TOKEN_ENV, Token};
