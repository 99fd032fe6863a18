//! The portable part of the Kafka REST v2 API over a plain Kafka.
//!
//! `POST /topics/{topic}` with JSON or base64 records, as Confluent REST Proxy, Redpanda, Strimzi's
//! bridge and Karapace understand it; status, codes and the form of answers are Confluent's. One
//! idempotent producer serves every request. `GET /topics` lists, `GET /healthz` tells readiness.

mod producer;
mod record;

pub use producer::{KAFKA_BOOTSTRAP_ENV, ProducerSettings, Upstream};

use super::{Counters, Token, credentials};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use producer::{Outcome, Topic};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use record::{Format, Malformed, Record};
use serde::Serialize;
use std::sync::Arc;

/// The default limit of a request body.
pub const DEFAULT_BODY_LIMIT_BYTES: usize = 10 * 1024 * 1024;

const ANSWER_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.kafka.v2+json");

#[derive(Clone)]
struct Gateway {
    upstream: Upstream,
    token: Token,
    counters: Arc<Counters>,
}

/// The REST API over `upstream`, for callers that show `token` (Bearer, or as Basic password).
pub fn router(upstream: Upstream, token: Token, body_limit_bytes: usize) -> Router {
    let gateway = Arc::new(Gateway { upstream, token, counters: Arc::default() });
    Router::new()
        .route("/topics", get(topics))
        .route("/topics/{topic}", post(produce))
        .fallback(|| async { Refusal::plain(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async { Refusal::plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed") })
        .layer(DefaultBodyLimit::max(body_limit_bytes))
        .layer(from_fn_with_state(gateway.clone(), admit))
        .route("/healthz", get(health))
        .route(
            "/statz",
            get(|State(gateway): State<Arc<Gateway>>| async move { answer(StatusCode::OK, &*gateway.counters) }),
        )
        .with_state(gateway)
}

/// An answer other than 200: `{"error_code":..,"message":".."}`.
struct Refusal {
    status: StatusCode,
    error_code: u32,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, error_code: u32, message: impl Into<String>) -> Self {
        Self { status, error_code, message: message.into() }
    }

    /// One whose code is its status.
    fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, status.as_u16().into(), message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error_code: u32,
            message: &'a str,
        }
        tracing::debug!(status = %self.status, error_code = self.error_code, message = self.message, "refused");
        let mut response = answer(self.status, &Body { error_code: self.error_code, message: &self.message });
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"dropgate-gateway\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    // The bodies are plain structs of numbers and strings: they always serialise.
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, ANSWER_TYPE);
    response
}

async fn admit(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    if shows(request.headers(), &gateway.token) {
        next.run(request).await
    } else {
        Refusal::new(StatusCode::UNAUTHORIZED, 40101, "the token is missing or wrong").into_response()
    }
}

fn shows(headers: &HeaderMap, token: &Token) -> bool {
    if let Some(bearer) = credentials(headers, "Bearer") {
        return token.matches(bearer.as_bytes());
    }
    let Some(basic) = credentials(headers, "Basic").and_then(|basic| STANDARD.decode(basic).ok()) else {
        return false;
    };
    let password = basic.splitn(2, |byte| *byte == b':').nth(1);
    password.is_some_and(|password| token.matches(password))
}

async fn health(State(gateway): State<Arc<Gateway>>) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    match gateway.upstream.topic_names().await {
        Ok(_) => answer(StatusCode::OK, &Health { status: "ok" }),
        Err(error) => unavailable(&error).into_response(),
    }
}

async fn topics(State(gateway): State<Arc<Gateway>>) -> Result<Response, Refusal> {
    let names = gateway.upstream.topic_names().await.map_err(|error| unavailable(&error))?;
    Ok(answer(StatusCode::OK, &names))
}

fn unavailable(error: &KafkaError) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, 50302, format!("Kafka does not answer: {error}"))
}

async fn produce(
    State(gateway): State<Arc<Gateway>>,
    Path(topic): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let format = content_type.and_then(Format::of).ok_or_else(|| {
        Refusal::plain(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type must be application/vnd.kafka.json.v2+json or application/vnd.kafka.binary.v2+json",
        )
    })?;
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|rejection: BytesRejection| Refusal::plain(rejection.status(), rejection.body_text()))?;
    let records = record::parse(&body, format).map_err(|malformed| match malformed {
        Malformed::Json(message) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, 42203, message),
        Malformed::Records(message) => Refusal::plain(StatusCode::UNPROCESSABLE_ENTITY, message),
    })?;
    gateway.counters.asked(records.len());
    check_topic(&gateway.upstream, &topic, &records).await?;
    let outcomes = gateway.upstream.produce(&topic, &records).await;
    report_failures(&gateway.upstream, &topic, &outcomes);
    let offsets: Vec<Offset> = outcomes.iter().map(Offset::from).collect();
    let status = status_of(&offsets);
    Ok(answer(status, &Produced { offsets, key_schema_id: None, value_schema_id: None }))
}

/// Refuses the whole request for a topic or a partition that does not exist, before anything is sent.
async fn check_topic(upstream: &Upstream, topic: &str, records: &[Record<'_>]) -> Result<(), Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, 40401, format!("topic {topic} does not exist"));
    if !is_topic_name(topic) {
        return Err(unknown());
    }
    let highest = records.iter().filter_map(|record| record.partition).max();
    for attempt in [Freshness::Cached, Freshness::Asked] {
        match upstream.topic(topic).await.map_err(|error| unavailable(&error))? {
            Topic::Unknown => return Err(unknown()),
            Topic::Partitions(count) if highest.is_none_or(|highest| highest < count) => return Ok(()),
            // Partitions may have been added since the topic was last seen.
            Topic::Partitions(_) if attempt == Freshness::Cached => upstream.forget(topic),
            Topic::Partitions(_) => {}
        }
    }
    let highest = highest.unwrap_or_default();
    Err(Refusal::new(StatusCode::NOT_FOUND, 40402, format!("topic {topic} has no partition {highest}")))
}

#[derive(PartialEq, Eq)]
enum Freshness {
    Cached,
    Asked,
}

/// Kafka's own rule for topic names.
fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

fn report_failures(upstream: &Upstream, topic: &str, outcomes: &[Outcome]) {
    let mut failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    if let Some(first) = failures.next() {
        tracing::warn!(topic, failed = failures.count() + 1, of = outcomes.len(), error = %first, "records failed");
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

/// What became of one record, in Confluent's form.
#[derive(Serialize)]
struct Offset {
    partition: Option<i32>,
    offset: Option<i64>,
    error_code: Option<u32>,
    error: Option<String>,
}

impl From<&Outcome> for Offset {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
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

/// Confluent's code of a failed record. Retriable does not say that nothing was written.
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

/// 200 whatever became of the records, except when nobody may write at all.
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
