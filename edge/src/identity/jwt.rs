//! JSON Web Tokens (RFC 7519, signed as RFC 7515 says): what must be true of one before it tells who
//! the visitor is.
//!
//! The accepted algorithms are fixed by configuration and each key belongs to one of them, so a token
//! cannot choose how it is checked (`alg=none`, an HMAC over a public key).

use data_encoding::BASE64URL_NOPAD;
use dropgate_shared::ids::UserId;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::Sha256;
use std::borrow::Cow;
use std::fmt;

/// A longer token is none. Cloudflare lets all headers of a request have 128 KB.
pub const TOKEN_LIMIT_BYTES: usize = 8_192;
/// HS256 wants a key as long as its hash (RFC 7518, 3.2).
const SECRET_LEAST_BYTES: usize = 32;

/// How a token is signed (RFC 7518, RFC 8037).
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

    /// The registered name.
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
pub struct Secret(Hmac<Sha256>);

impl Secret {
    /// Takes the secret; the number of its bytes if they are fewer than 32.
    ///
    /// # Errors
    /// How many bytes it has.
    pub fn parse(secret: &str) -> Result<Self, usize> {
        if secret.len() < SECRET_LEAST_BYTES {
            return Err(secret.len());
        }
        // HMAC takes a key of any length, so the error cannot occur.
        Hmac::new_from_slice(secret.as_bytes()).map(Self).map_err(|_| secret.len())
    }

    fn signed(&self, message: &str, signature: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(message.as_bytes());
        mac.verify_slice(signature).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a token must say beside its signature.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validation {
    /// `iss` must be this.
    pub issuer: Option<String>,
    /// `aud` must be this or hold it.
    pub audience: Option<String>,
    /// How far the clocks of the gate and of the tokens' maker may be apart, s.
    pub skew_s: u32,
}

/// A token that was read and is not believed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'a> {
    signed: &'a str,
    header: &'a str,
    signature: &'a str,
    payload: Vec<u8>,
}

/// Read before the other claims: after sold-out it is all that is ever looked at.
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

/// What is needed to check a signature, apart from the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// `alg` of the header.
    pub algorithm: String,
    /// `kid` of the header.
    pub key_id: Option<String>,
    /// What is signed.
    pub message: String,
    /// The signature.
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Reads the token out of the value of `Authorization`. None: there is none, or it is not one.
    #[must_use]
    pub fn of(authorization: &'a str) -> Option<Self> {
        let (scheme, text) = authorization.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") || text.len() > TOKEN_LIMIT_BYTES {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        Some(Self { signed, header, signature, payload: BASE64URL_NOPAD.decode(payload.as_bytes()).ok()? })
    }

    /// Whom the token speaks of. Nothing vouches for it before the signature is checked.
    #[must_use]
    pub fn subject(&self) -> Option<UserId> {
        let Subject { sub } = serde_json::from_slice(&self.payload).ok()?;
        UserId::parse(&sub).ok()
    }

