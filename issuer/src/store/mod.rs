//! The rows: [`coupon_writer`] holds the rules by which a batch becomes rows, [`ports`] the statements that they need,
//! [`mysql`] the SQL.

pub mod approvals;
mod blame;
pub mod coupon_writer;
pub mod free_slots;
mod look_up;
pub mod mysql;
pub mod ports;
pub mod resolve;
pub mod rows;
pub mod waiting;
