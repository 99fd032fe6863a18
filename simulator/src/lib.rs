//! The proof machine: the gate's core, the real Lua scripts and the issuer's core together in one
//! process, on a virtual clock, from one seed.
//!
//! Everything runs on one thread of one current-thread tokio runtime with paused time, in a `LocalSet`.
//! The same seed gives the same run, byte for byte. Three rules keep it so:
//!
//! - every random decision comes from a [`random::Random`] stream;
//! - every time comes from a [`clock::Clock`];
//! - nothing iterates over a `HashMap`.
#![forbid(unsafe_code)]
// No other crate depends on this one. Modules and types say what a reader needs.
#![allow(missing_docs)]

pub mod clock;
pub mod mysql;
pub mod network;
pub mod random;
pub mod redis;
