//! `verify` and `reconcile`.

pub mod compare;
pub mod findings;
pub mod reconcile;
pub mod reissue;
pub mod report;
