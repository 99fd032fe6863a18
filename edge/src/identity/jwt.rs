//! JSON Web Tokens (RFC 7519, signed by RFC 7515).
//!
//! The accepted algorithms are fixed by configuration and each key belongs to one of them, so a token cannot choose how
//! it is verified (`alg=none`, an HMAC over a public key).

use data_encoding::BASE64URL_NOPAD;
use dropgate_shared::ids::UserId;
use dropgate_shared::time::Millis;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;

/// A longer token is rejected. Cloudflare accepts 128 KB of headers.
pub const TOKEN_LIMIT_BYTES: usize = 8_192;
/// HS256 requires a key as long as its hash (RFC 7518, 3.2).
const SECRET_MIN_BYTES: usize = 32;

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Those with public keys.
    pub const PUBLIC: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A secret for HS256. Never printed.
#[derive(Clone)]
pub struct HmacSecret(Hmac<Sha256>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has {0} bytes; HS256 needs at least {SECRET_MIN_BYTES} bytes")]
pub struct HmacSecretError(usize);

impl HmacSecret {
    /// # Errors
    /// [`HmacSecretError`] if the secret is too short.
    pub fn parse(secret: &str) -> Result<Self, HmacSecretError> {
        let too_short = HmacSecretError(secret.len());
        if secret.len() < SECRET_MIN_BYTES {
            return Err(too_short);
        }
        // HMAC takes a key of any length, so the error cannot occur.
        Hmac::new_from_slice(secret.as_bytes()).map(Self).map_err(|_| too_short)
    }

    fn has_signed(&self, message: &str, signature: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(message.as_bytes());
        mac.verify_slice(signature).is_ok()
    }
}

impl fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacSecret(..)")
    }
}

/// What the claims of a token must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validation {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be this or hold it.
    pub audience: Option<String>,
    /// How far the clocks of the gate and of the tokens' issuer may be apart.
    pub skew_s: u32,
}

/// Why a token is not accepted. For the operator: the visitor never learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    Missing,
    NotBearer,
    TooLong,
    Malformed,
    /// `sub` is missing, or not one text.
    NoSubject,
    /// `sub` is no user id: 1 to 128 bytes, no control characters, no white space at its ends.
    SubjectInvalid,
    ClaimsMalformed,
    Expired,
    NotYetValid,
    OtherIssuer,
    OtherAudience,
    HeaderMalformed,
    OtherAlgorithm,
    NoSuchKey,
    /// More keys may have made the signature than are tried.
    TooManyKeys,
    BadSignature,
}

impl TokenError {
    /// Stable label for logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "no_token",
            Self::NotBearer => "not_bearer",
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::NoSubject => "no_sub",
            Self::SubjectInvalid => "sub_no_user_id",
            Self::ClaimsMalformed => "claims_malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherIssuer => "other_issuer",
            Self::OtherAudience => "other_audience",
            Self::HeaderMalformed => "header_malformed",
            Self::OtherAlgorithm => "other_algorithm",
            Self::NoSuchKey => "no_such_key",
            Self::TooManyKeys => "too_many_keys",
            Self::BadSignature => "bad_signature",
        }
    }
}

/// A token that is parsed and not verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'a> {
    /// Header and payload as they are signed.
    message: &'a str,
    header: &'a str,
    signature: &'a str,
    payload: Vec<u8>,
}

