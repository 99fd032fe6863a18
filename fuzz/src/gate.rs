//! The whole gate: a request, and what the servers answer to it.

use dropgate_edge::counters::Point;
use dropgate_edge::gate::{Begun, Gate};
use dropgate_edge::http::request::Request;
use dropgate_edge::identity::jwks::{PublicKey, PublicKeys};
use dropgate_edge::platform::{Limiter, Platform, Wake};
use dropgate_edge::settings::Settings;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use dropgate_shared::time::Millis;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Answers in order; a call without an answer times out.
#[derive(Clone)]
struct Answers(Rc<RefCell<VecDeque<HttpResponse>>>);

impl Answers {
    fn next(&self) -> Result<HttpResponse, SendFault> {
        let silent = SendFault { may_have_arrived: true, label: "timeout", detail: "no response".into() };
        self.0.borrow_mut().pop_front().ok_or(silent)
    }
}

impl Http for Answers {
    async fn post(&self, _request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        self.next()
    }
}

impl PublicKeys for Answers {
    async fn get(&self, _url: &str, _deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        self.next()
    }

    async fn verify(&self, _key: &PublicKey, _message: &[u8], signature: &[u8]) -> Result<bool, Fault> {
        Ok(signature.first() == Some(&0))
    }
}

#[derive(Clone)]
struct Runtime(Instant);

impl Platform for Runtime {
    fn now(&self) -> Millis {
        Millis(1_800_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap())
    }

    async fn sleep(&self, ms: u32) {
        tokio::time::sleep(Duration::from_millis(ms.into())).await;
    }

    fn pause(&self, limit: Millis) -> (Wake, impl Future<Output = ()>) {
        let ended = Rc::new(Notify::new());
        let wake = Rc::clone(&ended);
        let limit = Duration::from_millis(limit.0);
        (Wake::new(move || wake.notify_one()), async move {
            let _ = tokio::time::timeout(limit, ended.notified()).await;
        })
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(work);
    }

    fn random(&self) -> f64 {
        0.5
    }

    async fn within(&self, _limiter: Limiter, _key: &str) -> Result<bool, Fault> {
        Ok(true)
    }

    fn log(&self, _line: &Value) {}

    fn log_error(&self, _line: &Value) {}

    fn write_metrics(&self, _points: &[Point]) {}
}

/// The first line is the way of identification and the dialect, the second a request, the third its header, and each
/// further one an answer: its status by one letter, and its body. Whatever comes: the gate responds with one of its
/// documented statuses and JSON, and admits nobody of whom no answer of Redis speaks.
pub fn exchange(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let how = lines.next().unwrap_or_default();
    let (method, path) = lines.next().unwrap_or_default().split_once(' ').unwrap_or(("POST", "/v1/campaigns/a/claims"));
    let credentials = lines.next().unwrap_or_default().to_owned();
    let answers: VecDeque<HttpResponse> = lines
        .map(|line| {
            let status = match line.as_bytes().first() {
                Some(b'2') => 200,
                Some(b'4') => 400,
                Some(b'5') => 500,
                _ => 302,
            };
            HttpResponse { status, body: line.as_bytes().get(1..).unwrap_or_default().to_vec() }
        })
        .collect();
    let is_answered = !answers.is_empty();
    let settings = Settings::read(|name| {
        let value = match name {
            "ENVIRONMENT" => "development",
            "UPSTASH_REDIS_REST_URL" => "http://redis.example",
            "UPSTASH_REDIS_REST_TOKEN" => "token",
            "KAFKA_REST_URL" => "http://kafka.example",
            "KAFKA_REST_DIALECT" if how.contains("v3") => "v3",
            "KAFKA_CLUSTER_ID" if how.contains("v3") => "cluster",
            "COUPON_CODE_SECRET" => "0123456789abcdef",
            "ADMIT_ACK" if how.contains("ack") => "kafka",
            "AUTH" if how.contains("jwks") => "jwt-jwks",
            "AUTH" if how.contains("hs256") => "jwt-hs256",
            "AUTH" => "insecure-header",
            "JWT_SECRET" if how.contains("hs256") => "0123456789abcdef0123456789abcdef",
            "JWT_JWKS_URL" if how.contains("jwks") => "https://keys.example/jwks",
            "JWT_AUDIENCE" if how.contains("jwks") => "dropgate",
            "LOG_SAMPLE" => "1",
            _ => return None,
        };
        Some(value.to_owned())
    });
    let gate = Rc::new(Gate::new(settings.expect("the settings are valid"), Answers(Rc::new(RefCell::new(answers)))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    let response = runtime.block_on(local.run_until(async {
        let platform = Runtime(Instant::now());
        let header = |name: &str| match name {
            "x-user-id" | "authorization" if !credentials.is_empty() => Some(credentials.clone()),
            _ => None,
        };
        let url = format!("https://gate.example{path}");
        match gate.begin(&Request { method, url: &url, header: &header }, &platform) {
            Begun::Done(response) => dropgate_edge::http::response::Response::clone(&response),
            Begun::Pending(pending) => Rc::clone(&gate).finish(pending, platform).await,
        }
    }));
    let documented = [200, 202, 204, 400, 401, 403, 404, 405, 410, 413, 414, 429, 431, 500, 503];
    assert!(documented.contains(&response.status), "{}", response.status);
    let body: Option<Value> = serde_json::from_str(&response.body).ok();
    assert!(response.body.is_empty() || body.is_some() || path.starts_with("/healthz"), "{}", response.body);
    if body.is_some_and(|body| body.get("slot").is_some()) {
        assert!(is_answered, "a slot that no server has named");
    }
}
