//! A scripted network, and a request's surroundings on tokio's paused clock.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_edge::counters::Point;
use dropgate_edge::errand::{Errand, Limiter};
use dropgate_edge::gate::{Gate, Step};
use dropgate_edge::identity::keys::{PublicKey, PublicKeys};
use dropgate_edge::reply::Reply;
use dropgate_edge::settings::Settings;
use dropgate_edge::visit::Visit;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Answers in a given order, and remembers what was asked.
#[derive(Clone, Default)]
pub struct Script {
    pub answers: Rc<RefCell<VecDeque<Result<HttpResponse, SendFault>>>>,
    pub asked: Rc<RefCell<Vec<(String, Value)>>>,
    /// Answers each `user-N` of an EVALSHA with his slot N, and counts as asked.
    pub knows_everyone: Rc<Cell<bool>>,
    /// How long each answer takes, ms.
    pub takes_ms: Rc<Cell<u64>>,
}

/// A request's surroundings, on tokio's paused clock: time passes only while everybody waits.
#[derive(Clone)]
pub struct Test {
    pub begun: Instant,
    /// What was told the operator: during what, and the fault's label.
    pub faults: Rc<RefCell<Vec<(String, String)>>>,
    /// The keys that a limit was asked about, and the answer to it.
    pub limited: Rc<RefCell<Vec<(Limiter, String)>>>,
    pub within: Result<bool, String>,
}

impl Test {
    pub fn new() -> Self {
        Self { begun: Instant::now(), faults: Rc::default(), limited: Rc::default(), within: Ok(true) }
    }
}

impl Errand for Test {
    fn now_ms(&self) -> u64 {
        1_000_000 + u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }

    async fn sleep(&self, ms: u32) {
        tokio::time::sleep(Duration::from_millis(ms.into())).await;
    }

    fn after_answer(&self, work: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(work);
    }

    fn random(&self) -> f64 {
        0.5
    }

    async fn within(&self, limiter: Limiter, key: &str) -> Result<bool, String> {
        self.limited.borrow_mut().push((limiter, key.to_owned()));
        self.within.clone()
    }

    fn log(&self, _line: &Value) {}

    fn alarm(&self, line: &Value) {
        if line["event"] == "fault" {
            let word = |name: &str| line[name].as_str().unwrap().to_owned();
            self.faults.borrow_mut().push((word("during"), word("label")));
        }
    }

    fn write(&self, _points: &[Point]) {}
}

impl PublicKeys for Script {
    async fn get(&self, url: &str, _deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        self.asked.borrow_mut().push((url.to_owned(), Value::Null));
        tokio::time::sleep(Duration::from_millis(self.takes_ms.get())).await;
        self.answers.borrow_mut().pop_front().expect("the test has scripted every call")
    }

    /// A signature is good if it is the key's own text.
    async fn verify(&self, key: &PublicKey, _message: &[u8], signature: &[u8]) -> Result<bool, String> {
        Ok(key.jwk.contains(std::str::from_utf8(signature).unwrap()))
    }
}

impl Script {
    pub fn answer(&self, status: u16, body: &Value) -> &Self {
        self.answers.borrow_mut().push_back(Ok(HttpResponse { status, body: body.to_string().into() }));
        self
    }

    pub fn silence(&self) -> &Self {
        let fault = SendFault { may_have_arrived: true, label: "timeout", detail: "no answer within 3000 ms".into() };
        self.answers.borrow_mut().push_back(Err(fault));
        self
    }
}

impl Http for Script {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let body = serde_json::from_str(&request.body).unwrap();
        self.asked.borrow_mut().push((request.url.to_owned(), body));
        tokio::time::sleep(Duration::from_millis(self.takes_ms.get())).await;
        if self.knows_everyone.get() {
            let users = self.asked.borrow().last().unwrap().1.as_array().unwrap()[7..].to_vec();
            let slots = users.iter().map(|user| format!("={}:900:a", &user.as_str().unwrap()["user-".len()..]));
            let reply: Vec<String> = ["0", "900", ""].map(str::to_owned).into_iter().chain(slots).collect();
            return Ok(HttpResponse { status: 200, body: json!({ "result": reply }).to_string().into() });
        }
        self.answers.borrow_mut().pop_front().expect("the test has scripted every call")
    }
}

pub fn gate(script: &Script) -> Rc<Gate<Script>> {
    gate_with(script, &[])
}

/// A gate with other settings too.
pub fn gate_with(script: &Script, more: &[(&str, &str)]) -> Rc<Gate<Script>> {
    let settings = Settings::read(|name| {
        if let Some((_, value)) = more.iter().find(|(known, _)| *known == name) {
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
    Rc::new(Gate::new(settings.unwrap(), script.clone()))
}

pub fn begin(gate: &Gate<Script>, method: &str, path: &str, headers: &[(&str, &str)], errand: &Test) -> Step {
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    gate.begin(&Visit { method, url: &format!("https://gate{path}"), header: &header }, errand)
}

/// A request, to its answer.
pub async fn ask(gate: &Rc<Gate<Script>>, errand: &Test, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    match begin(gate, method, path, headers, errand) {
        Step::Call(call) => Rc::clone(gate).finish(call, errand.clone()).await,
        Step::Answer(reply) => Reply::clone(&reply),
    }
}

/// Claims for `user`, from his request to his answer.
pub async fn claim_of(gate: &Rc<Gate<Script>>, errand: &Test, user: &str) -> Reply {
    ask(gate, errand, "POST", "/v1/campaigns/spring/claims", &[("x-user-id", user)]).await
}

/// A claim of a fresh visitor, with all that follows after his answer.
pub async fn claim(gate: &Rc<Gate<Script>>) -> (Reply, Test) {
    let errand = Test::new();
    let local = LocalSet::new();
    let reply = local.run_until(claim_of(gate, &errand, "u1")).await;
    local.await;
    (reply, errand)
}

/// A claim to which Redis answers like this.
pub async fn answered(script: &Script, gate: &Rc<Gate<Script>>, status: u16, body: &Value) -> Reply {
    script.answer(status, body);
    claim(gate).await.0
}

pub fn admitted(answer: &str) -> Value {
    let held = if answer == "full" { "1:900" } else { "" };
    json!({ "result": ["0", "900", held, answer] })
}

pub fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

pub fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}

pub fn acknowledged() -> Value {
    json!({ "offsets": [{ "partition": 0, "offset": 1 }] })
}

/// What follows a forward that Kafka acknowledged: the lease moves, and the sweeper looks once.
pub fn forwarded(script: &Script) {
    script.answer(200, &acknowledged()).answer(200, &json!({ "result": "900" }));
    script.answer(200, &json!({ "result": ["0", "900"] }));
}