/// Read before the other claims: while a campaign is sold out nothing else of a token is read.
#[derive(Deserialize)]
struct Subject<'a> {
    #[serde(borrow)]
    sub: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Claims {
    // Seconds since the epoch; the standard allows fractions.
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// A signature, and all that is needed to verify it except the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedSignature {
    /// `alg` of the header.
    pub algorithm: String,
    /// `kid` of the header.
    pub key_id: Option<String>,
    pub message: String,
    pub bytes: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Parses the token in the value of `Authorization`.
    ///
    /// # Errors
    /// [`TokenError`] if there is none, or it is malformed.
    pub fn from_authorization(authorization: &'a str) -> Result<Self, TokenError> {
        let (scheme, text) = authorization.split_once(' ').ok_or(TokenError::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenError::NotBearer);
        }
        // One or more spaces (RFC 9110, 11.4).
        let text = text.trim_start_matches(' ');
        if text.len() > TOKEN_LIMIT_BYTES {
            return Err(TokenError::TooLong);
        }
        let parse = || {
            let (message, signature) = text.rsplit_once('.')?;
            let (header, payload) = message.split_once('.')?;
            Some(Self { message, header, signature, payload: BASE64URL_NOPAD.decode(payload.as_bytes()).ok()? })
        };
        parse().ok_or(TokenError::Malformed)
    }

    /// The user in the token. Not to be trusted before the signature is verified.
    ///
    /// # Errors
    /// [`TokenError`] if there is none.
    pub fn subject(&self) -> Result<UserId, TokenError> {
        let Subject { sub } = serde_json::from_slice(&self.payload).map_err(|_| TokenError::NoSubject)?;
        UserId::parse(&sub).map_err(|_| TokenError::SubjectInvalid)
    }

    /// Checks that the token is for this gate and valid now.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn validate(&self, validation: &Validation, now: Millis) -> Result<(), TokenError> {
        #[expect(clippy::cast_precision_loss, reason = "ms since the epoch are far below 2^53")]
        let now_s = now.0 as f64 / 1000.0;
        let skew_s = f64::from(validation.skew_s);
        let claims = serde_json::from_slice(&self.payload);
        let Claims { exp, nbf, iss, aud } = claims.map_err(|_| TokenError::ClaimsMalformed)?;
        let is_ours = |audience: &String| match &aud {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        let checks = [
            (now_s < exp + skew_s, TokenError::Expired),
            (nbf.is_none_or(|nbf| now_s >= nbf - skew_s), TokenError::NotYetValid),
            (validation.issuer.as_ref().is_none_or(|issuer| iss.as_ref() == Some(issuer)), TokenError::OtherIssuer),
            (validation.audience.as_ref().is_none_or(is_ours), TokenError::OtherAudience),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Checks that one of `secrets` has signed it with HS256.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn verify(&self, secrets: &[HmacSecret]) -> Result<(), TokenError> {
        let signature = self.signature()?;
        if signature.algorithm != Algorithm::Hs256.name() {
            return Err(TokenError::OtherAlgorithm);
        }
        let signed = secrets.iter().any(|secret| secret.has_signed(self.message, &signature.bytes));
        if signed { Ok(()) } else { Err(TokenError::BadSignature) }
    }

    /// The signature.
    ///
    /// # Errors
    /// [`TokenError::HeaderMalformed`], also for a token that requires extensions (`crit`): none is supported.
    pub fn signature(&self) -> Result<UnverifiedSignature, TokenError> {
        let read = || {
            let header: Header = serde_json::from_slice(&BASE64URL_NOPAD.decode(self.header.as_bytes()).ok()?).ok()?;
            header.crit.is_none().then_some(())?;
            Some(UnverifiedSignature {
                algorithm: header.alg,
                key_id: header.kid,
                message: self.message.to_owned(),
                bytes: BASE64URL_NOPAD.decode(self.signature.as_bytes()).ok()?,
            })
        };
        read().ok_or(TokenError::HeaderMalformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW_S: u64 = 1_763_700_000;
    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn part(value: &Value) -> String {
        BASE64URL_NOPAD.encode(value.to_string().as_bytes())
    }

    fn signed_by(secret: &str, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(message.as_bytes());
        format!("Bearer {message}.{}", BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
    }

    fn claims() -> Value {
        json!({ "sub": "u1", "exp": NOW_S + 60, "nbf": NOW_S - 60, "iss": "shop", "aud": "dropgate", "extra": [1] })
    }

    fn validation() -> Validation {
        Validation { issuer: Some("shop".to_owned()), audience: Some("dropgate".to_owned()), skew_s: 5 }
    }

    fn accepted(authorization: &str) -> bool {
        let secrets = [SECRET, &"previous".repeat(4)].map(|secret| HmacSecret::parse(secret).unwrap());
        Token::from_authorization(authorization).is_ok_and(|token| {
            token.validate(&validation(), Millis(NOW_S * 1000)).is_ok()
                && token.verify(&secrets).is_ok()
                && token.subject().is_ok()
        })
    }

    /// The example of RFC 7515, appendix A.1, with its key: made by another implementation.
    #[test]
    fn verifies_the_signature_of_the_standards_example() {
        let key = BASE64URL_NOPAD
            .decode(b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let secret = HmacSecret(Hmac::new_from_slice(&key).unwrap());
        let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
             eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = BASE64URL_NOPAD.decode(b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert!(secret.has_signed(message, &signature));
        assert!(!secret.has_signed(message, &signature[1..]));
    }

    #[test]
    fn a_valid_token_is_accepted_with_either_secret() {
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        assert!(accepted(&signed_by(SECRET, &header, &claims())));
        assert!(accepted(&signed_by(&"previous".repeat(4), &header, &claims())));
        for scheme in ["bearer ", "Bearer  ", "BEARER    "] {
            assert!(accepted(&signed_by(SECRET, &header, &claims()).replace("Bearer ", scheme)), "{scheme}");
        }
        assert_eq!(
            Token::from_authorization(&signed_by(SECRET, &header, &claims())).unwrap().subject().unwrap().as_str(),
            "u1"
        );
    }

    #[test]
    fn another_algorithm_another_key_or_a_critical_extension_is_rejected() {
        for header in [
            json!({ "alg": "none" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "hs256" }),
            json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            json!({ "typ": "JWT" }),
            json!("HS256"),
        ] {
            assert!(!accepted(&signed_by(SECRET, &header, &claims())), "{header}");
        }
        let header = json!({ "alg": "HS256" });
        assert!(!accepted(&signed_by(&"forged".repeat(6), &header, &claims())));
    }

    #[test]
    fn every_claim_is_validated() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            accepted(&signed_by(SECRET, &json!({ "alg": "HS256" }), &claims))
        };
        assert!(with("exp", json!(NOW_S - 4)) && !with("exp", json!(NOW_S - 5)));
        assert!(with("exp", json!(NOW_S as f64 + 0.5)) && !with("exp", json!("never")) && !with("exp", Value::Null));
        assert!(with("nbf", json!(NOW_S + 5)) && !with("nbf", json!(NOW_S + 6)) && with("nbf", Value::Null));
        assert!(!with("iss", json!("other")) && !with("iss", Value::Null));
        assert!(with("aud", json!(["other", "dropgate"])) && !with("aud", json!(["other"])));
        assert!(!with("aud", json!("other")) && !with("aud", Value::Null) && !with("aud", json!({ "dropgate": 1 })));
        assert!(!with("sub", json!("")) && !with("sub", json!(7)) && !with("sub", json!("x".repeat(129))));
    }

    #[test]
    fn a_token_that_is_cut_changed_or_too_long_is_rejected() {
        let good = signed_by(SECRET, &json!({ "alg": "HS256" }), &claims());
        for end in 0..good.len() {
            assert!(!accepted(good.get(..end).unwrap()), "cut after {end}");
        }
        for at in "Bearer ".len()..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] ^= 1;
            assert!(!accepted(&String::from_utf8(changed).unwrap()), "changed at {at}");
        }
        for bad in ["", "Bearer", "Bearer ..", "Basic dTpw", "Bearer a.b.c.d"] {
            assert!(!accepted(bad), "{bad}");
        }
        assert!(!accepted(&format!("{good}, {good}")) && !accepted(&format!("{good} ")));
        let mut long = claims();
        long["extra"] = json!("x".repeat(TOKEN_LIMIT_BYTES));
        assert!(!accepted(&signed_by(SECRET, &json!({ "alg": "HS256" }), &long)));
        let twice = r#"{"sub":"u1","sub":"u2","exp":9999999999,"iss":"shop","aud":"dropgate"}"#;
        let message = format!("{}.{}", part(&json!({ "alg": "HS256" })), BASE64URL_NOPAD.encode(twice.as_bytes()));
        assert!(
            Token::from_authorization(&format!("Bearer {message}.AA")).unwrap().subject().is_err(),
            "one token, two subjects"
        );
    }

    /// RFC 7515, 2: base64url without padding, and one text for each value.
    #[test]
    fn an_encoding_that_is_not_canonical_is_rejected() {
        let good = signed_by(SECRET, &json!({ "alg": "HS256" }), &claims());
        let (message, signature) = good.rsplit_once('.').unwrap();
        assert_eq!(signature.len(), 43, "the last character holds two bits of nothing");
        let (body, last) = signature.split_at(42);
        let symbols = BASE64URL_NOPAD.specification().symbols;
        let at = symbols.find(last).unwrap();
        let neighbour = symbols.get(at + 1..at + 2).unwrap();
        for other in
            [format!("{body}{neighbour}"), format!("{signature}="), format!("{signature}\n"), format!("{signature} ")]
        {
            assert!(!accepted(&format!("{message}.{other}")), "{other}");
        }
        for other in ["e30=", "e30\n", "e31", "e3+0", "e3/0", "e", "e3 0"] {
            assert!(Token::from_authorization(&format!("Bearer e30.{other}.AA")).is_err(), "{other}");
        }
        assert!(Token::from_authorization("Bearer e30.e30.AA").is_ok());
    }

    #[test]
    fn a_secret_has_a_minimum_length_and_is_never_printed() {
        assert_eq!(HmacSecret::parse("short").unwrap_err(), HmacSecretError(5));
        assert_eq!(format!("{:?}", HmacSecret::parse(SECRET).unwrap()), "HmacSecret(..)");
    }
}
