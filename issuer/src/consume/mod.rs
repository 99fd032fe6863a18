//! From a record to a row: the loop of `issuer run` over the ports of [`ports`], and what it decides with.

pub mod batcher;
pub mod budget;
mod copies;
pub mod decode;
pub mod inbox;
pub mod offsets;
pub mod ports;
pub mod service;
mod settle;
pub mod traces;
