//! Names of keys and topics. A test freezes each format: a change is a migration.

use crate::ids::{CampaignId, UserId};

/// Kafka topic of the admitted claims, unless another one is set.
pub const TOPIC: &str = "coupon_create";
/// Kafka topic of the records that can never become a row, unless another one is set.
pub const DEAD_LETTER_TOPIC: &str = "coupon_create.dlq";
/// Before every key in Redis, unless another prefix is set.
pub const KEY_PREFIX: &str = "dg:";

/// Before every key in Redis, so that several systems can share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(String);

/// The text is no prefix of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has another form than 1 to 32 characters out of a-z, 0-9, '-', '_' and ':', the last one ':'")]
pub struct KeyPrefixError;

impl Default for KeyPrefix {
    fn default() -> Self {
        Self(KEY_PREFIX.to_owned())
    }
}

impl KeyPrefix {
    /// A prefix ends with `:`, so that no key of one is a key of another.
    ///
    /// # Errors
    /// [`KeyPrefixError`].
    pub fn parse(text: &str) -> Result<Self, KeyPrefixError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_:".contains(&b);
        if text.len() <= 32 && text.ends_with(':') && text.len() > 1 && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyPrefixError)
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the set of the campaign ids that the sweeper visits.
    #[must_use]
    pub fn campaigns_key(&self) -> String {
        format!("{}campaigns", self.0)
    }

    /// The keys of `campaign`.
    #[must_use]
    pub fn keys(&self, campaign: &CampaignId) -> CampaignKeys {
        let key = |name: &str| format!("{}{{{campaign}}}:{name}", self.0);
        CampaignKeys { meta: key("meta"), claims: key("claims"), outbox: key("outbox") }
    }
}

/// Whether Kafka takes this as the name of a topic, with room for an ending.
#[must_use]
pub fn is_topic_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=240).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

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
    /// The keys of `campaign` under the prefix that holds where none is set.
    #[must_use]
    pub fn of(campaign: &CampaignId) -> Self {
        KeyPrefix::default().keys(campaign)
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
        assert_eq!(KeyPrefix::default().campaigns_key(), "dg:campaigns");
        let staging = KeyPrefix::parse("dg:staging:").unwrap();
        assert_eq!(staging.keys(&campaign).claims, "dg:staging:{spring-26}:claims");
        assert_eq!(staging.campaigns_key(), "dg:staging:campaigns");
        assert_eq!(record_key(&campaign, &UserId::parse("a/b").unwrap()), "spring-26/a/b");
        assert_eq!((TOPIC, DEAD_LETTER_TOPIC), ("coupon_create", "coupon_create.dlq"));
    }

    #[test]
    fn a_prefix_and_a_topic_have_a_form() {
        for prefix in ["", ":", "dg", "DG:", "d g:", "{dg}:", "dg:{a}:", "012345678901234567890123456789abc:"] {
            assert_eq!(KeyPrefix::parse(prefix), Err(KeyPrefixError), "{prefix}");
        }
        assert!(is_topic_name("shop.coupon_create-2") && !is_topic_name("") && !is_topic_name("a/b"));
        assert!(!is_topic_name(".") && !is_topic_name("..") && !is_topic_name(&"a".repeat(241)));
    }
}
