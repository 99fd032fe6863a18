//! Signatures, verified by the runtime's own cryptography (WebCrypto).

use crate::identity::jwks::PublicKey;
use crate::identity::jwt::Algorithm;
use js_sys::{Array, JSON, Promise, Uint8Array};
use std::cell::RefCell;
use std::collections::BTreeMap;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

/// Imported keys at most; a key set has a handful.
const KEYS_LIMIT: usize = 64;

thread_local! {
    /// Keys in the runtime's form, by their JSON Web Key. A key belongs to no request.
    static IMPORTED: RefCell<BTreeMap<String, JsValue>> = const { RefCell::new(BTreeMap::new()) };
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = importKey, catch)]
    fn import_key(
        format: &str,
        key: &JsValue,
        algorithm: &JsValue,
        extractable: bool,
        usages: &Array,
    ) -> Result<Promise, JsValue>;

    #[wasm_bindgen(js_namespace = ["crypto", "subtle"], js_name = verify, catch)]
    fn subtle_verify(
        algorithm: &JsValue,
        key: &JsValue,
        signature: &Uint8Array,
        message: &Uint8Array,
    ) -> Result<Promise, JsValue>;
}

/// Whether `signature` is the signature of `key` over `message`.
pub async fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<bool, JsValue> {
    // The same object names the algorithm for import and verification.
    let algorithm = JSON::parse(match key.algorithm {
        Algorithm::Rs256 => r#"{"name":"RSASSA-PKCS1-v1_5","hash":"SHA-256"}"#,
        Algorithm::Es256 => r#"{"name":"ECDSA","namedCurve":"P-256","hash":"SHA-256"}"#,
        Algorithm::EdDsa => r#"{"name":"Ed25519"}"#,
        // It has no public key.
        Algorithm::Hs256 => return Ok(false),
    })?;
    let held = IMPORTED.with_borrow(|keys| keys.get(&key.jwk).cloned());
    let imported = match held {
        Some(imported) => imported,
        None => {
            let usages = Array::of1(&"verify".into());
            let promise = import_key("jwk", &JSON::parse(&key.jwk)?, &algorithm, false, &usages)?;
            let imported = JsFuture::from(promise).await?;
            IMPORTED.with_borrow_mut(|keys| {
                if keys.len() >= KEYS_LIMIT {
                    keys.clear();
                }
                keys.insert(key.jwk.clone(), imported.clone());
            });
            imported
        }
    };
    let promise = subtle_verify(&algorithm, &imported, &Uint8Array::from(signature), &Uint8Array::from(message))?;
    Ok(JsFuture::from(promise).await?.is_truthy())
}
