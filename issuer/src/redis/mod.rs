//! The HTTP-based Redis: its client, the confirmations, and what an operator reads there.

pub mod client;
pub mod confirm;
pub mod probe;
pub mod view;