    /// Whether the token is for this gate and for this moment.
    #[must_use]
    pub fn validate(&self, validation: &Validation, now_ms: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "ms since the epoch are far below 2^53")]
        let now_s = now_ms as f64 / 1000.0;
        let skew_s = f64::from(validation.skew_s);
        let Ok(Claims { exp, nbf, iss, aud }) = serde_json::from_slice(&self.payload) else { return false };
        let for_us = |audience: &String| match &aud {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        now_s < exp + skew_s
            && nbf.is_none_or(|nbf| now_s >= nbf - skew_s)
            && validation.issuer.as_ref().is_none_or(|issuer| iss.as_ref() == Some(issuer))
            && validation.audience.as_ref().is_none_or(for_us)
    }

    /// Whether one of `secrets` has signed it with HS256.
    #[must_use]
    pub fn signed_with(&self, secrets: &[Secret]) -> bool {
        self.signed().is_some_and(|signed| {
            signed.algorithm == Algorithm::Hs256.name()
                && secrets.iter().any(|secret| secret.signed(self.signed, &signed.signature))
        })
    }

    /// What a check of the signature needs. None: it cannot be a signed token, or it asks for
    /// extensions (`crit`) that nobody here understands.
    #[must_use]
    pub fn signed(&self) -> Option<Signed> {
        let header: Header = serde_json::from_slice(&BASE64URL_NOPAD.decode(self.header.as_bytes()).ok()?).ok()?;
        header.crit.is_none().then_some(())?;
        Some(Signed {
            algorithm: header.alg,
            key_id: header.kid,
            message: self.signed.to_owned(),
            signature: BASE64URL_NOPAD.decode(self.signature.as_bytes()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW_MS: u64 = 1_763_700_000_000;
    const NOW_S: u64 = NOW_MS / 1000;
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

    fn believed(authorization: &str) -> bool {
        let secrets = [Secret::parse(SECRET).unwrap(), Secret::parse(&"previous".repeat(4)).unwrap()];
        Token::of(authorization).is_some_and(|token| {
            token.validate(&validation(), NOW_MS) && token.signed_with(&secrets) && token.subject().is_some()
        })
    }

    /// The example of RFC 7515, appendix A.1, with its key: another's implementation of the same.
    #[test]
    fn checks_the_signature_of_the_standards_example() {
        let key = BASE64URL_NOPAD
            .decode(b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let secret = Secret(Hmac::new_from_slice(&key).unwrap());
        let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
             eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = BASE64URL_NOPAD.decode(b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert!(secret.signed(message, &signature));
        assert!(!secret.signed(message, &signature[1..]));
    }

    #[test]
    fn a_good_token_is_believed_whichever_of_the_secrets_signed_it() {
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        assert!(believed(&signed_by(SECRET, &header, &claims())));
        assert!(believed(&signed_by(&"previous".repeat(4), &header, &claims())));
        assert!(believed(&signed_by(SECRET, &header, &claims()).replace("Bearer", "bearer")));
        assert_eq!(Token::of(&signed_by(SECRET, &header, &claims())).unwrap().subject().unwrap().as_str(), "u1");
    }

    #[test]
    fn another_algorithm_another_key_or_a_critical_extension_is_not() {
        for header in [
            json!({ "alg": "none" }),
            json!({ "alg": "RS256" }),
            json!({ "alg": "hs256" }),
            json!({ "alg": "HS256", "crit": ["b64"], "b64": false }),
            json!({ "typ": "JWT" }),
            json!("HS256"),
        ] {
            assert!(!believed(&signed_by(SECRET, &header, &claims())), "{header}");
        }
        let header = json!({ "alg": "HS256" });
        assert!(!believed(&signed_by(&"forged".repeat(6), &header, &claims())));
    }

    #[test]
    fn every_claim_is_looked_at() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            believed(&signed_by(SECRET, &json!({ "alg": "HS256" }), &claims))
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
    fn what_is_cut_bent_or_too_long_is_no_token() {
        let good = signed_by(SECRET, &json!({ "alg": "HS256" }), &claims());
        for end in 0..good.len() {
            assert!(!believed(good.get(..end).unwrap()), "cut after {end}");
        }
        for at in "Bearer ".len()..good.len() {
            let mut bent = good.clone().into_bytes();
            bent[at] ^= 1;
            assert!(!believed(&String::from_utf8(bent).unwrap()), "bent at {at}");
        }
        for bad in ["", "Bearer", "Bearer ..", "Basic dTpw", "Bearer a.b.c.d"] {
            assert!(!believed(bad), "{bad}");
        }
        assert!(!believed(&format!("{good}, {good}")) && !believed(&format!("{good} ")));
        let mut long = claims();
        long["extra"] = json!("x".repeat(TOKEN_LIMIT_BYTES));
        assert!(!believed(&signed_by(SECRET, &json!({ "alg": "HS256" }), &long)));
        let twice = r#"{"sub":"u1","sub":"u2","exp":9999999999,"iss":"shop","aud":"dropgate"}"#;
        let message = format!("{}.{}", part(&json!({ "alg": "HS256" })), BASE64URL_NOPAD.encode(twice.as_bytes()));
        assert!(Token::of(&format!("Bearer {message}.AA")).unwrap().subject().is_none(), "one token, two subjects");
    }

    /// RFC 7515, 2: base64url without padding, and one text for each value.
    #[test]
    fn an_encoding_that_is_not_canonical_is_rejected() {
        let good = signed_by(SECRET, &json!({ "alg": "HS256" }), &claims());
        let (message, signature) = good.rsplit_once('.').unwrap();
        assert_eq!(signature.len(), 43, "the last character holds two bits of nothing");
        let (body, last) = signature.split_at(42);
        let at = BASE64URL_NOPAD.specification().symbols.find(last).unwrap();
        let neighbour = &BASE64URL_NOPAD.specification().symbols[at + 1..at + 2];
        for bent in
            [format!("{body}{neighbour}"), format!("{signature}="), format!("{signature}\n"), format!("{signature} ")]
        {
            assert!(!believed(&format!("{message}.{bent}")), "{bent}");
        }
        for bent in ["e30=", "e30\n", "e31", "e3+0", "e3/0", "e", "e3 0"] {
            assert!(Token::of(&format!("Bearer e30.{bent}.AA")).is_none(), "{bent}");
        }
        assert!(Token::of("Bearer e30.e30.AA").is_some());
    }

    #[test]
    fn a_secret_has_a_least_length_and_never_shows() {
        assert_eq!(Secret::parse("short").unwrap_err(), 5);
        assert_eq!(format!("{:?}", Secret::parse(SECRET).unwrap()), "Secret(..)");
    }
}
