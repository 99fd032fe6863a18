//! Client side of Kafka REST v2 produce, in the form that Confluent, Redpanda, Strimzi and Karapace
//! share: binary embedded format, so that key and value reach Kafka byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dropgate_shared::fault::{Fate, Fault, Source};
use dropgate_shared::http::{Http, HttpReply, HttpRequest, SendFault};
use dropgate_shared::names::record_key;
use dropgate_shared::record::AdmissionRecord;
use serde_json::{Value, json};

/// A Kafka REST proxy.
#[derive(Clone)]
pub struct KafkaRest<H> {
    http: H,
    topic_url: String,
    authorization: Option<String>,
    deadline_ms: u32,
}

/// `Authorization` for HTTP Basic.
#[must_use]
pub fn basic_authorization(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl<H: Http> KafkaRest<H> {
    /// A client that produces to `topic` through the proxy at `url`.
    pub fn new(http: H, url: &str, topic: &str, authorization: Option<String>, deadline_ms: u32) -> Self {
        Self { http, topic_url: format!("{url}/topics/{topic}"), authorization, deadline_ms }
    }

    /// Produces `records` in one call.
    ///
    /// # Errors
    /// [`Fault`] unless the proxy acknowledged every record. Some may be in Kafka all the same: the
    /// call counts as one unit, and sending it again is harmless (I6).
    pub async fn produce(&self, records: &[AdmissionRecord]) -> Result<(), Fault> {
        let mut headers =
            vec![("content-type", "application/vnd.kafka.binary.v2+json"), ("accept", "application/vnd.kafka.v2+json")];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization", authorization));
        }
        let request =
            HttpRequest { url: &self.topic_url, headers, body: encode(records), deadline_ms: self.deadline_ms };
        let reply = self.http.post(request).await.map_err(|SendFault { may_have_arrived, label, detail }| Fault {
            fate: if may_have_arrived { Fate::Unknown } else { Fate::None },
            retry: true,
            source: Source::KafkaRest,
            label,
            detail,
        })?;
        acknowledged(&reply)
    }
}

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
pub fn acknowledged(reply: &HttpReply) -> Result<(), Fault> {
    let fault =
        |label, retry, detail: String| Fault { fate: Fate::Unknown, retry, source: Source::KafkaRest, label, detail };
    if !(200..300).contains(&reply.status) {
        let (label, retry) = match reply.status {
            401 | 403 => ("unauthorized", false),
            404 => ("unknown_topic", false),
            413 | 415 => ("refused", false),
            429 => ("busy", true),
            _ => ("status", true),
        };
        return Err(fault(label, retry, format!("status {}: {}", reply.status, message(reply))));
    }
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

/// The proxy's own words, shortened.
fn message(reply: &HttpReply) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    body.get("message").and_then(Value::as_str).unwrap_or("no message").chars().take(200).collect()
}
