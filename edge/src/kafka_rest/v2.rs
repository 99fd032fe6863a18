//! Kafka REST v2 produce, in the form that Confluent, Redpanda, Strimzi and Karapace share: binary
//! embedded format, so that key and value reach Kafka byte for byte.

use super::{fault, refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
                "key": STANDARD.encode(record_key(&record.campaign, &record.user)),
                "value": STANDARD.encode(record.encode()),
            })
        })
        .collect();
    json!({ "records": records }).to_string()
}

/// Whether a produce call is acknowledged as a whole: a 2xx status, a body that can be read, and at
/// least one entry, none of which names an error. Entries may be one a record or one a partition, and
/// an offset may be -1: neither is looked at. Anything else leaves the outcome unknown.
///
/// # Errors
/// [`Fault`]; not worth a retry soon where the proxy's or the gate's configuration is wrong.
pub fn acknowledged(reply: &HttpResponse) -> Result<(), Fault> {
    refused(reply)?;
    let body: Value = serde_json::from_slice(&reply.body)
        .map_err(|_| fault("garbled", true, format!("status {} without a JSON body", reply.status)))?;
    let offsets = body.get("offsets").and_then(Value::as_array).filter(|offsets| !offsets.is_empty());
    let Some(offsets) = offsets else {
        return Err(fault("garbled", true, "an answer that names no record".to_owned()));
    };
    let failed = offsets.iter().find_map(|entry| {
        if !entry.is_object() {
            return Some("an entry that is no object".to_owned());
        }
        let error = ["error_code", "error", "message"]
            .into_iter()
            .find_map(|name| entry.get(name).filter(|value| !value.is_null()).map(|value| format!("{name} {value}")))?;
        Some(error.chars().take(200).collect())
    });
    match failed {
        None => Ok(()),
        Some(detail) => Err(fault("record_failed", true, detail)),
    }
}
