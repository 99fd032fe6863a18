//! Sends a crowd at a dropgate edge and finds out whether anybody was wronged.
//!
//! The load is an open model: every claim has its moment, fixed before the first is sent, and its
//! latency counts from that moment. The verdict is an oracle: it compares what each user was told with
//! the rows in MySQL, and names those to whom the two do not agree.
#![forbid(unsafe_code)]

pub mod cli;
pub mod load;
pub mod oracle;
pub mod report;
pub mod rows;
pub mod run;
pub mod watch;
