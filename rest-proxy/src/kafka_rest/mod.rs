//! The portable part of the Kafka REST v2 API over a plain Kafka.
//!
//! `POST /topics/{topic}` takes JSON or base64 records, as Confluent REST Proxy, Redpanda, Strimzi's bridge
//! and Karapace do; statuses, error codes and response bodies are Confluent's. One idempotent producer
//! serves every request. `GET /topics` lists the topics, `GET /healthz` reports readiness.

mod producer;
mod record;

pub use producer::{KAFKA_BOOTSTRAP_ENV, ProducerSettings, Upstream};

use crate::server::Counters;
use crate::token::{Token, credentials};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use data_encoding::BASE64;
use producer::{Delivery, Topic};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use record::{Format, ParseError, Record};
use serde::Serialize;
use std::sync::Arc;

/// The default limit of a request body.
pub const DEFAULT_BODY_LIMIT_BYTES: usize = 10 * 1024 * 1024;

const RESPONSE_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.kafka.v2+json");

#[derive(Clone)]
struct Proxy {
    upstream: Upstream,
    token: Token,
    counters: Arc<Counters>,
}

/// The REST API over `upstream`, for callers that send `token` (as Bearer token or as Basic password).
pub fn router(upstream: Upstream, token: Token, body_limit_bytes: usize) -> Router {
    let proxy = Arc::new(Proxy { upstream, token, counters: Arc::default() });
    Router::new()
        .route("/topics", get(topics))
        .route("/topics/{topic}", post(produce))
        .fallback(|| async { ErrorResponse::plain(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async {
            ErrorResponse::plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .layer(DefaultBodyLimit::max(body_limit_bytes))
        .layer(from_fn_with_state(proxy.clone(), authorize))
        .route("/healthz", get(health))
        .route(
            "/statz",
            get(|State(proxy): State<Arc<Proxy>>| async move { respond(StatusCode::OK, &*proxy.counters) }),
        )
        .with_state(proxy)
}

/// A response other than 200: `{"error_code":..,"message":".."}`.
struct ErrorResponse {
    status: StatusCode,
    error_code: u32,
    message: String,
}

impl ErrorResponse {
    fn new(status: StatusCode, error_code: u32, message: impl Into<String>) -> Self {
        Self { status, error_code, message: message.into() }
    }

    /// One whose error code is its status.
    fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, status.as_u16().into(), message)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error_code: u32,
            message: &'a str,
        }
        tracing::debug!(status = %self.status, error_code = self.error_code, message = self.message, "error response");
        let mut response = respond(self.status, &Body { error_code: self.error_code, message: &self.message });
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"dropgate-rest-proxy\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response {
    // The bodies are plain structs of numbers and strings: they always serialise.
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, RESPONSE_TYPE);
    response
}

async fn authorize(State(proxy): State<Arc<Proxy>>, request: Request, next: Next) -> Response {
    if is_authorized(request.headers(), &proxy.token) {
        next.run(request).await
    } else {
        ErrorResponse::new(StatusCode::UNAUTHORIZED, 40101, "the token is missing or invalid").into_response()
    }
}

fn is_authorized(headers: &HeaderMap, token: &Token) -> bool {
    if let Some(bearer) = credentials(headers, "Bearer") {
        return token.matches(bearer.as_bytes());
    }
    let Some(basic) = credentials(headers, "Basic").and_then(|basic| BASE64.decode(basic.as_bytes()).ok()) else {
        return false;
    };
    let password = basic.splitn(2, |byte| *byte == b':').nth(1);
    password.is_some_and(|password| token.matches(password))
}

async fn health(State(proxy): State<Arc<Proxy>>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    match proxy.upstream.topic_names().await {
        Ok(_) => respond(StatusCode::OK, &Health { status: "ok" }),
        Err(error) => unavailable(&error).into_response(),
    }
}

async fn topics(State(proxy): State<Arc<Proxy>>) -> Result<Response, ErrorResponse> {
    let names = proxy.upstream.topic_names().await.map_err(|error| unavailable(&error))?;
    Ok(respond(StatusCode::OK, &names))
}

fn unavailable(error: &KafkaError) -> ErrorResponse {
    ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, 50302, format!("Kafka does not answer: {error}"))
}

