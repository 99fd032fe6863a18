//! The contract between dropgate's gate and issuer: names, wire formats and rules.
//!
//! Nothing here does I/O or needs a runtime. Requests leave through the [`http::Http`] port, so the crate builds for `wasm32` and natively alike.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod campaign;
pub mod claim;
pub mod code;
pub mod fault;
pub mod http;
pub mod ids;
pub mod names;
pub mod record;
pub mod redis_rest;
pub mod scripts;
pub mod time;
