//! The coupon code: the same at the gate, which may show it, and at the issuer, which stores it.

use crate::ids::{CampaignId, UserId};
use crate::names::record_key;
use data_encoding::Encoding;
use data_encoding_macro::new_encoding;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use std::str::FromStr;

/// Crockford's base32 (crockford.com/base32.html).
const CROCKFORD: Encoding = new_encoding! { symbols: "0123456789ABCDEFGHJKMNPQRSTVWXYZ", };
/// Bytes of the MAC that make the code: 80 bits, 16 characters.
const CODE_BYTES: usize = 10;
/// Characters between two hyphens.
const GROUP: usize = 4;

/// What the key id of a secret is the MAC of. No claim has this text: a campaign's id contains no space.
const KEY_ID_LABEL: &[u8] = b"dropgate code key";
/// Bytes of the MAC that make the key id: 40 bits, 8 characters.
const KEY_ID_BYTES: usize = 5;

/// The id of a [`CodeSecret`]: equal for equal secrets, and reveals no more of them than a code does. Gate and issuer
/// compare it, so that they cannot have different secrets unnoticed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeKeyId([u8; 8]);

/// The text is no key id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key id of coupon codes has 8 characters out of 0-9 and A-Z without I, L, O and U")]
pub struct CodeKeyIdError;

impl CodeKeyId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for CodeKeyId {
    type Err = CodeKeyIdError;

    fn from_str(text: &str) -> Result<Self, CodeKeyIdError> {
        let bytes: [u8; 8] = text.as_bytes().try_into().map_err(|_| CodeKeyIdError)?;
        CROCKFORD.decode(&bytes).map(|_| Self(bytes)).map_err(|_| CodeKeyIdError)
    }
}

impl TryFrom<String> for CodeKeyId {
    type Error = CodeKeyIdError;

    fn try_from(text: String) -> Result<Self, CodeKeyIdError> {
        text.parse()
    }
}

impl From<CodeKeyId> for String {
    fn from(id: CodeKeyId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for CodeKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for CodeKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The secret that coupon codes are derived from, at least 16 bytes. Never printed.
#[derive(Clone)]
pub struct CodeSecret {
    mac: Hmac<Sha256>,
    id: CodeKeyId,
}

/// The secret is too short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coupon code secret needs at least 16 bytes, this one has {0}")]
pub struct CodeSecretError(usize);

impl CodeSecret {
    /// Validates the secret.
    ///
    /// # Errors
    /// [`CodeSecretError`] if it has fewer than 16 bytes.
    pub fn parse(secret: &str) -> Result<Self, CodeSecretError> {
        if secret.len() < 16 {
            return Err(CodeSecretError(secret.len()));
        }
        // HMAC takes a key of any length, so the error cannot occur.
        let mac: Hmac<Sha256> = Hmac::new_from_slice(secret.as_bytes()).map_err(|_| CodeSecretError(secret.len()))?;
        let text = base32::<KEY_ID_BYTES>(mac.clone(), KEY_ID_LABEL);
        // 5 bytes are 8 characters, so this error cannot occur either.
        let id = text.parse().map_err(|_| CodeSecretError(secret.len()))?;
        Ok(Self { mac, id })
    }

    /// The id by which others recognise this secret.
    #[must_use]
    pub fn id(&self) -> CodeKeyId {
        self.id
    }

    /// The code of a claim: the first 80 bits of HMAC-SHA256(secret, `campaign/user`) in Crockford's
    /// base32, in groups of four: `7ZQK-3M9F-XW20-BC8D`.
    #[must_use]
    pub fn code(&self, campaign: &CampaignId, user: &UserId) -> String {
        let text = base32::<CODE_BYTES>(self.mac.clone(), record_key(campaign, user).as_bytes());
        let mut code = String::with_capacity(text.len() + text.len() / GROUP);
        for (at, character) in text.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                code.push('-');
            }
            code.push(character);
        }
        code
    }
}

/// The first `N` bytes of the MAC of `message`.
fn base32<const N: usize>(mut mac: Hmac<Sha256>, message: &[u8]) -> String {
    mac.update(message);
    CROCKFORD.encode(mac.finalize().into_bytes().get(..N).unwrap_or_default())
}

/// The secrets that a gate or an issuer has: the one of new campaigns, and while it is being replaced the one before.
#[derive(Debug, Clone)]
pub struct CodeSecrets {
    current: CodeSecret,
    previous: Option<CodeSecret>,
}

impl CodeSecrets {
    /// `previous`: the secret of campaigns that were published before `current` came.
    #[must_use]
    pub fn new(current: CodeSecret, previous: Option<CodeSecret>) -> Self {
        Self { current, previous }
    }

    /// The secret of new campaigns.
    #[must_use]
    pub fn current(&self) -> &CodeSecret {
        &self.current
    }

    /// The secrets, the current one first.
    pub fn all(&self) -> impl Iterator<Item = &CodeSecret> {
        [&self.current].into_iter().chain(&self.previous)
    }

    /// The secret of a campaign or a record. One without a key id was written before there were any: then it is the
    /// current secret, as it was. `None`: another secret than these.
    #[must_use]
    pub fn of(&self, id: Option<CodeKeyId>) -> Option<&CodeSecret> {
        match id {
            None => Some(&self.current),
            Some(id) => self.all().find(|secret| secret.id == id),
        }
    }

    /// The key ids, separated by commas, as `admit.lua` and `publish.lua` take them.
    #[must_use]
    pub fn ids(&self) -> String {
        self.all().map(|secret| secret.id.as_str()).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Debug for CodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_has_a_minimum_length_and_is_never_printed() {
        assert_eq!(CodeSecret::parse("short").unwrap_err(), CodeSecretError(5));
        assert_eq!(format!("{:?}", CodeSecret::parse("0123456789abcdef").unwrap()), "CodeSecret(..)");
    }

    #[test]
    fn a_key_id_finds_its_secret_and_no_other() {
        let secret = |text: &str| CodeSecret::parse(text).unwrap();
        let (old, new) = (secret("0123456789abcdef"), secret("0123456789abcdeg"));
        let secrets = CodeSecrets::new(new.clone(), Some(old.clone()));
        let found = |id| secrets.of(id).map(CodeSecret::id);
        assert_eq!((found(None), found(Some(old.id()))), (Some(new.id()), Some(old.id())));
        assert_eq!(found(Some(secret("another one of them").id())), None);
        assert_eq!(secrets.ids(), format!("{},{}", new.id(), old.id()));
        for text in ["", "W8PN52V", "W8PN52VNN", "w8pn52vn", "W8PN52VU", "W8PN52,N"] {
            assert_eq!(text.parse::<CodeKeyId>(), Err(CodeKeyIdError), "{text:?}");
        }
    }
}
