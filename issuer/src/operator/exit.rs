//! How a verb ends: exit status and message.

use super::campaign::error::CampaignError;
use crate::config::problems::Problems;
use crate::labels;
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
        let status = match fault.label {
            label if labels::is_refusal_of_credentials(label) => 2,
            // The service waits for these to change. A command reports what the server has said.
            labels::READ_ONLY
            | labels::OUT_OF_SPACE
            | labels::TOO_MANY_CONNECTIONS
            | labels::PACKET_TOO_LARGE
            | labels::NO_DATABASE
            | labels::NO_SCHEMA
            | labels::NO_TOPIC
            | labels::REFUSED => 1,
            // What a server refuses for a reason will be refused again; all else is simply not known.
            _ => {
                if fault.retry {
                    3
                } else {
                    1
                }
            }
        };
        Self { status, text: fault.to_string() }
    }
}

impl From<CampaignError> for Exit {
    fn from(error: CampaignError) -> Self {
        let status = match &error {
            CampaignError::Fault(fault) => return fault.clone().into(),
            CampaignError::GateNotUpdated { fault, .. } if labels::is_refusal_of_credentials(fault.label) => 2,
            CampaignError::GateNotUpdated { .. } | CampaignError::Contention(_) => 3,
            CampaignError::Unknown(_) | CampaignError::NoSecret(_) | CampaignError::Window { .. } => 2,
            CampaignError::Exists { .. }
            | CampaignError::Closed(_)
            | CampaignError::Over(_)
            | CampaignError::HasOpened { .. }
            | CampaignError::Lower { .. }
            | CampaignError::OtherCodes { .. } => 1,
        };
        Self { status, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mysql::error::fault;

    #[test]
    fn refused_credentials_are_2_and_only_silence_is_3() {
        let mysql = |number| Exit::from(fault(number, &"x")).status;
        assert_eq!([mysql(Some(1045)), mysql(Some(1142))], [2, 2]);
        assert_eq!([mysql(None), mysql(Some(2013)), mysql(Some(3024))], [3, 3, 3], "no answer");
        for number in [1290, 1021, 1040, 1153, 1146, 1049, 9999] {
            assert_eq!(mysql(Some(number)), 1, "{number}");
        }
        let redis = |label, retry| Exit::from(Fault::none(Source::Redis, label, retry, "x")).status;
        assert_eq!([redis("unauthorized", false), redis("timeout", true), redis("command", false)], [2, 3, 1]);
        assert_eq!(Exit::from(fault(Some(1045), &"x")).unless_violated().status, 2);
        assert_eq!(Exit::from(fault(Some(1290), &"x")).unless_violated().status, 3);
    }
}
