//! Who the visitor is.

use crate::reply::Problem;
use crate::settings::Auth;
use dropgate_shared::ids::UserId;

/// Reads the visitor's identity out of the request's headers.
///
/// # Errors
/// [`Problem::Unauthenticated`] if there is none, [`Problem::BadRequest`] if it cannot be a user id.
pub fn identify(auth: Auth, header: impl Fn(&str) -> Option<String>) -> Result<UserId, Problem> {
    match auth {
        Auth::InsecureHeader => {
            let text = header("x-user-id")
                .ok_or_else(|| Problem::Unauthenticated("say who you are in the header X-User-Id".to_owned()))?;
            UserId::parse(&utf8(&text)).map_err(|e| Problem::BadRequest(format!("X-User-Id: {e}")))
        }
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

    fn with(value: Option<&str>) -> Result<UserId, Problem> {
        identify(Auth::InsecureHeader, |name| {
            assert_eq!(name, "x-user-id");
            value.map(str::to_owned)
        })
    }

    #[test]
    fn takes_the_header_as_it_is() {
        assert_eq!(with(Some("u1")).unwrap().as_str(), "u1");
    }

    #[test]
    fn reads_the_bytes_of_a_header_as_utf8() {
        let latin1: String = "鬼é".bytes().map(char::from).collect();
        assert_eq!(with(Some(&latin1)).unwrap().as_str(), "鬼é");
    }

    #[test]
    fn names_the_header_that_is_missing_or_wrong() {
        assert!(matches!(with(None), Err(Problem::Unauthenticated(text)) if text.contains("X-User-Id")));
        assert!(matches!(with(Some("")), Err(Problem::BadRequest(text)) if text.contains("1 to 128 bytes")));
        assert!(matches!(with(Some(&"x".repeat(129))), Err(Problem::BadRequest(_))));
    }
}
