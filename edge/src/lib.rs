//! The gate: absorbs the crowd, admits with one atomic step on Redis, forwards the admitted.
//!
//! Everything that decides is plain Rust over two ports, the network and the runtime ([`platform`]), and is tested
//! natively. `worker` implements them on Workers. Start with [`gate`]: it reads like the story of a claim and names the
//! parts; each part is a type that owns its state.
// Nothing on the way of a request may panic: the request would end without a response.
#![deny(clippy::arithmetic_side_effects, clippy::string_slice)]

pub mod batching;
pub mod cache;
pub mod counters;
pub mod gate;
pub mod http;
pub mod identity;
pub mod labels;
pub mod outbox;
pub mod platform;
pub mod settings;
pub mod telemetry;
pub mod upstream;

#[cfg(target_arch = "wasm32")]
mod worker;
