//! Kafka REST v2 produce, in the form that Confluent, Redpanda, Strimzi and Karapace share: binary embedded format, so
//! that key and value reach Kafka byte for byte.

use crate::labels::fault::{GARBLED, RECORD_FAILED};
use crate::upstream::kafka_rest::faults::{check_status, fault};
use data_encoding::BASE64;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::HttpResponse;
use dropgate_shared::names::record_key;
use dropgate_shared::record::AdmissionRecord;
use serde_json::{Value, json};

/// `Content-Type` of a produce call.
pub const CONTENT_TYPE: &str = "application/vnd.kafka.binary.v2+json";
/// `Accept` of a produce call.
pub const ACCEPT: &str = "application/vnd.kafka.v2+json";

/// The body of a produce call.
#[must_use]
pub fn encode(records: &[AdmissionRecord]) -> String {
    let records: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "key": BASE64.encode(record_key(&record.campaign, &record.user).as_bytes()),
                "value": BASE64.encode(record.encode().as_bytes()),
            })
        })
        .collect();
    json!({ "records": records }).to_string()
}

/// Checks that a produce call is acknowledged as a whole: a 2xx status, a JSON body, and at least one entry, none of
/// which has an error. Proxies return one entry a record or one a partition, and an offset may be -1: neither is
/// checked.
///
/// # Errors
/// [`Fault`] with an unknown effect.
pub fn acknowledged(response: &HttpResponse) -> Result<(), Fault> {
    check_status(response)?;
    let body: Value = serde_json::from_slice(&response.body)
        .map_err(|_| fault(GARBLED, true, format!("status {} without a JSON body", response.status)))?;
    let offsets = body.get("offsets").and_then(Value::as_array).filter(|offsets| !offsets.is_empty());
    let offsets = offsets.ok_or_else(|| fault(GARBLED, true, "the response names no record"))?;
    let failed = offsets.iter().find_map(|entry| {
        if !entry.is_object() {
            return Some("an entry is not an object".to_owned());
        }
        let error = ["error_code", "error", "message"]
            .into_iter()
            .find_map(|name| entry.get(name).filter(|value| !value.is_null()).map(|value| format!("{name} {value}")))?;
        Some(error.chars().take(200).collect())
    });
    failed.map_or(Ok(()), |detail| Err(fault(RECORD_FAILED, true, detail)))
}
