//! The rows.

pub mod coupon_writer;
pub mod free_slots;
pub mod mysql;
mod resolve;
