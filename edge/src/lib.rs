//! The gate: absorbs the crowd, admits with one atomic step on Redis, forwards the admitted.
//!
//! Everything that decides is plain Rust over the [`dropgate_shared::http::Http`] port and is tested
//! natively; `shell` is the thin layer that exists on Workers only.
// Nothing on the way of a request may panic: a panic ends the isolate for everybody in it.
#![deny(clippy::arithmetic_side_effects, clippy::string_slice)]

pub mod admission;
mod authenticate;
pub mod campaigns;
pub mod challenge;
mod claims;
pub mod counters;
pub mod errand;
pub mod gate;
pub mod identity;
pub mod kafka_rest;
pub mod lane;
pub mod memo;
pub mod places;
pub mod queue;
pub mod relay;
pub mod reply;
pub mod route;
pub mod settings;
pub mod sold_out;
pub mod visit;

#[cfg(target_arch = "wasm32")]
mod shell;
