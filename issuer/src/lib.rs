//! The issuer: takes admitted claims out of Kafka and writes the coupons to MySQL.
//!
//! ```text
//! consumer -> decode -> batch -> store (one transaction) -> offsets -> confirm
//!                                  `-> dead_letter (poison, acknowledged)
//! ```
//!
//! The modules [`decode`], [`batch`], [`budget`], [`offsets`], [`slots`] and [`outage`] do no I/O and read no
//! clock. [`service`] is the loop over the ports of [`ports`]; [`consumer`], [`store`],
//! [`dead_letter`], [`confirm`] and [`redis`] are the adapters behind them; [`app`] wires it all.
//! [`operator`] holds the verbs beside `run`.
#![forbid(unsafe_code)]

pub mod app;
pub mod batch;
pub mod budget;
pub mod campaign;
pub mod config;
pub mod confirm;
pub mod consumer;
pub mod dead_letter;
pub mod decode;
pub mod desk;
pub mod health;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod moment;
pub mod offsets;
pub mod operator;
pub mod outage;
pub mod ports;
pub mod redis;
pub mod service;
pub mod slots;
pub mod store;
pub mod topics;
pub mod traces;
