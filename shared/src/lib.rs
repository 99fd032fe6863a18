//! What dropgate's gate and issuer agree on: names, wire formats and rules.
//!
//! Nothing here does I/O or needs a runtime. The one place where a request is sent goes through the
//! [`http::Http`] port, so the crate builds for `wasm32` and natively alike.
#![forbid(unsafe_code)]

pub mod claim;
pub mod code;
pub mod fault;
pub mod http;
pub mod ids;
pub mod names;
pub mod record;
pub mod redis_rest;
pub mod scripts;
