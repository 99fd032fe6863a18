//! The verbs on one campaign.

pub mod publish;
pub mod show;
pub mod state;
