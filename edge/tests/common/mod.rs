//! A scripted network, and a runtime on tokio's paused clock.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_edge::counters::Point;
use dropgate_edge::gate::{Begun, Gate};
use dropgate_edge::http::request::Request;
use dropgate_edge::http::response::Response;
use dropgate_edge::identity::jwks::{PublicKey, PublicKeys};
use dropgate_edge::platform::{Limiter, Platform, Wake};
use dropgate_edge::settings::Settings;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use dropgate_shared::time::Millis;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

pub const CAMPAIGN: &str = "/v1/campaigns/spring";
pub const CLAIMS: &str = "/v1/campaigns/spring/claims";

/// Gives its responses in order, and records the calls.
#[derive(Clone, Default)]
pub struct ScriptedNetwork {
    pub responses: Rc<RefCell<VecDeque<Result<HttpResponse, SendFault>>>>,
    /// URL and body.
    pub calls: Rc<RefCell<Vec<(String, Value)>>>,
    /// Answers every EVALSHA: each `user-N` holds slot N.
    pub admits_everyone: Rc<Cell<bool>>,
    /// How long each call takes, in ms.
    pub takes_ms: Rc<Cell<u64>>,
}

/// The runtime around one event. Its time passes only while everybody waits.
#[derive(Clone)]
pub struct TestPlatform {
    pub started: Instant,
    /// The faults in the log: activity and label.
    pub faults: Rc<RefCell<Vec<(String, String)>>>,
    /// The keys that were checked against a limit, and the result of each check.
    pub limited: Rc<RefCell<Vec<(Limiter, String)>>>,
    pub within: Result<bool, Fault>,
    pub random: Rc<Cell<f64>>,
    /// The reasons of 401 in the log.
    pub reasons: Rc<RefCell<Vec<String>>>,
}

impl TestPlatform {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            faults: Rc::default(),
            limited: Rc::default(),
            within: Ok(true),
            random: Rc::new(Cell::new(0.5)),
            reasons: Rc::default(),
        }
    }
}

impl Platform for TestPlatform {
    fn now(&self) -> Millis {
        Millis(1_000_000 + u64::try_from(self.started.elapsed().as_millis()).unwrap())
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
        self.random.get()
    }

    async fn within(&self, limiter: Limiter, key: &str) -> Result<bool, Fault> {
        self.limited.borrow_mut().push((limiter, key.to_owned()));
        self.within.clone()
    }

    fn log(&self, line: &Value) {
        if line["event"] == "unauthenticated" {
            self.reasons.borrow_mut().push(line["reason"].as_str().unwrap().to_owned());
        }
    }

    fn log_error(&self, line: &Value) {
        if line["event"] == "fault" {
            let word = |name: &str| line[name].as_str().unwrap().to_owned();
            self.faults.borrow_mut().push((word("during"), word("label")));
        }
    }

    fn write_metrics(&self, _points: &[Point]) {}
}

impl PublicKeys for ScriptedNetwork {
    async fn get(&self, url: &str, _deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        self.calls.borrow_mut().push((url.to_owned(), Value::Null));
        self.next_response().await
    }

    /// A signature is valid if its bytes are a part of the key.
    async fn verify(&self, key: &PublicKey, _message: &[u8], signature: &[u8]) -> Result<bool, Fault> {
        Ok(key.jwk.contains(std::str::from_utf8(signature).unwrap()))
    }
}

impl ScriptedNetwork {
    pub fn respond(&self, status: u16, body: &Value) -> &Self {
        self.responses.borrow_mut().push_back(Ok(HttpResponse { status, body: body.to_string().into() }));
        self
    }

    pub fn time_out(&self) -> &Self {
        let fault = SendFault { may_have_arrived: true, label: "timeout", detail: "no response within 3000 ms".into() };
        self.responses.borrow_mut().push_back(Err(fault));
        self
    }

