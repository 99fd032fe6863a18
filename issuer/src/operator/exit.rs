//! How a verb ends: exit status and message.

use super::campaign::error::CampaignError;
use crate::config::problems::Problems;
use dropgate_shared::fault::{Fault, Source};

/// Why a verb ends with another status than 0.
#[derive(Debug)]
pub struct Exit {
    /// The process's exit status.
    pub status: u8,
    /// For standard error; empty where everything was printed on standard output.
    pub text: String,
}

impl Exit {
    #[must_use]
    pub fn failed(text: impl Into<String>) -> Self {
        Self { status: 1, text: text.into() }
    }

    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self { status: 2, text: text.into() }
    }

    /// `verify` keeps status 1 for a broken promise: a server that refuses access is none.
    #[must_use]
    pub fn unless_violated(mut self) -> Self {
        self.status = if self.status == 1 { 3 } else { self.status };
        self
    }

    /// The failure of a verb. One of MySQL names the address, `shown`, at which it was looked for.
    #[must_use]
    pub fn at(shown: &str, error: CampaignError) -> Self {
        let is_database = matches!(&error, CampaignError::Fault(fault) if fault.source == Source::MySql);
        let mut exit = Self::from(error);
        if is_database {
            exit.text = format!("{}\n  DATABASE_URL is {shown}", exit.text);
        }
        exit
    }
}

impl From<Problems> for Exit {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string())
    }
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        // What a server refuses for a reason will be refused again; all else is simply not known.
        Self { status: if fault.retry { 3 } else { 1 }, text: fault.to_string() }
    }
}

impl From<CampaignError> for Exit {
    fn from(error: CampaignError) -> Self {
        let status = match &error {
            CampaignError::Fault(fault) => return fault.clone().into(),
            CampaignError::GateNotUpdated { .. } | CampaignError::Contention(_) => 3,
            CampaignError::Unknown(_) | CampaignError::NoSecret(_) => 2,
            CampaignError::Exists { .. }
            | CampaignError::Closed(_)
            | CampaignError::Lower { .. }
            | CampaignError::OtherCodes { .. } => 1,
        };
        Self { status, text: error.to_string() }
    }
}
