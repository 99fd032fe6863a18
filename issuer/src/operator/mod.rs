//! The operator's verbs: everything but `issuer run`.

pub mod campaign;
pub mod check_config;
pub mod dispatch;
pub mod dlq;
pub mod exit;
pub mod export;
pub mod migrate;
pub mod moment;
pub mod output;
pub mod probe;
pub mod servers;
pub mod verify;
