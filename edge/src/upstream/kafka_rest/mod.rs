//! Client side of the Kafka REST proxies.
//!
//! A record counts as produced only if the proxy acknowledges it. In every other case the effect is unknown: the outbox
//! entries stay, and producing them again is harmless (I6).

mod faults;
pub mod v2;
pub mod v3;

use data_encoding::BASE64;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::{Http, HttpRequest};
use dropgate_shared::record::AdmissionRecord;

/// The version of the proxy's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// Confluent, Redpanda, Strimzi, Karapace.
    V2,
    /// Confluent only. The cluster's id is a part of the URL.
    V3 { cluster_id: String },
}

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
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
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
    /// [`Fault`] unless the proxy acknowledged every record. Some may be in Kafka: the call counts as one unit, and
    /// repeating it is harmless (I6).
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
        let response = self.http.post(request).await.map_err(|fault| fault.at(Source::KafkaRest))?;
        match self.dialect {
            Dialect::V2 => v2::acknowledged(&response),
            Dialect::V3 { .. } => v3::acknowledged(&response, records.len()),
        }
    }
}
