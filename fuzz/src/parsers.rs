//! Everything that reads bytes without I/O.

use dropgate_edge::http::route::{Route, route as find_route};
use dropgate_edge::identity::jwks::{candidates, read_keys};
use dropgate_edge::identity::jwt::{Algorithm, HmacSecret, Token, Validation};
use dropgate_edge::upstream::kafka_rest::{v2, v3};
use dropgate_shared::campaign::CampaignMeta;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::http::HttpResponse;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::{decode, number_of, text_of, time_ms};
use dropgate_shared::time::Millis;
use serde_json::Value;

/// A method, a space, and a path. A route has an id that is in the path.
pub fn route(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (method, path) = text.split_once(' ').unwrap_or(("GET", &text));
    if let Ok(Route::Claim(id) | Route::OwnClaim(id) | Route::Campaign(id)) = find_route(method, path) {
        assert!(path.contains(id.as_str()));
    }
}

/// An id is the text itself, and within its bounds.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = CampaignId::parse(text) {
        assert!(id.as_str() == text && (1..=64).contains(&text.len()));
        assert!(text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
    }
    if let Ok(id) = UserId::parse(text) {
        assert!(id.as_str() == text && (1..=128).contains(&text.len()) && !text.chars().any(char::is_control));
    }
}

/// A claim entry is written as it was read.
pub fn claim_entry(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(entry) = text.parse::<ClaimEntry>() {
        let again: ClaimEntry = entry.to_string().parse().expect("what is written can be read");
        assert_eq!(again, entry);
    }
}

/// A record is written as it was read.
pub fn record(data: &[u8]) {
    if let Ok(record) = AdmissionRecord::decode(data) {
        let again = AdmissionRecord::decode(record.encode().as_bytes()).expect("what is written can be read");
        assert_eq!(again, record);
    }
}

/// A header `Authorization`. A token that one secret has signed is not signed by another.
pub fn jwt(data: &[u8]) {
    let Ok(header) = std::str::from_utf8(data) else { return };
    let Ok(token) = Token::from_authorization(header) else { return };
    let secret = |text: &str| HmacSecret::parse(text).expect("the secret is long enough");
    let _ = (token.subject(), token.signature());
    let validation =
        Validation { issuer: Some("https://shop.example".into()), audience: Some("dropgate".into()), skew_s: 60 };
    let _ = token.validate(&validation, Millis(1_800_000_000_000));
    if token.verify(&[secret("0123456789abcdef0123456789abcdef")]).is_ok() {
        assert!(token.verify(&[secret("another secret, as long as this one")]).is_err());
    }
}

/// A key set. No key is a candidate for an algorithm that is not its own.
pub fn jwks(data: &[u8]) {
    let Some(keys) = read_keys(data) else { return };
    let header = "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1In0.AAAA";
    let token = Token::from_authorization(header).expect("the token has three parts");
    let Ok(signature) = token.signature() else { return };
    let accepted = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    assert!(candidates(&keys, &signature, &accepted).all(|key| key.algorithm == Algorithm::Es256));
}

/// The status in the first byte, then the body.
fn response(data: &[u8]) -> HttpResponse {
    let status = match data.first() {
        Some(b'2') => 200,
        Some(b'4') => 429,
        Some(b'5') => 500,
        _ => 400,
    };
    HttpResponse { status, body: data.get(1..).unwrap_or_default().to_vec() }
}

/// A result comes only from a 2xx, or from an error that is wrapped in one.
pub fn redis_rest(data: &[u8]) {
    if let Ok(value) = decode(&response(data)) {
        let _ = (text_of(&value), number_of(&value), time_ms(&value));
        let _ = CampaignMeta::read(&value);
    }
}

/// Both dialects. Nothing but a 2xx acknowledges a record.
pub fn kafka_rest(data: &[u8]) {
    let response = response(data);
    for acknowledged in [v2::acknowledged(&response), v3::acknowledged(&response, 2)] {
        assert!(acknowledged.is_err() || response.status == 200);
    }
    let _: Option<Value> = serde_json::from_slice(&response.body).ok();
}
