//! The proof machine: the gate's core, the Lua scripts and the issuer's core in one process, on a virtual clock, with
//! one seed. The parts around them are models, each checked against the real server.
#![forbid(unsafe_code)]

pub mod mysql;
