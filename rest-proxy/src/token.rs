//! The token that callers send, and how it is read from a request.

use axum::http::{HeaderMap, header};
use std::fmt;
use subtle::ConstantTimeEq;

/// The environment variable that holds the token of either proxy.
pub const TOKEN_ENV: &str = "DROPGATE_REST_PROXY_TOKEN";

/// The token is empty, which would admit every caller.
#[derive(Debug, thiserror::Error)]
#[error("the token is empty: set {TOKEN_ENV} or --token")]
pub struct EmptyToken;

/// The secret that callers send. It is compared in constant time and never printed.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// A token without the white space around it.
    ///
    /// # Errors
    /// [`EmptyToken`].
    pub fn new(token: &str) -> Result<Self, EmptyToken> {
        match token.trim() {
            "" => Err(EmptyToken),
            token => Ok(Self(token.as_bytes().into())),
        }
    }

    /// Whether `candidate` is this token. The time taken does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.ct_eq(candidate).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The credentials of an `Authorization` header with this scheme (schemes ignore case).
pub(crate) fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_only_and_is_never_printed() {
        let token = Token::new("s3cret").unwrap();
        assert!(token.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3cretX"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(matches!(Token::new("  "), Err(EmptyToken)));
    }
}
