//! Faults that both dialects share.

use crate::labels::fault::{BUSY, REFUSED, STATUS, UNAUTHORIZED, UNKNOWN_TOPIC};
use dropgate_shared::fault::{Effect, Fault, Source};
use dropgate_shared::http::HttpResponse;
use serde_json::Value;

pub fn fault(label: &'static str, retry: bool, detail: impl Into<String>) -> Fault {
    Fault { effect: Effect::Unknown, retry, source: Source::KafkaRest, label, detail: detail.into() }
}

/// Accepts a 2xx status. Otherwise the call as a whole failed; a retry does not help where the configuration of the
/// proxy or of the gate is wrong.
///
/// # Errors
/// [`Fault`] with an unknown effect.
pub fn check_status(response: &HttpResponse) -> Result<(), Fault> {
    if (200..300).contains(&response.status) {
        return Ok(());
    }
    let (label, retry) = match response.status {
        401 | 403 => (UNAUTHORIZED, false),
        404 => (UNKNOWN_TOPIC, false),
        413 | 415 => (REFUSED, false),
        429 => (BUSY, true),
        _ => (STATUS, true),
    };
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    Err(fault(label, retry, format!("status {}: {}", response.status, message(&body))))
}

/// The proxy's message, shortened.
#[must_use]
pub fn message(body: &Value) -> String {
    body.get("message").and_then(Value::as_str).unwrap_or("no message").chars().take(200).collect()
}
