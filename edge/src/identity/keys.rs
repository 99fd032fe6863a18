//! Public keys of those who sign tokens: a JSON Web Key Set (RFC 7517), fetched once by an isolate and
//! kept as data.

use crate::identity::jwt::{Algorithm, Signed};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dropgate_shared::http::{HttpResponse, SendFault};
use serde_json::{Value, json};
use std::future::Future;

/// A set has a handful; what is beyond is not looked at.
const MOST_KEYS: usize = 32;
/// The shortest RSA modulus that is believed: 2048 bits.
const RSA_LEAST_BYTES: usize = 256;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// `kid`
    pub id: Option<String>,
    /// The only algorithm it is used with.
    pub algorithm: Algorithm,
    /// The key alone, as a JSON Web Key.
    pub jwk: String,
}

/// What the runtime does for a gate that checks signatures with public keys.
pub trait PublicKeys {
    /// GETs the document at `url`.
    ///
    /// # Errors
    /// [`SendFault`] where there is no complete answer within the deadline.
    fn get(&self, url: &str, deadline_ms: u32) -> impl Future<Output = Result<HttpResponse, SendFault>>;

    /// Whether `key` has signed `message`.
    ///
    /// # Errors
    /// In words, where the runtime cannot use the key.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> impl Future<Output = Result<bool, String>>;
}

/// The keys of a set that the gate can use; others are left out. None: it is no key set.
#[must_use]
pub fn read_keys(document: &[u8]) -> Option<Vec<PublicKey>> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().filter_map(read_key).take(MOST_KEYS).collect())
}

fn read_key(key: &Value) -> Option<PublicKey> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, jwk) = match (text("kty")?, text("crv")) {
        ("RSA", _) if number("n")?.len() >= RSA_LEAST_BYTES => {
            number("e")?;
            (Algorithm::Rs256, json!({ "kty": "RSA", "n": text("n"), "e": text("e") }))
        }
        ("EC", Some("P-256")) if number("x")?.len() == 32 && number("y")?.len() == 32 => {
            (Algorithm::Es256, json!({ "kty": "EC", "crv": "P-256", "x": text("x"), "y": text("y") }))
        }
        ("OKP", Some("Ed25519")) if number("x")?.len() == 32 => {
            (Algorithm::EdDsa, json!({ "kty": "OKP", "crv": "Ed25519", "x": text("x") }))
        }
        _ => return None,
    };
    // RFC 9864 also names the last one by its curve.
    let named = |name: &str| name == algorithm.name() || (algorithm == Algorithm::EdDsa && name == "Ed25519");
    if !text("alg").is_none_or(named) {
        return None;
    }
    Some(PublicKey { id: text("kid").map(str::to_owned), algorithm, jwk: jwk.to_string() })
}

/// The keys that may have signed a token: of its algorithm, which must be `accepted`, and of its key
/// id if it names one.
pub fn candidates<'a>(
    keys: &'a [PublicKey],
    signed: &'a Signed,
    accepted: &'a [Algorithm],
) -> impl Iterator<Item = &'a PublicKey> {
    keys.iter().filter(move |key| {
        key.algorithm.name() == signed.algorithm
            && accepted.contains(&key.algorithm)
            && signed.key_id.as_ref().is_none_or(|wanted| key.id.as_ref() == Some(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xAB; n])
    }

    fn one(key: &Value) -> Option<PublicKey> {
        read_keys(json!({ "keys": [key] }).to_string().as_bytes()).unwrap().pop()
    }

    #[test]
    fn takes_the_keys_it_can_use_and_leaves_the_others() {
        let rsa = json!({ "kty": "RSA", "kid": "r", "n": bytes(256), "e": "AQAB", "alg": "RS256", "use": "sig" });
        let key = one(&rsa).unwrap();
        assert_eq!((key.id.as_deref(), key.algorithm), (Some("r"), Algorithm::Rs256));
        assert!(!key.jwk.contains("kid"));
        let ec = json!({ "kty": "EC", "crv": "P-256", "x": bytes(32), "y": bytes(32) });
        assert_eq!(one(&ec).unwrap().algorithm, Algorithm::Es256);
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": bytes(32), "alg": "EdDSA" });
        assert_eq!(one(&ed).unwrap().algorithm, Algorithm::EdDsa);
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            one(&key)
        };
        for (key, name, value) in [
            (&rsa, "n", json!(bytes(128))),
            (&rsa, "use", json!("enc")),
            (&rsa, "alg", json!("RS512")),
            (&rsa, "alg", json!("HS256")),
            (&rsa, "e", Value::Null),
            (&ec, "crv", json!("P-384")),
            (&ec, "x", json!("?")),
            (&ed, "kty", json!("oct")),
        ] {
            assert_eq!(with(key, name, value), None, "{name} of {key}");
        }
        assert_eq!(read_keys(b"<html>"), None);
        assert_eq!(read_keys(b"{\"keys\":[]}"), Some(vec![]));
    }

    #[test]
    fn a_key_serves_its_own_algorithm_and_id_only() {
        let key = |id: &str, algorithm| PublicKey { id: Some(id.to_owned()), algorithm, jwk: String::new() };
        let keys = [key("a", Algorithm::Rs256), key("b", Algorithm::Rs256), key("a", Algorithm::Es256)];
        let count = |algorithm: &str, key_id: Option<&str>, accepted: &[Algorithm]| {
            let signed = Signed {
                algorithm: algorithm.to_owned(),
                key_id: key_id.map(str::to_owned),
                message: String::new(),
                signature: vec![],
            };
            candidates(&keys, &signed, accepted).count()
        };
        assert_eq!(count("RS256", Some("a"), &Algorithm::PUBLIC), 1);
        assert_eq!(count("RS256", None, &Algorithm::PUBLIC), 2);
        assert_eq!(count("RS256", Some("a"), &[Algorithm::Es256]), 0);
        assert_eq!(count("ES256", Some("b"), &Algorithm::PUBLIC), 0);
        assert_eq!(count("HS256", Some("a"), &Algorithm::PUBLIC), 0, "an HMAC over a public key");
        assert_eq!(count("none", None, &Algorithm::PUBLIC), 0);
    }
}