async fn produce(
    State(proxy): State<Arc<Proxy>>,
    Path(topic): Path<String>,
    request: Request,
) -> Result<Response, ErrorResponse> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = content_type.and_then(Format::of).ok_or_else(|| {
        ErrorResponse::plain(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type must be application/vnd.kafka.json.v2+json or application/vnd.kafka.binary.v2+json",
        )
    })?;
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|rejection: BytesRejection| ErrorResponse::plain(rejection.status(), rejection.body_text()))?;
    let records = record::parse(&body, format).map_err(|error| match error {
        ParseError::Json(message) => ErrorResponse::new(StatusCode::UNPROCESSABLE_ENTITY, 42203, message),
        ParseError::Records(message) => ErrorResponse::plain(StatusCode::UNPROCESSABLE_ENTITY, message),
    })?;
    proxy.counters.count(records.len());
    check_topic(&proxy.upstream, &topic, &records).await?;
    let deliveries = proxy.upstream.produce(&topic, &records).await;
    log_failures(&proxy.upstream, &topic, &deliveries);
    let offsets: Vec<Offset> = deliveries.iter().map(Offset::from).collect();
    let status = status_of(&offsets);
    Ok(respond(status, &Produced { offsets, key_schema_id: None, value_schema_id: None }))
}

/// Rejects the whole request for a topic or a partition that does not exist, before anything is sent.
async fn check_topic(upstream: &Upstream, topic: &str, records: &[Record<'_>]) -> Result<(), ErrorResponse> {
    let unknown = || ErrorResponse::new(StatusCode::NOT_FOUND, 40401, format!("topic {topic} does not exist"));
    if !is_topic_name(topic) {
        return Err(unknown());
    }
    let highest = records.iter().filter_map(|record| record.partition).max();
    for attempt in [Freshness::Cached, Freshness::Fetched] {
        match upstream.topic(topic).await.map_err(|error| unavailable(&error))? {
            Topic::Unknown => return Err(unknown()),
            Topic::Partitions(count) if highest.is_none_or(|highest| highest < count) => return Ok(()),
            // Partitions may have been added since the topic was last seen.
            Topic::Partitions(_) if attempt == Freshness::Cached => upstream.forget(topic),
            Topic::Partitions(_) => {}
        }
    }
    let highest = highest.unwrap_or_default();
    Err(ErrorResponse::new(StatusCode::NOT_FOUND, 40402, format!("topic {topic} has no partition {highest}")))
}

#[derive(PartialEq, Eq)]
enum Freshness {
    Cached,
    Fetched,
}

/// Kafka's own rule for topic names.
fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

fn log_failures(upstream: &Upstream, topic: &str, deliveries: &[Delivery]) {
    let mut failures = deliveries.iter().filter_map(|delivery| delivery.as_ref().err());
    if let Some(first) = failures.next() {
        tracing::warn!(topic, failed = failures.count() + 1, of = deliveries.len(), error = %first, "records failed");
        // The topic may be gone.
        upstream.forget(topic);
    }
}

#[derive(Serialize)]
struct Produced {
    offsets: Vec<Offset>,
    key_schema_id: Option<u32>,
    value_schema_id: Option<u32>,
}

/// The result of one record, in Confluent's form.
#[derive(Serialize)]
struct Offset {
    partition: Option<i32>,
    offset: Option<i64>,
    error_code: Option<u32>,
    error: Option<String>,
}

impl From<&Delivery> for Offset {
    fn from(delivery: &Delivery) -> Self {
        match delivery {
            Ok((partition, offset)) => {
                Self { partition: Some(*partition), offset: Some(*offset), error_code: None, error: None }
            }
            Err(error) => Self {
                partition: None,
                offset: None,
                error_code: Some(record_error_code(error)),
                error: Some(error.to_string()),
            },
        }
    }
}

const AUTHENTICATION: u32 = 40101;
const AUTHORIZATION: u32 = 40301;
const NON_RETRIABLE: u32 = 50002;
const RETRIABLE: u32 = 50003;

/// Confluent's code of a failed record. Retriable does not mean that nothing was written.
fn record_error_code(error: &KafkaError) -> u32 {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::SaslAuthenticationFailed | Code::Authentication) => AUTHENTICATION,
        Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => AUTHORIZATION,
        Some(
            Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidTopic
            | Code::InvalidTimestamp
            | Code::InvalidRequiredAcks
            | Code::InvalidArgument
            | Code::UnsupportedForMessageFormat
            | Code::PolicyViolation,
        ) => NON_RETRIABLE,
        // Timeouts, elections, a full queue, lost connections, a producer that is being replaced.
        _ => RETRIABLE,
    }
}

/// 200 whatever the results of the records, except when the proxy itself may not write.
fn status_of(offsets: &[Offset]) -> StatusCode {
    let any = |code| offsets.iter().any(|offset| offset.error_code == Some(code));
    if any(AUTHENTICATION) {
        StatusCode::UNAUTHORIZED
    } else if any(AUTHORIZATION) {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::OK
    }
}
