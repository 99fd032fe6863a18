//! Settings of authentication.

use crate::identity::Auth;
use crate::identity::jwt::{Algorithm, HmacSecret, Validation};
use crate::settings::reader::{Environment, Reader};

/// The audience that waives the check.
const ANY: &str = "any";

/// Reads `AUTH`, and for tokens `JWT_..`; none, with a problem, where they are missing or invalid.
pub fn read(reader: &Reader<'_>) -> Option<Auth> {
    const WORDS: &str = "jwt-hs256, jwt-jwks, or insecure-header (development only)";
    let validation = || Validation {
        issuer: reader.find("JWT_ISSUER"),
        audience: reader.find("JWT_AUDIENCE").filter(|audience| audience != ANY),
        skew_s: reader.number("JWT_SKEW_S", 30, (0, 300), "seconds"),
    };
    match reader.required("AUTH", WORDS).as_str() {
        "" => None,
        "insecure-header" => {
            if reader.environment.is_some_and(|environment| environment != Environment::Development) {
                reader.problem(
                    "AUTH=insecure-header trusts every X-User-Id; \
                     expected jwt-hs256 or jwt-jwks where ENVIRONMENT is not development",
                );
            }
            Some(Auth::InsecureHeader)
        }
        "jwt-hs256" => {
            let secret = reader.required("JWT_SECRET", "at least 32 bytes, the same as the token issuer's");
            let first = (!secret.is_empty()).then(|| hmac_secret(reader, "JWT_SECRET", &secret)).flatten();
            let previous = reader.find("JWT_SECRET_PREVIOUS");
            let second = previous.and_then(|secret| hmac_secret(reader, "JWT_SECRET_PREVIOUS", &secret));
            let secrets = first.into_iter().chain(second).collect();
            Some(Auth::SharedSecret { secrets, validation: validation() })
        }
        "jwt-jwks" => {
            let url = reader.required_url("JWT_JWKS_URL");
            let validation = validation();
            // A key set signs tokens for other services too, and each of their users would be ours.
            match reader.find("JWT_AUDIENCE") {
                None => reader.problem(
                    "JWT_AUDIENCE is missing; expected the audience of this gate's tokens, \
                     or any to accept the issuer's tokens for every service",
                ),
                Some(audience) if audience == ANY && validation.issuer.is_none() => {
                    reader.problem("JWT_ISSUER is missing; expected the tokens' issuer where JWT_AUDIENCE is any");
                }
                Some(_) => {}
            }
            Some(Auth::KeySet { url, accepted: algorithms(reader), validation })
        }
        _ => {
            reader.problem(format!("AUTH is not supported; expected {WORDS}"));
            None
        }
    }
}

fn hmac_secret(reader: &Reader<'_>, name: &str, value: &str) -> Option<HmacSecret> {
    HmacSecret::parse(value).map_err(|e| reader.problem(format!("{name} {e}"))).ok()
}

fn algorithms(reader: &Reader<'_>) -> Vec<Algorithm> {
    let Some(names) = reader.find("JWT_ALGORITHMS") else { return Algorithm::PUBLIC.to_vec() };
    let known = |name: &str| Algorithm::PUBLIC.into_iter().find(|algorithm| algorithm.name() == name.trim());
    names.split(',').map(known).collect::<Option<_>>().unwrap_or_else(|| {
        reader.problem("JWT_ALGORITHMS is not supported; expected RS256, ES256 or EdDSA, separated by commas");
        Vec::new()
    })
}
