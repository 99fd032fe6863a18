//! The Upstash Redis REST API over a plain Redis.
//!
//! Source of the surface: the hosted service's public description of its REST API, and what its
//! npm client `@upstash/redis` sends. Not offered: `Upstash-Response-Format: resp2`, the event
//! streams `/subscribe` and `/monitor`, read-only tokens. `upstash-sync-token` is ignored: one
//! Redis has one copy, so every read sees every earlier write.

mod command;
mod reply;
mod upstream;

pub use upstream::{REDIS_URL_ENV, Upstream};

use super::{Counters, Token, credentials};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use command::{Command, token_parameter};
use redis::{Pipeline, RedisError, Value};
use reply::{Encoding, error_text, write_error, write_reply};
use std::sync::Arc;

/// The hosted service's limit of a request body.
pub const DEFAULT_BODY_LIMIT_BYTES: usize = 10 * 1024 * 1024;

#[derive(Clone)]
struct Gateway {
    upstream: Upstream,
    token: Token,
    body_limit_bytes: usize,
    counters: Arc<Counters>,
}

/// The REST API over `upstream`, for callers that show `token`.
pub fn router(upstream: Upstream, token: Token, body_limit_bytes: usize) -> Router {
    Router::new().fallback(handle).layer(DefaultBodyLimit::max(body_limit_bytes)).with_state(Arc::new(Gateway {
        upstream,
        token,
        body_limit_bytes,
        counters: Arc::default(),
    }))
}

/// An answer other than 200.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// Redis did not answer: nobody knows whether the command ran, so this is not the caller's error.
    fn upstream(error: &RedisError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("ERR Redis does not answer: {error}"))
    }
}

