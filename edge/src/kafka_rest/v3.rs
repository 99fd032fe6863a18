//! Kafka REST v3 produce, as Confluent Cloud and Confluent's own proxy speak it: one JSON document a
//! record, many of them one after the other in one call, and one answer each in the same order.

use super::{fault, refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
    let binary = |data: &str| json!({ "type": "BINARY", "data": STANDARD.encode(data) });
    let mut body = String::new();
    for record in records {
        let key = binary(&record_key(&record.campaign, &record.user));
        body.push_str(&json!({ "key": key, "value": binary(&record.encode()) }).to_string());
        body.push('\n');
    }
    body
}

/// Whether a produce call of `records` records is acknowledged as a whole: a 2xx status, one answer a
/// record, each with `error_code` 200. The call's own status is 200 whatever became of the records.
///
/// # Errors
/// [`Fault`] with an unknown outcome otherwise.
pub fn acknowledged(reply: &HttpResponse, records: usize) -> Result<(), Fault> {
    refused(reply)?;
    let mut answered = 0_usize;
    for answer in serde_json::Deserializer::from_slice(&reply.body).into_iter::<Value>() {
        let answer = answer.map_err(|_| fault("garbled", true, "an answer that is no JSON".to_owned()))?;
        match answer.get("error_code").and_then(Value::as_u64) {
            Some(200) => answered = answered.saturating_add(1),
            Some(code) => {
                let message = answer.get("message").and_then(Value::as_str).unwrap_or("no message");
                let message: String = message.chars().take(200).collect();
                return Err(fault("record_failed", true, format!("error_code {code}: {message}")));
            }
            None => return Err(fault("garbled", true, "an answer without error_code".to_owned())),
        }
    }
    if answered == records {
        Ok(())
    } else {
        Err(fault("garbled", true, format!("{answered} answers for {records} records")))
    }
}
