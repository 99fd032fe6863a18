//! Measures dropgate and its peers: other programs for the same task.
//!
//! Every comparison is made within one run on one machine, in alternating order, and reported as ratios
//! with their spread: an absolute figure says more about the machine than about the program.
#![forbid(unsafe_code)]

pub mod connection;
pub mod gate;
pub mod issuer;
pub mod load;
pub mod machine;
pub mod report;
pub mod stats;
pub mod topics;
