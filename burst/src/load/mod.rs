//! Sends the crowd: when each claim is due, over which connection it goes, and what was answered.

pub mod client;
pub mod driver;
pub mod identity;
pub mod ledger;
pub mod outcome;
pub mod progress;
pub mod random;
pub mod schedule;
