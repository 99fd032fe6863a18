//! The servers, each from its own release and with its data in a folder of the stack.

pub mod kafka;
pub mod mysql;
pub mod redis;
