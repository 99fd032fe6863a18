//! The coupon code: the same at the gate, which may show it, and at the issuer, which stores it.

use crate::ids::{CampaignId, UserId};
use crate::names::record_key;
use data_encoding::Encoding;
use data_encoding_macro::new_encoding;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Crockford's base32 (crockford.com/base32.html).
const CROCKFORD: Encoding = new_encoding! { symbols: "0123456789ABCDEFGHJKMNPQRSTVWXYZ", };
/// Bytes of the MAC that make the code: 80 bits, 16 characters.
const CODE_BYTES: usize = 10;
/// Characters between two hyphens.
const GROUP: usize = 4;

/// The secret that coupon codes are derived from, at least 16 bytes. Never printed.
#[derive(Clone)]
pub struct CodeSecret(Hmac<Sha256>);

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
        Hmac::new_from_slice(secret.as_bytes()).map(Self).map_err(|_| CodeSecretError(secret.len()))
    }

    /// The code of a claim: the first 80 bits of HMAC-SHA256(secret, `campaign/user`) in Crockford's
    /// base32, in groups of four: `7ZQK-3M9F-XW20-BC8D`.
    #[must_use]
    pub fn code(&self, campaign: &CampaignId, user: &UserId) -> String {
        let mut mac = self.0.clone();
        mac.update(record_key(campaign, user).as_bytes());
        let digest = mac.finalize().into_bytes();
        let text = CROCKFORD.encode(digest.get(..CODE_BYTES).unwrap_or_default());
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
}
