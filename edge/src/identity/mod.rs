//! Who the visitor is.

pub mod jwks;
pub mod jwt;

use crate::http::response::Problem;
use dropgate_shared::ids::UserId;
use jwt::{Algorithm, Secret, Signed, Token, Validation};

/// How a visitor says who he is.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `X-User-Id`, believed as it is. Local work only.
    InsecureHeader,
    /// A token signed with a secret that the gate shares with its maker.
    Secret {
        /// The secret, and the one before it.
        secrets: Vec<Secret>,
        /// What else must be true of a token.
        validation: Validation,
    },
    /// A token signed with a private key, whose public half is in a key set on the network.
    KeySet {
        /// Where the key set is.
        url: String,
        /// The algorithms that are accepted.
        accepted: Vec<Algorithm>,
        /// What else must be true of a token.
        validation: Validation,
    },
}

/// A visitor, as far as he can be known without any I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is he.
    Known(UserId),
    /// It is he if a public key says so.
    Signed(UserId, Signed),
}

/// Who a visitor says he is. Nobody vouches for it yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials<'a> {
    /// The name he gives.
    pub user: UserId,
    token: Option<Token<'a>>,
}

/// The one answer to whatever is wrong with a token, so that nothing can be learnt from it.
pub const BAD_TOKEN: Problem = Problem::Unauthenticated("a valid token is needed: Authorization: Bearer JWT");

impl Auth {
    /// The header that holds the introduction.
    #[must_use]
    pub fn header(&self) -> &'static str {
        match self {
            Self::InsecureHeader => "x-user-id",
            Self::Secret { .. } | Self::KeySet { .. } => "authorization",
        }
    }

    /// Reads who the visitor says he is out of the value of that header.
    ///
    /// # Errors
    /// [`Problem::Unauthenticated`] if there is no introduction, [`Problem::BadRequest`] if it cannot
    /// be a user id.
    pub fn credentials<'a>(&self, header: Option<&'a str>) -> Result<Credentials<'a>, Problem> {
        match self {
            Self::InsecureHeader => {
                let text = header.ok_or(Problem::Unauthenticated("say who you are in the header X-User-Id"))?;
                let user = UserId::parse(&utf8(text)).map_err(|e| Problem::BadRequest(format!("X-User-Id: {e}")))?;
                Ok(Credentials { user, token: None })
            }
            Self::Secret { .. } | Self::KeySet { .. } => {
                let token = header.and_then(Token::of).ok_or(BAD_TOKEN)?;
                Ok(Credentials { user: token.subject().ok_or(BAD_TOKEN)?, token: Some(token) })
            }
        }
    }

    /// Checks all of an introduction that can be checked without I/O.
    ///
    /// # Errors
    /// [`BAD_TOKEN`]
    pub fn check(&self, credentials: Credentials<'_>, now_ms: u64) -> Result<Identity, Problem> {
        let Credentials { user, token } = credentials;
        let identity = match (self, token) {
            (Self::InsecureHeader, None) => Some(Identity::Known(user)),
            (Self::Secret { secrets, validation }, Some(token)) => {
                (token.validate(validation, now_ms) && token.signed_with(secrets)).then_some(Identity::Known(user))
            }
            (Self::KeySet { validation, .. }, Some(token)) if token.validate(validation, now_ms) => {
                token.signed().map(|signed| Identity::Signed(user, signed))
            }
            _ => None,
        };
        identity.ok_or(BAD_TOKEN)
    }
}

/// A header's value reaches JavaScript with each byte as one character (Latin-1); a user id is UTF-8.
/// What is not UTF-8 behind that stays as it is.
fn utf8(header: &str) -> String {
    let bytes: Option<Vec<u8>> = header.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.and_then(|b| String::from_utf8(b).ok()).unwrap_or_else(|| header.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: Option<&str>) -> Result<Identity, Problem> {
        let auth = Auth::InsecureHeader;
        auth.check(auth.credentials(value)?, 0)
    }

    fn known(user: &str) -> Result<Identity, Problem> {
        Ok(Identity::Known(UserId::parse(user).unwrap()))
    }

    #[test]
    fn takes_the_header_as_it_is() {
        assert_eq!(with(Some("u1")), known("u1"));
    }

    #[test]
    fn reads_the_bytes_of_a_header_as_utf8() {
        let latin1: String = "鬼é".bytes().map(char::from).collect();
        assert_eq!(with(Some(&latin1)), known("鬼é"));
    }

    #[test]
    fn names_the_header_that_is_missing_or_wrong() {
        assert!(matches!(with(None), Err(Problem::Unauthenticated(text)) if text.contains("X-User-Id")));
        assert!(matches!(with(Some("")), Err(Problem::BadRequest(text)) if text.contains("1 to 128 bytes")));
        assert!(matches!(with(Some(&"x".repeat(129))), Err(Problem::BadRequest(_))));
    }

    #[test]
    fn a_header_is_nobodys_token_and_a_token_nobodys_header() {
        let auth = Auth::Secret { secrets: vec![], validation: Validation::default() };
        let introduced = Auth::InsecureHeader.credentials(Some("u1")).unwrap();
        assert_eq!(auth.check(introduced, 0), Err(BAD_TOKEN));
        assert_eq!(auth.credentials(Some("u1")), Err(BAD_TOKEN));
    }
}
