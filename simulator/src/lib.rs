//! The proof machine: the gate's core, the real Lua scripts and the issuer's core together in one
//! process, on a virtual clock, from one seed. The parts around them are models, each checked against the real server.
//!
//! Everything runs on one thread of one current-thread tokio runtime with paused time, in a `LocalSet`.
//! The same seed gives the same run, byte for byte. Three rules keep it so:
//!
//! - every random decision comes from a [`random::Random`] stream;
//! - every time comes from a [`clock::Clock`];
//! - nothing iterates over a `HashMap`.
#![forbid(unsafe_code)]

pub mod backlog;
pub mod clock;
pub mod explore;
pub mod history;
pub mod isolate;
pub mod issuer;
pub mod kafka;
pub mod mutant;
pub mod mysql;
pub mod network;
pub mod operator;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod record;
pub mod redis;
pub mod run;
pub mod search;
pub mod tasks;
pub mod violation;
pub mod world;