async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let answer = match gateway.answer(request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(Refusal(status, text)) => {
            tracing::debug!(%status, text, "refused");
            let mut body = Vec::with_capacity(text.len() + 16);
            write_error(&mut body, &text);
            (status, body)
        }
    };
    let (status, body) = answer;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Gateway {
    async fn answer(&self, request: Request) -> Result<Vec<u8>, Refusal> {
        let uri = request.uri().clone();
        let method = request.method().clone();
        if uri.path() == "/healthz" && method == Method::GET {
            return self.health().await;
        }
        if uri.path() == "/statz" && method == Method::GET {
            // Two numbers always serialise.
            return Ok(serde_json::to_vec(&*self.counters).unwrap_or_default());
        }
        if !self.admits(request.headers(), uri.query()) {
            return Err(Refusal(StatusCode::UNAUTHORIZED, "WRONGPASS invalid or missing auth token".to_owned()));
        }
        let with_body = matches!(method, Method::POST | Method::PUT);
        if !with_body && !matches!(method, Method::GET | Method::HEAD) {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("ERR method {method} is not allowed")));
        }
        let encoding = encoding(request.headers())?;
        let body = self.body(request).await?;
        match uri.path() {
            "/pipeline" if with_body => self.pipeline(&body, encoding).await,
            "/multi-exec" if with_body => self.transaction(&body, encoding).await,
            "/pipeline" | "/multi-exec" => {
                Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("ERR method {method} is not allowed")))
            }
            "/" => {
                let command = serde_json::from_slice(&body).map_err(|_| Refusal::bad("ERR failed to parse command"))?;
                self.single(command, encoding).await
            }
            path => {
                let body: &[u8] = if with_body { &body } else { &[] };
                self.single(Command::from_path(path, body, uri.query()), encoding).await
            }
        }
    }

    async fn health(&self) -> Result<Vec<u8>, Refusal> {
        if self.upstream.ping().await {
            Ok(br#"{"status":"ok"}"#.to_vec())
        } else {
            Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "ERR Redis does not answer".to_owned()))
        }
    }

    fn admits(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        match credentials(headers, "Bearer") {
            Some(token) => self.token.matches(token.as_bytes()),
            None => token_parameter(query).is_some_and(|token| self.token.matches(&token)),
        }
    }

    async fn body(&self, request: Request) -> Result<Bytes, Refusal> {
        Bytes::from_request(request, &()).await.map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("ERR max request size exceeded. Limit: {} bytes", self.body_limit_bytes),
            ),
            status => Refusal(status, "ERR the request body ended early".to_owned()),
        })
    }

    async fn single(&self, command: Command, encoding: Encoding) -> Result<Vec<u8>, Refusal> {
        self.counters.asked(1);
        if let Some(refusal) = command.refusal() {
            return Err(Refusal::bad(refusal));
        }
        match self.upstream.run(&command.0).await.map_err(|error| Refusal::upstream(&error))? {
            Value::ServerError(error) => Err(Refusal::bad(error_text(&error))),
            value => {
                let mut out = Vec::with_capacity(128);
                write_reply(&mut out, &value, encoding);
                Ok(out)
            }
        }
    }

    /// Every command has its own result; one that is refused does not stop the others.
    async fn pipeline(&self, body: &[u8], encoding: Encoding) -> Result<Vec<u8>, Refusal> {
        let commands = commands(body, "pipeline")?;
        self.counters.asked(commands.len());
        let mut pipeline = Pipeline::with_capacity(commands.len());
        let mut refusals = Vec::with_capacity(commands.len());
        for command in commands {
            let refusal = command.refusal();
            if refusal.is_none() {
                pipeline.add_command(command.0);
            }
            refusals.push(refusal);
        }
        let values = if pipeline.is_empty() {
            Vec::new()
        } else {
            let answered = self.upstream.run_all(&pipeline, 0, pipeline.len()).await;
            answered.map_err(|error| Refusal::upstream(&error))?
        };
        let mut values = values.iter();
        Ok(write_list(refusals.iter(), |out, refusal| match refusal {
            Some(text) => write_error(out, text),
            None => write_reply(out, values.next().unwrap_or(&Value::Nil), encoding),
        }))
    }

    /// MULTI, the commands, EXEC, sent together: nothing of another caller runs in between, since
    /// the connection writes a pipeline as one piece.
    async fn transaction(&self, body: &[u8], encoding: Encoding) -> Result<Vec<u8>, Refusal> {
        let commands = commands(body, "transaction")?;
        self.counters.asked(commands.len());
        let mut pipeline = Pipeline::with_capacity(commands.len());
        pipeline.atomic();
        for command in commands {
            if let Some(refusal) = command.refusal() {
                return Err(Refusal::bad(format!("EXECABORT Transaction discarded because of: {refusal}")));
            }
            pipeline.add_command(command.0);
        }
        // MULTI's answer and one QUEUED a command are skipped; EXEC's answer holds the results.
        match self.upstream.run_all(&pipeline, pipeline.len() + 1, 1).await {
            Ok(answers) => match answers.first() {
                Some(Value::Array(values)) => {
                    Ok(write_list(values.iter(), |out, value| write_reply(out, value, encoding)))
                }
                Some(Value::ServerError(error)) => Err(Refusal::bad(error_text(error))),
                _ => Err(Refusal(StatusCode::BAD_GATEWAY, "ERR Redis answered EXEC with no array".to_owned())),
            },
            Err(error) => match error.clone().into_server_errors().as_deref() {
                Some([(_, cause), ..]) => {
                    Err(Refusal::bad(format!("EXECABORT Transaction discarded because of: {}", error_text(cause))))
                }
                _ => Err(Refusal::upstream(&error)),
            },
        }
    }
}

fn commands(body: &[u8], kind: &str) -> Result<Vec<Command>, Refusal> {
    let commands: Vec<Command> =
        serde_json::from_slice(body).map_err(|_| Refusal::bad(format!("ERR failed to parse {kind} request")))?;
    if commands.is_empty() {
        return Err(Refusal::bad(format!("ERR empty {kind} request")));
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

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase());
    match value("upstash-response-format").as_deref() {
        None | Some(b"json") => {}
        Some(b"resp2") => return Err(Refusal::bad("ERR response format resp2 is not supported by this gateway")),
        Some(_) => return Err(Refusal::bad("ERR invalid response format: expected json")),
    }
    match value("upstash-encoding").as_deref() {
        Some(b"base64") => Ok(Encoding::Base64),
        _ => Ok(Encoding::Text),
    }
}
