//! The issuer: takes admitted claims out of Kafka and writes the coupons to MySQL.
//!
//! ```text
//! consumer -> decode -> batch -> store (one transaction) -> offsets -> confirm
//!                                  `-> dead_letter (poison, acknowledged)
//! ```
//!
//! [`consume`] is the loop over its ports; [`store`], [`kafka`] and [`redis`] are the adapters behind them; [`app`]
//! wires it all. [`operator`] holds the verbs beside `run`.
#![forbid(unsafe_code)]
// The loop and the verbs run on one task, so the futures of the ports need not be Send: a simulation's are not.
#![allow(async_fn_in_trait)]

pub mod app;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod consume;
pub mod health;
pub mod http;
pub mod kafka;
pub mod labels;
pub mod metrics;
pub mod operator;
pub mod phase;
pub mod redis;
pub mod sample;
pub mod store;
pub mod timestamp;
pub mod waitlist;
