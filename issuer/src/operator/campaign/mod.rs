//! The verbs on one campaign. MySQL is changed before Redis, always.

pub mod create;
pub mod error;
pub mod list;
pub mod publish;
pub mod reschedule;
mod settings;
pub mod show;
pub mod state;
