//! Health and metrics over HTTP, on a port of their own for the operator.
//!
//! | path | response |
//! |---|---|
//! | `/livez` | 200 while the loop makes progress, else 503: restart the process |
//! | `/readyz` | 200 while the service can work and the database answers, else 503 with the reasons |
//! | `/metrics` | the text format of Prometheus |
//! | `/version` | `{"name","version"}` |

use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::mysql::database::MySqlStore;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the database may take to answer a health check.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// An answer of the database is reused for this long, so that frequent probes open no connections.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// What the endpoints report on.
pub struct HttpState {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    database: MySqlStore,
    /// When the database was last asked, and why it could not be reached.
    asked: Mutex<Option<(Instant, Option<String>)>>,
}

impl HttpState {
    #[must_use]
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>, database: MySqlStore) -> Self {
        Self { health, metrics, database, asked: Mutex::new(None) }
    }

    /// Why the database cannot be reached; `None` if it can.
    async fn unreachable(&self) -> Option<String> {
        // One request asks; the others wait for its answer.
        let mut asked = self.asked.lock().await;
        if let Some((at, answer)) = asked.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let answer = match tokio::time::timeout(ANSWER_WITHIN, self.database.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(format!("the database cannot be reached: {}", fault.label)),
            Err(_) => Some("the database does not answer".to_owned()),
        };
        *asked = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Listens on the port.
///
/// # Errors
/// [`BindError`]: it is in use, or not this host's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| BindError { address, error })
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "HTTP_LISTEN {address}: {error}. Health and metrics need a port of their own: set another address, port 0 for any \
     free one, or `off`"
)]
pub struct BindError {
    address: SocketAddr,
    error: std::io::Error,
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, state: HttpState) {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .with_state(Arc::new(state));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "health and metrics are no longer served");
    }
}

async fn livez(State(state): State<Arc<HttpState>>) -> Response {
    match state.health.dead() {
        None => "alive\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(state): State<Arc<HttpState>>) -> Response {
    let mut reasons = state.health.unready();
    reasons.extend(state.unreachable().await);
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
}

async fn metrics(State(state): State<Arc<HttpState>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.metrics.encode()).into_response()
}

async fn version() -> Response {
    Json(serde_json::json!({ "name": "dropgate-issuer", "version": env!("CARGO_PKG_VERSION") })).into_response()
}