    /// The calls that follow when Kafka acknowledges a record: the lease moves, and the sweeper makes a step.
    pub fn acknowledge_forward(&self) {
        self.respond(200, &json!({ "offsets": [{ "partition": 0, "offset": 1 }] }));
        self.respond(200, &json!({ "result": "900" })).respond(200, &json!({ "result": ["0", "900", ""] }));
    }

    pub fn call_count(&self) -> usize {
        self.calls.borrow().len()
    }

    async fn next_response(&self) -> Result<HttpResponse, SendFault> {
        tokio::time::sleep(Duration::from_millis(self.takes_ms.get())).await;
        self.responses.borrow_mut().pop_front().expect("the test has scripted every call")
    }
}

impl Http for ScriptedNetwork {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        self.calls.borrow_mut().push((request.url.to_owned(), body.clone()));
        if !self.admits_everyone.get() {
            return self.next_response().await;
        }
        tokio::time::sleep(Duration::from_millis(self.takes_ms.get())).await;
        let slots = body.as_array().unwrap()[8..].iter();
        let slots = slots.map(|user| format!("={}:900:a", &user.as_str().unwrap()["user-".len()..]));
        let reply: Vec<String> = ["0", "900", "", ""].map(str::to_owned).into_iter().chain(slots).collect();
        Ok(HttpResponse { status: 200, body: json!({ "result": reply }).to_string().into() })
    }
}

pub fn gate(network: &ScriptedNetwork) -> Rc<Gate<ScriptedNetwork>> {
    gate_with(network, &[])
}

/// A gate with other settings too.
pub fn gate_with(network: &ScriptedNetwork, settings: &[(&str, &str)]) -> Rc<Gate<ScriptedNetwork>> {
    let settings = Settings::read(|name| {
        if let Some((_, value)) = settings.iter().find(|(known, _)| *known == name) {
            return Some((*value).to_owned());
        }
        let value = match name {
            "ENVIRONMENT" => "development",
            "UPSTASH_REDIS_REST_URL" => "http://redis",
            "UPSTASH_REDIS_REST_TOKEN" => "token",
            "KAFKA_REST_URL" => "http://kafka",
            "COUPON_CODE_SECRET" => "0123456789abcdef",
            "AUTH" => "insecure-header",
            _ => return None,
        };
        Some(value.to_owned())
    });
    Rc::new(Gate::new(settings.unwrap(), network.clone()))
}

pub fn begin(
    gate: &Gate<ScriptedNetwork>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    platform: &TestPlatform,
) -> Begun {
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    gate.begin(&Request { method, url: &format!("https://gate{path}"), header: &header }, platform)
}

/// Sends a request and waits for its response.
pub async fn send(
    gate: &Rc<Gate<ScriptedNetwork>>,
    platform: &TestPlatform,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    match begin(gate, method, path, headers, platform) {
        Begun::Pending(pending) => Rc::clone(gate).finish(pending, platform.clone()).await,
        Begun::Done(response) => Response::clone(&response),
    }
}

/// Claims for `user` and waits for the response.
pub async fn claim_of(gate: &Rc<Gate<ScriptedNetwork>>, platform: &TestPlatform, user: &str) -> Response {
    send(gate, platform, "POST", CLAIMS, &[("x-user-id", user)]).await
}

/// A claim in an event of its own, with all of its background work.
pub async fn claim(gate: &Rc<Gate<ScriptedNetwork>>) -> (Response, TestPlatform) {
    let platform = TestPlatform::new();
    let local = LocalSet::new();
    let response = local.run_until(claim_of(gate, &platform, "u1")).await;
    local.await;
    (response, platform)
}

/// A claim that gets this response from Redis.
pub async fn claim_with_reply(
    network: &ScriptedNetwork,
    gate: &Rc<Gate<ScriptedNetwork>>,
    status: u16,
    body: &Value,
) -> Response {
    network.respond(status, body);
    claim(gate).await.0
}

/// The reply of `admit.lua` with this answer.
pub fn admit_reply(answer: &str) -> Value {
    let holders = if answer == "full" { "1:900" } else { "" };
    json!({ "result": ["0", "900", holders, "", answer] })
}

pub fn body(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap()
}

pub fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}
