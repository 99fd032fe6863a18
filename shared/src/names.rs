//! Names of keys and topics. A test freezes each format: a change is a migration.

use crate::ids::{CampaignId, UserId};

/// Kafka topic of the admitted claims.
pub const TOPIC: &str = "coupon_create";
/// Kafka topic of the records that can never become a row.
pub const DEAD_LETTER_TOPIC: &str = "coupon_create.dlq";
/// Redis set of the campaign ids that the sweeper visits.
pub const CAMPAIGNS_KEY: &str = "dg:campaigns";

/// The Redis keys of one campaign. They share a hash tag, so a cluster keeps them on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignKeys {
    /// Hash: [`crate::campaign::CampaignMeta`].
    pub meta: String,
    /// Hash: user -> [`crate::claim::ClaimEntry`]. Admitted users only.
    pub claims: String,
    /// Sorted set: user -> time in ms from which the sweeper may take the outbox entry.
    pub outbox: String,
}

impl CampaignKeys {
    /// The keys of `campaign`.
    #[must_use]
    pub fn of(campaign: &CampaignId) -> Self {
        Self {
            meta: format!("dg:{{{campaign}}}:meta"),
            claims: format!("dg:{{{campaign}}}:claims"),
            outbox: format!("dg:{{{campaign}}}:outbox"),
        }
    }
}

/// Key of a claim's Kafka record. A campaign id holds no `/`, so the pair can be read back.
#[must_use]
pub fn record_key(campaign: &CampaignId, user: &UserId) -> String {
    format!("{campaign}/{}", user.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_frozen() {
        let campaign = CampaignId::parse("spring-26").unwrap();
        let keys = CampaignKeys::of(&campaign);
        assert_eq!(keys.meta, "dg:{spring-26}:meta");
        assert_eq!(keys.claims, "dg:{spring-26}:claims");
        assert_eq!(keys.outbox, "dg:{spring-26}:outbox");
        assert_eq!(CAMPAIGNS_KEY, "dg:campaigns");
        assert_eq!(record_key(&campaign, &UserId::parse("a/b").unwrap()), "spring-26/a/b");
        assert_eq!((TOPIC, DEAD_LETTER_TOPIC), ("coupon_create", "coupon_create.dlq"));
    }
}
