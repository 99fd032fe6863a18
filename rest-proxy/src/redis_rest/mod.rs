//! The Upstash Redis REST API over a plain Redis.
//!
//! Sources of the protocol: the hosted service's public description of its REST API, and what its npm
//! client `@upstash/redis` sends. Not supported: `Upstash-Response-Format: resp2`, the event streams
//! `/subscribe` and `/monitor`, read-only tokens. `upstash-sync-token` is ignored: one Redis has one
//! copy, so every read sees every earlier write.

mod command;
mod response;
mod upstream;

pub use upstream::{REDIS_URL_ENV, Upstream};

use crate::server::Counters;
use crate::token::{Token, credentials};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use command::{Command, token_parameter};
use redis::{Pipeline, RedisError, Value};
use response::{Encoding, error_text, write_error, write_response};
use std::sync::Arc;

/// The default limit of a request body, which is the hosted service's.
pub const DEFAULT_BODY_LIMIT_BYTES: usize = 10 * 1024 * 1024;

#[derive(Clone)]
struct Proxy {
    upstream: Upstream,
    token: Token,
    body_limit_bytes: usize,
    counters: Arc<Counters>,
}

/// The REST API over `upstream`, for callers that send `token`.
pub fn router(upstream: Upstream, token: Token, body_limit_bytes: usize) -> Router {
    Router::new().fallback(handle).layer(DefaultBodyLimit::max(body_limit_bytes)).with_state(Arc::new(Proxy {
        upstream,
        token,
        body_limit_bytes,
        counters: Arc::default(),
    }))
}

/// A response other than 200.
struct ErrorResponse(StatusCode, String);

impl ErrorResponse {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// Redis did not respond: whether the command ran is unknown, so this is not the caller's error.
    fn upstream(error: &RedisError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("ERR Redis does not answer: {error}"))
    }
}

