//! Sends a crowd of users at a dropgate edge and checks that every promise was kept.
//!
//! The load is an open model: the due time of every claim is fixed before the first is sent, and its
//! latency counts from that time. The verdict comes from an oracle: it compares the responses to each user
//! with the rows in MySQL, and names every user for whom they differ.
#![forbid(unsafe_code)]

pub mod cli;
pub mod load;
pub mod oracle;
pub mod report;
pub mod rows;
pub mod run;
