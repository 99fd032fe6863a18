//! Optional protection against automated requests: a Turnstile token, verified with Cloudflare's siteverify
//! (developers.cloudflare.com/turnstile/get-started/server-side-validation).
//!
//! It costs a call for each claim; the sold-out memory and the identity check come before it.

use crate::labels::fault::{GARBLED, REFUSED};
use data_encoding::HEXLOWER;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::{Http, HttpRequest};
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::record_key;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;

/// The header that carries the token.
pub const HEADER: &str = "x-challenge";
/// Turnstile's tokens have 2048 characters at most.
const TOKEN_LIMIT_BYTES: usize = 2_048;
const DEADLINE_MS: u32 = 5_000;
/// The error codes that are the client's fault. All others are about the gate's settings, or about siteverify itself.
const CLIENT_FAULTS: [&str; 3] = ["missing-input-response", "invalid-input-response", "timeout-or-duplicate"];

#[derive(Clone)]
pub struct Turnstile {
    /// siteverify, or a substitute.
    pub url: String,
    /// The secret of the widget. Never printed.
    pub secret: String,
    /// The public key of the widget, for the drop page.
    pub site_key: Option<String>,
}

impl fmt::Debug for Turnstile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turnstile({})", self.url)
    }
}

impl Turnstile {
    /// Whether `token` is valid for this user's claim. A token is valid once, but the same claim may be repeated with
    /// it (I5): the call's idempotency key is derived from user, campaign and token.
    ///
    /// # Errors
    /// [`Fault`] where the service gives no answer about the token.
    pub async fn verify<H: Http>(
        &self,
        http: &H,
        token: Option<&str>,
        (campaign, user): (&CampaignId, &UserId),
        address: Option<&str>,
    ) -> Result<bool, Fault> {
        let Some(token) = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_LIMIT_BYTES) else {
            return Ok(false);
        };
        let key = idempotency_key(&format!("{}/{token}", record_key(campaign, user)));
        let body = json!({ "secret": self.secret, "response": token, "remoteip": address, "idempotency_key": key });
        let request = HttpRequest {
            url: &self.url,
            headers: vec![("content-type", "application/json")],
            body: body.to_string(),
            deadline_ms: DEADLINE_MS,
        };
        let fault = |label, detail: String| Fault::none(Source::Challenge, label, true, detail);
        let response = http.post(request).await.map_err(|e| fault(e.label, e.detail))?;
        let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let codes = body.get("error-codes").and_then(Value::as_array);
        let codes: Vec<&str> = codes.into_iter().flatten().filter_map(Value::as_str).collect();
        match body.get("success").and_then(Value::as_bool) {
            Some(true) => Ok(true),
            Some(false) if codes.iter().all(|code| CLIENT_FAULTS.contains(code)) => Ok(false),
            Some(false) => Err(fault(REFUSED, codes.join(", "))),
            None => Err(fault(GARBLED, format!("status {}", response.status))),
        }
    }
}

/// A UUID (version 8, RFC 9562) out of a hash.
fn idempotency_key(text: &str) -> String {
    let mut digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest[6] = (digest[6] & 0x0f) | 0x80;
    digest[8] = (digest[8] & 0x3f) | 0x80;
    let hex = HEXLOWER.encode(&digest);
    let group = |digits: Range<usize>| hex.get(digits).unwrap_or_default();
    [group(0..8), group(8..12), group(12..16), group(16..20), group(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_claim_is_always_the_same_and_a_uuid() {
        let key = idempotency_key("spring/u1/token");
        assert_eq!(key, "6334c6b0-f6bd-8430-ace6-dc1672c0a139");
        assert_eq!(key, idempotency_key("spring/u1/token"));
        assert_ne!(key, idempotency_key("spring/u2/token"));
        assert_eq!(key.len(), 36);
        assert_eq!((key.get(14..15), key.matches('-').count()), (Some("8"), 4));
    }

    #[test]
    fn the_secret_is_never_printed() {
        let turnstile = Turnstile { url: "https://x".to_owned(), secret: "s3cret".to_owned(), site_key: None };
        assert!(!format!("{turnstile:?}").contains("s3cret"));
    }
}
