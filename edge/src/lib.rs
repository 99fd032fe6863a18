//! The gate: absorbs the crowd, admits with one atomic step on Redis, forwards the admitted.
//!
//! Everything that decides is plain Rust over the [`dropgate_shared::http::Http`] port and is tested
//! natively; `worker` is the thin layer that exists on Workers only.
// Nothing on the way of a request may panic: a panic ends the isolate for everybody in it.
#![deny(clippy::arithmetic_side_effects, clippy::string_slice)]

pub mod batching;
pub mod cache;
pub mod counters;
pub mod gate;
pub mod http;
pub mod identity;
pub mod outbox;
pub mod platform;
pub mod settings;
pub mod upstream;

#[cfg(target_arch = "wasm32")]
mod worker;
