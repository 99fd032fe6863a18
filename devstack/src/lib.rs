//! The whole of dropgate on one machine, without containers: real servers and dropgate's own programs as
//! child processes, each with its data in a folder, its log in a file, and a probe that reports when it is
//! ready.
//!
//! `servers` and `services` build one [`ProcessSpec`] per file, [`Stack`] starts and supervises them.
//! No module imports this file.

mod broker;
mod cron;
mod database;
mod endpoints;
mod http;
mod paths;
pub mod ports;
mod probe;
mod process;
mod secrets;
mod servers;
mod services;
mod settings;
mod stack;
mod state;
mod workerd;

pub use broker::Broker;
pub use database::Database;
pub use endpoints::Endpoints;
pub use http::http_client;
pub use paths::Paths;
pub use probe::Probe;
pub use process::{Process, ProcessSpec, pid};
pub use rustix::process::Signal;
pub use servers::kafka::ProxiedListener;
pub use servers::mysql::client as mysql_client;
pub use settings::wants_mariadb;
pub use stack::Stack;
pub use state::State;
pub use workerd::{Code, Worker};