async fn handle(State(proxy): State<Arc<Proxy>>, request: Request) -> Response {
    let (status, body) = match proxy.respond(request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(ErrorResponse(status, text)) => {
            tracing::debug!(%status, text, "error response");
            let mut body = Vec::with_capacity(text.len() + 16);
            write_error(&mut body, &text);
            (status, body)
        }
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Proxy {
    async fn respond(&self, request: Request) -> Result<Vec<u8>, ErrorResponse> {
        let uri = request.uri().clone();
        let method = request.method().clone();
        if uri.path() == "/healthz" && method == Method::GET {
            return self.health().await;
        }
        if uri.path() == "/statz" && method == Method::GET {
            // Two numbers always serialise.
            return Ok(serde_json::to_vec(&*self.counters).unwrap_or_default());
        }
        if !self.is_authorized(request.headers(), uri.query()) {
            return Err(ErrorResponse(StatusCode::UNAUTHORIZED, "WRONGPASS invalid or missing auth token".to_owned()));
        }
        let with_body = matches!(method, Method::POST | Method::PUT);
        if !with_body && !matches!(method, Method::GET | Method::HEAD) {
            return Err(ErrorResponse(StatusCode::METHOD_NOT_ALLOWED, format!("ERR method {method} is not allowed")));
        }
        let encoding = encoding(request.headers())?;
        let body = self.body(request).await?;
        match uri.path() {
            "/pipeline" if with_body => self.pipeline(&body, encoding).await,
            "/multi-exec" if with_body => self.transaction(&body, encoding).await,
            "/pipeline" | "/multi-exec" => {
                Err(ErrorResponse(StatusCode::METHOD_NOT_ALLOWED, format!("ERR method {method} is not allowed")))
            }
            "/" => {
                let command =
                    serde_json::from_slice(&body).map_err(|_| ErrorResponse::bad("ERR failed to parse command"))?;
                self.single(command, encoding).await
            }
            path => {
                let body: &[u8] = if with_body { &body } else { &[] };
                self.single(Command::from_path(path, body, uri.query()), encoding).await
            }
        }
    }

    async fn health(&self) -> Result<Vec<u8>, ErrorResponse> {
        if self.upstream.ping().await {
            Ok(br#"{"status":"ok"}"#.to_vec())
        } else {
            Err(ErrorResponse(StatusCode::SERVICE_UNAVAILABLE, "ERR Redis does not answer".to_owned()))
        }
    }

    fn is_authorized(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        match credentials(headers, "Bearer") {
            Some(token) => self.token.matches(token.as_bytes()),
            None => token_parameter(query).is_some_and(|token| self.token.matches(&token)),
        }
    }

    async fn body(&self, request: Request) -> Result<Bytes, ErrorResponse> {
        Bytes::from_request(request, &()).await.map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ErrorResponse(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("ERR max request size exceeded. Limit: {} bytes", self.body_limit_bytes),
            ),
            status => ErrorResponse(status, "ERR the request body ended early".to_owned()),
        })
    }

    async fn single(&self, command: Command, encoding: Encoding) -> Result<Vec<u8>, ErrorResponse> {
        self.counters.count(1);
        if let Some(rejection) = command.rejection() {
            return Err(ErrorResponse::bad(rejection));
        }
        match self.upstream.run(&command.0).await.map_err(|error| ErrorResponse::upstream(&error))? {
            Value::ServerError(error) => Err(ErrorResponse::bad(error_text(&error))),
            value => {
                let mut out = Vec::with_capacity(128);
                write_response(&mut out, &value, encoding);
                Ok(out)
            }
        }
    }

    /// Every command has its own result; a rejected one does not stop the others.
    async fn pipeline(&self, body: &[u8], encoding: Encoding) -> Result<Vec<u8>, ErrorResponse> {
        let commands = commands(body, "pipeline")?;
        self.counters.count(commands.len());
        let mut pipeline = Pipeline::with_capacity(commands.len());
        let mut rejections = Vec::with_capacity(commands.len());
        for command in commands {
            let rejection = command.rejection();
            if rejection.is_none() {
                pipeline.add_command(command.0);
            }
            rejections.push(rejection);
        }
        let values = if pipeline.is_empty() {
            Vec::new()
        } else {
            let values = self.upstream.run_all(&pipeline, 0, pipeline.len()).await;
            values.map_err(|error| ErrorResponse::upstream(&error))?
        };
        let mut values = values.iter();
        Ok(write_list(rejections.iter(), |out, rejection| match rejection {
            Some(text) => write_error(out, text),
            None => write_response(out, values.next().unwrap_or(&Value::Nil), encoding),
        }))
    }

    /// MULTI, the commands, EXEC, sent together: nothing of another caller runs in between, since
    /// the connection writes a pipeline as one piece.
    async fn transaction(&self, body: &[u8], encoding: Encoding) -> Result<Vec<u8>, ErrorResponse> {
        let commands = commands(body, "transaction")?;
        self.counters.count(commands.len());
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.atomic();
        for command in commands {
            if let Some(rejection) = command.rejection() {
                return Err(ErrorResponse::bad(format!("EXECABORT Transaction discarded because of: {rejection}")));
            }
            pipeline.add_command(command.0);
        }
        // MULTI's reply and one QUEUED a command are skipped; EXEC's reply holds the results.
        match self.upstream.run_all(&pipeline, pipeline.len() + 1, 1).await {
            Ok(replies) => match replies.first() {
                Some(Value::Array(values)) => {
                    Ok(write_list(values.iter(), |out, value| write_response(out, value, encoding)))
                }
                Some(Value::ServerError(error)) => Err(ErrorResponse::bad(error_text(error))),
                _ => Err(ErrorResponse(StatusCode::BAD_GATEWAY, "ERR Redis answered EXEC with no array".to_owned())),
            },
            Err(error) => match error.clone().into_server_errors().as_deref() {
                Some([(_, cause), ..]) => Err(ErrorResponse::bad(format!(
                    "EXECABORT Transaction discarded because of: {}",
                    error_text(cause)
                ))),
                _ => Err(ErrorResponse::upstream(&error)),
            },
        }
    }
}

fn commands(body: &[u8], kind: &str) -> Result<Vec<Command>, ErrorResponse> {
    let commands: Vec<Command> =
        serde_json::from_slice(body).map_err(|_| ErrorResponse::bad(format!("ERR failed to parse {kind} request")))?;
    if commands.is_empty() {
        return Err(ErrorResponse::bad(format!("ERR empty {kind} request")));
    }
    Ok(commands)
}

fn write_list<T>(items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(&mut out, item);
    }
    out.push(b']');
    out
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ErrorResponse> {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase());
    match value("upstash-response-format").as_deref() {
        None | Some(b"json") => {}
        Some(b"resp2") => return Err(ErrorResponse::bad("ERR response format resp2 is not supported by this proxy")),
        Some(_) => return Err(ErrorResponse::bad("ERR invalid response format: expected json")),
    }
    match value("upstash-encoding").as_deref() {
        Some(b"base64") => Ok(Encoding::Base64),
        _ => Ok(Encoding::Text),
    }
}
