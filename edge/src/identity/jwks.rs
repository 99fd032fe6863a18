//! Public keys that verify tokens: a JSON Web Key Set (RFC 7517). An isolate fetches it and keeps the keys as data.

use crate::identity::jwt::{Algorithm, UnverifiedSignature};
use data_encoding::BASE64URL_NOPAD;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{HttpResponse, SendFault};
use serde_json::{Value, json};
use std::future::Future;

/// A set has a handful of keys; more are ignored.
const KEYS_LIMIT: usize = 64;
/// The shortest RSA modulus that is accepted: 2048 bits.
const RSA_MIN_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// `kid`
    pub id: Option<String>,
    /// The only algorithm it is used with.
    pub algorithm: Algorithm,
    /// The key alone, as a JSON Web Key.
    pub jwk: String,
}

/// The port for public keys: `fetch` and WebCrypto on Workers.
pub trait PublicKeys {
    /// GETs the document at `url`.
    ///
    /// # Errors
    /// [`SendFault`] where there is no complete response within the deadline.
    fn get(&self, url: &str, deadline_ms: u32) -> impl Future<Output = Result<HttpResponse, SendFault>>;

    /// Whether `signature` is the signature of `key` over `message`.
    ///
    /// # Errors
    /// [`Fault`] where the runtime cannot use the key.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> impl Future<Output = Result<bool, Fault>>;
}

/// The usable keys of a set; others are left out. None: the document is not a key set.
#[must_use]
pub fn read_keys(document: &[u8]) -> Option<Vec<PublicKey>> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let keys = document.get("keys")?.as_array()?;
    Some(keys.iter().filter_map(read_key).take(KEYS_LIMIT).collect())
}

fn read_key(key: &Value) -> Option<PublicKey> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let number = |name: &str| BASE64URL_NOPAD.decode(text(name)?.as_bytes()).ok();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, jwk) = match (text("kty")?, text("crv")) {
        ("RSA", _) if number("n")?.len() >= RSA_MIN_BYTES => {
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

/// The keys that may have made a signature: of its algorithm, which must be `accepted`, and of its key id if it has one.
pub fn candidates<'a>(
    keys: &'a [PublicKey],
    signature: &'a UnverifiedSignature,
    accepted: &'a [Algorithm],
) -> impl Iterator<Item = &'a PublicKey> {
    keys.iter().filter(move |key| {
        key.algorithm.name() == signature.algorithm
            && accepted.contains(&key.algorithm)
            && signature.key_id.as_ref().is_none_or(|id| key.id.as_ref() == Some(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> String {
        BASE64URL_NOPAD.encode(&vec![0xAB; n])
    }

    fn one(key: &Value) -> Option<PublicKey> {
        read_keys(json!({ "keys": [key] }).to_string().as_bytes()).unwrap().pop()
    }

    #[test]
    fn reads_the_usable_keys_and_leaves_the_others_out() {
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
    fn a_key_is_used_for_its_own_algorithm_and_id_only() {
        let key = |id: &str, algorithm| PublicKey { id: Some(id.to_owned()), algorithm, jwk: String::new() };
        let keys = [key("a", Algorithm::Rs256), key("b", Algorithm::Rs256), key("a", Algorithm::Es256)];
        let count = |algorithm: &str, key_id: Option<&str>, accepted: &[Algorithm]| {
            let (algorithm, key_id) = (algorithm.to_owned(), key_id.map(str::to_owned));
            let signature = UnverifiedSignature { algorithm, key_id, message: String::new(), bytes: vec![] };
            candidates(&keys, &signature, accepted).count()
        };
        assert_eq!(count("RS256", Some("a"), &Algorithm::PUBLIC), 1);
        assert_eq!(count("RS256", None, &Algorithm::PUBLIC), 2);
        assert_eq!(count("RS256", Some("a"), &[Algorithm::Es256]), 0);
        assert_eq!(count("ES256", Some("b"), &Algorithm::PUBLIC), 0);
        assert_eq!(count("HS256", Some("a"), &Algorithm::PUBLIC), 0, "an HMAC over a public key");
        assert_eq!(count("none", None, &Algorithm::PUBLIC), 0);
    }
}
