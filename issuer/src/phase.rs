//! The state of a campaign as visitors see it: what the operator has set, the clock, and what is left.

use crate::store::rows::Campaign;
use dropgate_shared::campaign::CampaignState;
use serde::{Serialize, Serializer};
use std::fmt;
use time::PrimitiveDateTime;

/// What a campaign is to a visitor. In JSON and metrics it has the name that the gate's API uses; `Display` is for a
/// terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Scheduled,
    Open,
    Paused,
    SoldOut,
    Closed,
}

impl Phase {
    /// As the gate decides it. `taken`: slots handed out, or coupon rows where Redis is not asked.
    #[must_use]
    pub fn of(campaign: &Campaign, taken: u64, now: PrimitiveDateTime) -> Self {
        match campaign.state {
            CampaignState::Paused => Self::Paused,
            CampaignState::Closed => Self::Closed,
            CampaignState::Open if campaign.closes_at.is_some_and(|closes_at| now >= closes_at) => Self::Closed,
            CampaignState::Open if now < campaign.opens_at => Self::Scheduled,
            CampaignState::Open if taken >= campaign.capacity.into() => Self::SoldOut,
            CampaignState::Open => Self::Open,
        }
    }

    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "not-open",
            Self::Open => "open",
            Self::Paused => "paused",
            Self::SoldOut => "sold-out",
            Self::Closed => "closed",
        }
    }

    /// Whether nobody is admitted any more, unless an operator changes the campaign.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::SoldOut | Self::Closed)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduled => "scheduled",
            Self::SoldOut => "sold out",
            other => other.as_str(),
        })
    }
}

impl Serialize for Phase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::from_ms;

    #[test]
    fn it_follows_state_clock_and_rows_as_the_gate_does() {
        let campaign = |state| Campaign {
            state,
            capacity: 3,
            opens_at: from_ms(1_000).unwrap(),
            closes_at: from_ms(2_000),
            version: 1,
        };
        let at = |state, taken, ms| Phase::of(&campaign(state), taken, from_ms(ms).unwrap()).as_str();
        let open = |taken, ms| at(CampaignState::Open, taken, ms);
        assert_eq!(
            [open(0, 999), open(2, 1_000), open(3, 1_999), open(3, 2_000)],
            ["not-open", "open", "sold-out", "closed"]
        );
        // Before its opening nothing is sold out, and what the operator has set counts first.
        assert_eq!(open(3, 0), "not-open");
        assert_eq!(at(CampaignState::Paused, 3, 2_000), "paused");
        assert_eq!(at(CampaignState::Closed, 0, 0), "closed");
        assert_eq!(Phase::Scheduled.to_string(), "scheduled");
        assert_eq!(serde_json::to_string(&Phase::SoldOut).unwrap(), "\"sold-out\"");
    }
}
