//! Kafka REST v3 produce, as Confluent Cloud and Confluent's own proxy speak it: one JSON document a record, many of
//! them one after the other in one call, and one result each in the same order.

use crate::labels::fault::{GARBLED, RECORD_FAILED};
use crate::upstream::kafka_rest::faults::{check_status, fault, message};
use data_encoding::BASE64;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::HttpResponse;
use dropgate_shared::names::record_key;
use dropgate_shared::record::AdmissionRecord;
use serde_json::{Value, json};

/// `Content-Type` and `Accept` of a produce call.
pub const CONTENT_TYPE: &str = "application/json";

/// The body of a produce call.
#[must_use]
pub fn encode(records: &[AdmissionRecord]) -> String {
    let binary = |data: &str| json!({ "type": "BINARY", "data": BASE64.encode(data.as_bytes()) });
    let mut body = String::new();
    for record in records {
        let key = binary(&record_key(&record.campaign, &record.user));
        body.push_str(&json!({ "key": key, "value": binary(&record.encode()) }).to_string());
        body.push('\n');
    }
    body
}

/// Checks that a produce call of `records` records is acknowledged as a whole: a 2xx status and one result a record,
/// each with `error_code` 200. The status of the call is 200 even if records failed.
///
/// # Errors
/// [`Fault`] with an unknown effect.
pub fn acknowledged(response: &HttpResponse, records: usize) -> Result<(), Fault> {
    check_status(response)?;
    let mut acknowledged = 0_usize;
    for result in serde_json::Deserializer::from_slice(&response.body).into_iter::<Value>() {
        let result = result.map_err(|_| fault(GARBLED, true, "a result is not JSON"))?;
        match result.get("error_code").and_then(Value::as_u64) {
            Some(200) => acknowledged = acknowledged.saturating_add(1),
            Some(code) => {
                return Err(fault(RECORD_FAILED, true, format!("error_code {code}: {}", message(&result))));
            }
            None => return Err(fault(GARBLED, true, "a result has no error_code")),
        }
    }
    if acknowledged != records {
        return Err(fault(GARBLED, true, format!("{acknowledged} results for {records} records")));
    }
    Ok(())
}
