//! Who a user is.

pub mod jwks;
pub mod jwt;

use crate::http::problem::Problem;
use crate::identity::jwt::{Algorithm, HmacSecret, Token, TokenError, UnverifiedSignature, Validation};
use dropgate_shared::ids::{IdError, UserId};
use dropgate_shared::time::Millis;

/// How users authenticate.
#[derive(Debug, Clone)]
pub enum Auth {
    /// `X-User-Id`, trusted as it is. Development only.
    InsecureHeader,
    /// A token signed with a secret that the gate shares with its issuer.
    SharedSecret {
        /// The secret, and the previous one.
        secrets: Vec<HmacSecret>,
        validation: Validation,
    },
    /// A token signed with a private key whose public half is in a key set.
    KeySet { url: String, accepted: Vec<Algorithm>, validation: Validation },
}

/// A user, as far as they are known without I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    Verified(UserId),
    /// Everything is valid but the signature, which needs a public key.
    Unverified(UserId, UnverifiedSignature),
}

/// Who a user claims to be. Nothing is verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials<'a> {
    pub user: UserId,
    token: Option<Token<'a>>,
}

/// The one response to every invalid token, so that it reveals nothing about the reason.
pub const BAD_TOKEN: Problem =
    Problem::Unauthenticated("A valid token is required: send the header Authorization: Bearer, followed by a JWT.");
const NO_USER_ID: Problem =
    Problem::Unauthenticated("The header X-User-Id is missing: send the user's id in it (development only).");

/// Why a user is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthError {
    NoUserId,
    InvalidUserId(IdError),
    Token(TokenError),
}

impl AuthError {
    /// What the visitor gets.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::NoUserId => NO_USER_ID,
            Self::InvalidUserId(error) => Problem::BadRequest(format!("X-User-Id: {error}")),
            Self::Token(_) => BAD_TOKEN,
        }
    }

    /// What the operator gets: a stable label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoUserId => "no_user_id",
            Self::InvalidUserId(_) => "user_id_invalid",
            Self::Token(error) => error.label(),
        }
    }
}

impl From<TokenError> for AuthError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl Auth {
    /// The header that has the credentials.
    #[must_use]
    pub fn header(&self) -> &'static str {
        match self {
            Self::InsecureHeader => "x-user-id",
            Self::SharedSecret { .. } | Self::KeySet { .. } => "authorization",
        }
    }

    /// Reads the credentials out of the value of that header.
    ///
    /// # Errors
    /// [`AuthError`] if there are none, or they name no user id.
    pub fn credentials<'a>(&self, header: Option<&'a str>) -> Result<Credentials<'a>, AuthError> {
        match self {
            Self::InsecureHeader => {
                let text = header.ok_or(AuthError::NoUserId)?;
                let user = UserId::parse(&utf8(text)).map_err(AuthError::InvalidUserId)?;
                Ok(Credentials { user, token: None })
            }
            Self::SharedSecret { .. } | Self::KeySet { .. } => {
                let token = Token::from_authorization(header.ok_or(TokenError::Missing)?)?;
                Ok(Credentials { user: token.subject()?, token: Some(token) })
            }
        }
    }

    /// Checks all of the credentials that can be checked without I/O.
    ///
    /// # Errors
    /// [`AuthError::Token`]
    pub fn check(&self, credentials: Credentials<'_>, now: Millis) -> Result<Identity, AuthError> {
        let Credentials { user, token } = credentials;
        match (self, token) {
            (Self::InsecureHeader, None) => Ok(Identity::Verified(user)),
            (Self::SharedSecret { secrets, validation }, Some(token)) => {
                token.validate(validation, now)?;
                token.verify(secrets)?;
                Ok(Identity::Verified(user))
            }
            (Self::KeySet { validation, .. }, Some(token)) => {
                token.validate(validation, now)?;
                Ok(Identity::Unverified(user, token.signature()?))
            }
            _ => Err(TokenError::Missing.into()),
        }
    }
}

/// A header's value reaches JavaScript with each byte as one character (Latin-1); a user id is UTF-8.
/// A value that is not UTF-8 in this way stays as it is.
fn utf8(header: &str) -> String {
    let bytes: Option<Vec<u8>> = header.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.and_then(|b| String::from_utf8(b).ok()).unwrap_or_else(|| header.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: Option<&str>) -> Result<Identity, Problem> {
        let auth = Auth::InsecureHeader;
        auth.credentials(value).and_then(|it| auth.check(it, Millis(0))).map_err(|error| error.problem())
    }

    fn verified(user: &str) -> Result<Identity, Problem> {
        Ok(Identity::Verified(UserId::parse(user).unwrap()))
    }

    #[test]
    fn trusts_the_header_as_it_is() {
        assert_eq!(with(Some("u1")), verified("u1"));
    }

    #[test]
    fn reads_the_bytes_of_a_header_as_utf8() {
        let latin1: String = "鬼é".bytes().map(char::from).collect();
        assert_eq!(with(Some(&latin1)), verified("鬼é"));
    }

    #[test]
    fn names_the_header_that_is_missing_or_invalid() {
        assert!(matches!(with(None), Err(Problem::Unauthenticated(text)) if text.contains("X-User-Id")));
        assert!(matches!(with(Some("")), Err(Problem::BadRequest(text)) if text.contains("1 to 128 bytes")));
        assert!(matches!(with(Some(&"x".repeat(129))), Err(Problem::BadRequest(_))));
    }

    #[test]
    fn a_header_is_no_token_and_a_token_no_header() {
        let auth = Auth::SharedSecret { secrets: vec![], validation: Validation::default() };
        let credentials = Auth::InsecureHeader.credentials(Some("u1")).unwrap();
        assert_eq!(auth.check(credentials, Millis(0)).map_err(|error| error.problem()), Err(BAD_TOKEN));
        assert_eq!(auth.credentials(Some("u1")).map_err(|error| error.problem()), Err(BAD_TOKEN));
    }
}
