//! Health and metrics over HTTP, on a port of their own that is nobody's business but the operator's.
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 while the loop goes round, else 503: start the process again |
//! | `/readyz` | 200 while partitions are assigned and the database answers, else 503 with the reasons |
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
/// An answer of the database is good for this long: whoever asks often opens no connections by that.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// What the endpoints report.
pub struct HttpState {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    database: MySqlStore,
    asked: Mutex<Option<(Instant, Option<String>)>>,
}

impl HttpState {
    /// Tells of a service.
    #[must_use]
    pub fn new(health: Arc<Health>, metrics: Arc<Metrics>, database: MySqlStore) -> Self {
        Self { health, metrics, database, asked: Mutex::new(None) }
    }

    /// Why the database cannot be reached; `None` if it can.
    async fn unreachable(&self) -> Option<String> {
        // One asks; the others wait for his answer.
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

/// Takes the port.
///
/// # Errors
/// [`BindError`]: it is taken, or not this host's.
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
        tracing::error!(%error, "health and metrics are not served any more");
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
