//! Identifiers, validated once on entry and passed on as types.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU32;

/// Why an identifier is invalid. `Display` states the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The campaign id is not `[a-z0-9-]{1,64}`.
    #[error("a campaign id is 1 to 64 characters out of a-z, 0-9 and '-'")]
    Campaign,
    /// The user id is empty or longer than 128 bytes.
    #[error("a user id is 1 to 128 bytes long, this one has {0}")]
    UserLength(usize),
    /// The user id holds a control character.
    #[error("a user id has no control characters")]
    UserControl,
    /// The user id begins or ends with white space.
    #[error("a user id does not begin or end with white space")]
    UserSpace,
    /// A slot is not a number from 1 up.
    #[error("a slot is a whole number from 1 to 4294967295")]
    Slot,
}

/// A campaign's name: `[a-z0-9-]{1,64}`. Safe in a URL path, a Redis key and a Kafka key as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CampaignId(String);

impl CampaignId {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`IdError::Campaign`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(IdError::Campaign) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user, as the shop identifies them: 1..128 bytes of UTF-8, compared byte by byte.
///
/// No control characters, and no white space at either end: a MySQL `utf8mb4_bin` comparison pads
/// with spaces, so `"a"` and `"a "` would be one user there and two in Redis.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(String);

impl UserId {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`IdError::UserLength`], [`IdError::UserControl`], [`IdError::UserSpace`].
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if !(1..=128).contains(&text.len()) {
            return Err(IdError::UserLength(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::UserControl);
        }
        if text.trim() != text {
            return Err(IdError::UserSpace);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text. Never write it to a log at info level: use [`fmt::Debug`], which shortens it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows the first characters only, so that a log line never carries a full user id.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: String = self.0.chars().take(3).collect();
        write!(f, "UserId({head}.. {} bytes)", self.0.len())
    }
}

macro_rules! text_id {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}
text_id!(CampaignId);
text_id!(UserId);

impl fmt::Display for CampaignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position among the admitted, 1..capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(NonZeroU32);

impl Slot {
    /// Validates that `n` is 1 or more.
    ///
    /// # Errors
    /// [`IdError::Slot`].
    pub fn new(n: u32) -> Result<Self, IdError> {
        NonZeroU32::new(n).map(Self).ok_or(IdError::Slot)
    }

    /// The slot as a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn campaign_ids() {
        for good in ["a", "black-friday-2026", &"9".repeat(64)] {
            assert_eq!(CampaignId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "a b", "a/b", "ä", "a_b", "{a}", &"9".repeat(65)] {
            assert_eq!(CampaignId::parse(bad), Err(IdError::Campaign), "{bad:?}");
        }
    }

    #[test]
    fn user_ids_are_bytes_without_control_characters_or_outer_space() {
        for good in ["u1", "Ünïcode-鬼", "a b", &"x".repeat(128)] {
            assert_eq!(UserId::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(UserId::parse(""), Err(IdError::UserLength(0)));
        assert_eq!(UserId::parse(&"é".repeat(65)), Err(IdError::UserLength(130)));
        assert_eq!(UserId::parse("a\nb"), Err(IdError::UserControl));
        assert_eq!(UserId::parse("a\u{85}b"), Err(IdError::UserControl));
        assert_eq!(UserId::parse("a "), Err(IdError::UserSpace));
        assert_eq!(UserId::parse("\u{a0}a"), Err(IdError::UserSpace));
    }

    #[test]
    fn a_user_id_never_shows_whole_in_a_log() {
        let id = UserId::parse("someone@example.org").unwrap();
        assert_eq!(format!("{id:?}"), "UserId(som.. 19 bytes)");
    }

    #[test]
    fn slots_begin_at_one() {
        assert_eq!(Slot::new(0), Err(IdError::Slot));
        assert_eq!(Slot::new(1).unwrap().get(), 1);
        assert!(serde_json::from_str::<Slot>("0").is_err());
    }
}
