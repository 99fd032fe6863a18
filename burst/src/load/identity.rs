//! Who the users are and how they authenticate.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Serialize;
use sha2::Sha256;

/// Users whose ids are `prefix` and a number from 1 to `users`.
#[derive(Debug, Clone)]
pub struct Crowd {
    prefix: String,
    users: u32,
}

impl Crowd {
    #[must_use]
    pub fn new(prefix: &str, users: u32) -> Self {
        Self { prefix: prefix.to_owned(), users }
    }

    #[must_use]
    pub fn users(&self) -> u32 {
        self.users
    }

    /// The id of the user with this index, from 0.
    #[must_use]
    pub fn name(&self, user: u32) -> String {
        format!("{}{}", self.prefix, u64::from(user) + 1)
    }

    /// The index of the user with this id; none if they are not in this crowd.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<u32> {
        let number: u32 = name.strip_prefix(&self.prefix)?.parse().ok()?;
        let user = number.checked_sub(1).filter(|n| *n < self.users)?;
        // "007" and "+7" are other users than "7".
        (self.name(user) == name).then_some(user)
    }
}

/// How users authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Auth {
    /// A JWT signed with HS256, in the header Authorization
    JwtHs256,
    /// The header X-User-Id, without any proof
    InsecureHeader,
}

/// Makes the header that authenticates a user.
#[derive(Clone)]
pub enum Identity {
    InsecureHeader,
    Jwt(Box<Signer>),
}

#[derive(Clone)]
pub struct Signer {
    mac: Hmac<Sha256>,
    issuer: Option<String>,
    audience: Option<String>,
    issued_s: u64,
}

/// Longer than any burst.
const TOKEN_LIFE_S: u64 = 3600;

#[derive(Serialize)]
struct JwtClaims<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    exp: u64,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    sub: &'a str,
}

impl Signer {
    /// `issued_s` is the time of signing, in seconds since the epoch.
    #[must_use]
    pub fn new(secret: &str, issuer: Option<String>, audience: Option<String>, issued_s: u64) -> Option<Self> {
        let mac = Hmac::new_from_slice(secret.as_bytes()).ok()?;
        Some(Self { mac, issuer, audience, issued_s })
    }

    #[must_use]
    pub fn token(&self, user: &str) -> String {
        let expires_s = self.issued_s + TOKEN_LIFE_S;
        let claims = JwtClaims {
            aud: self.audience.as_deref(),
            exp: expires_s,
            iat: self.issued_s,
            iss: self.issuer.as_deref(),
            sub: user,
        };
        // A struct of strings and numbers always serialises.
        let claims = serde_json::to_string(&claims).unwrap_or_default();
        let head = BASE64URL_NOPAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let mut token = format!("{head}.{}", BASE64URL_NOPAD.encode(claims.as_bytes()));
        let mut mac = self.mac.clone();
        mac.update(token.as_bytes());
        token.push('.');
        token.push_str(&BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()));
        token
    }
}

impl Identity {
    /// None if the user's id is not valid in a header.
    #[must_use]
    pub fn header(&self, user: &str) -> Option<(HeaderName, HeaderValue)> {
        let (name, text) = match self {
            Self::InsecureHeader => (HeaderName::from_static("x-user-id"), user.to_owned()),
            Self::Jwt(signer) => (AUTHORIZATION, format!("Bearer {}", signer.token(user))),
        };
        Some((name, HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn users_are_found_by_their_ids() {
        let crowd = Crowd::new("u-", 10);
        assert_eq!((crowd.name(0), crowd.name(9)), ("u-1".to_owned(), "u-10".to_owned()));
        assert_eq!((crowd.index("u-1"), crowd.index("u-10")), (Some(0), Some(9)));
        for unknown in ["u-0", "u-11", "u-01", "u-+1", "u-", "v-1", "u-1 ", ""] {
            assert_eq!(crowd.index(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_token_equals_the_one_of_another_library() {
        let signer =
            Signer::new("0123456789abcdef0123456789abcdef", None, Some("shop".to_owned()), 1_763_700_000).unwrap();
        let token = signer.token("u-1");
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts[0], "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9");
        let claims: serde_json::Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
        assert_eq!(claims, json!({"sub":"u-1","iat":1_763_700_000,"exp":1_763_703_600,"aud":"shop"}));
        assert_eq!(token, GOLDEN);
    }

    /// Made with Python's hmac and hashlib.
    const GOLDEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJzaG9wIiwiZXhwIjoxNzYzNzAzNjAwLCJpYXQiOjE3NjM3MDAwMDAsInN1YiI6InUtMSJ9.e8OOHZsDlMkp8-7Gy-3ewZd_TxnzEccEmSVTDr4gPvY";

    #[test]
    fn headers() {
        let (name, value) = Identity::InsecureHeader.header("u-1").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-user-id", "u-1"));
        let signer = Signer::new("secret", None, None, 0).unwrap();
        let (name, value) = Identity::Jwt(Box::new(signer)).header("u-1").unwrap();
        assert_eq!(name, AUTHORIZATION);
        assert!(value.to_str().unwrap().starts_with("Bearer ey"));
        assert_eq!(Identity::InsecureHeader.header("a\nb"), None);
    }
}
