//! Client side of the Kafka REST proxies.
//!
//! Only what a proxy's own words acknowledge counts. All else leaves the outcome unknown: the claims
//! stay obligations, and sending them again is harmless (I6).

pub mod v2;
pub mod v3;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dropgate_shared::fault::{Effect, Fault, Source};
use dropgate_shared::http::{Http, HttpRequest, HttpResponse};
use dropgate_shared::record::AdmissionRecord;
use serde_json::Value;

/// How a proxy is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// Confluent, Redpanda, Strimzi, Karapace.
    V2,
    /// Confluent only.
    V3 {
        /// The cluster's id, part of the address.
        cluster_id: String,
    },
}

/// A Kafka REST proxy.
#[derive(Clone)]
pub struct KafkaRest<H> {
    http: H,
    dialect: Dialect,
    produce_url: String,
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
    pub fn new(
        http: H,
        dialect: Dialect,
        url: &str,
        topic: &str,
        authorization: Option<String>,
        deadline_ms: u32,
    ) -> Self {
        let produce_url = match &dialect {
            Dialect::V2 => format!("{url}/topics/{topic}"),
            Dialect::V3 { cluster_id } => format!("{url}/v3/clusters/{cluster_id}/topics/{topic}/records"),
        };
        Self { http, dialect, produce_url, authorization, deadline_ms }
    }

    /// Produces `records` in one call.
    ///
    /// # Errors
    /// [`Fault`] unless the proxy acknowledged every record. Some may be in Kafka all the same: the
    /// call counts as one unit, and sending it again is harmless (I6).
    pub async fn produce(&self, records: &[AdmissionRecord]) -> Result<(), Fault> {
        let (content_type, accept, body) = match self.dialect {
            Dialect::V2 => (v2::CONTENT_TYPE, v2::ACCEPT, v2::encode(records)),
            Dialect::V3 { .. } => (v3::CONTENT_TYPE, v3::CONTENT_TYPE, v3::encode(records)),
        };
        let mut headers = vec![("content-type", content_type), ("accept", accept)];
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization", authorization));
        }
        let request = HttpRequest { url: &self.produce_url, headers, body, deadline_ms: self.deadline_ms };
        let reply = self.http.post(request).await.map_err(|fault| fault.at(Source::KafkaRest))?;
        match self.dialect {
            Dialect::V2 => v2::acknowledged(&reply),
            Dialect::V3 { .. } => v3::acknowledged(&reply, records.len()),
        }
    }
}

fn fault(label: &'static str, retry: bool, detail: String) -> Fault {
    Fault { effect: Effect::Unknown, retry, source: Source::KafkaRest, label, detail }
}

/// An error where the call as a whole failed. Not worth a retry soon where the proxy's or the gate's
/// configuration is wrong.
fn refused(reply: &HttpResponse) -> Result<(), Fault> {
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    let (label, retry) = match reply.status {
        401 | 403 => ("unauthorized", false),
        404 => ("unknown_topic", false),
        413 | 415 => ("refused", false),
        429 => ("busy", true),
        _ => ("status", true),
    };
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let message: String =
        body.get("message").and_then(Value::as_str).unwrap_or("no message").chars().take(200).collect();
    Err(fault(label, retry, format!("status {}: {message}", reply.status)))
}
