//! The gate over a scripted network: what visitors hear when upstreams misbehave. The real servers'
//! turn comes in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_edge::errand::Errand;
use dropgate_edge::gate::{BODY_LIMIT_BYTES, Call, Gate, Step, Visit};
use dropgate_edge::reply::Reply;
use dropgate_edge::settings::Settings;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{Http, HttpReply, HttpRequest, SendFault};
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
struct Script {
    answers: Rc<RefCell<VecDeque<Result<HttpReply, SendFault>>>>,
    asked: Rc<RefCell<Vec<(String, Value)>>>,
    /// Answers each `user-N` of an EVALSHA with his slot N, and counts as asked.
    knows_everyone: Rc<Cell<bool>>,
    /// How long each answer takes, ms.
    takes_ms: Rc<Cell<u64>>,
}

/// A request's surroundings, on tokio's paused clock: time passes only while everybody waits.
#[derive(Clone)]
struct Test {
    begun: Instant,
    faults: Rc<RefCell<Vec<(&'static str, &'static str)>>>,
}

impl Test {
    fn new() -> Self {
        Self { begun: Instant::now(), faults: Rc::default() }
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

    fn report(&self, during: &'static str, fault: &Fault) {
        self.faults.borrow_mut().push((during, fault.label));
    }
}

impl Script {
    fn answer(&self, status: u16, body: &Value) -> &Self {
        self.answers.borrow_mut().push_back(Ok(HttpReply { status, body: body.to_string().into() }));
        self
    }

    fn silence(&self) -> &Self {
        let fault = SendFault { may_have_arrived: true, label: "timeout", detail: "no answer within 3000 ms".into() };
        self.answers.borrow_mut().push_back(Err(fault));
        self
    }
}

impl Http for Script {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpReply, SendFault> {
        let body = serde_json::from_str(&request.body).unwrap();
        self.asked.borrow_mut().push((request.url.to_owned(), body));
        tokio::time::sleep(Duration::from_millis(self.takes_ms.get())).await;
        if self.knows_everyone.get() {
            let users = self.asked.borrow().last().unwrap().1.as_array().unwrap()[7..].to_vec();
            let slots = users.iter().map(|user| format!("={}:900:a", &user.as_str().unwrap()["user-".len()..]));
            let reply: Vec<String> = ["0", "900", ""].map(str::to_owned).into_iter().chain(slots).collect();
            return Ok(HttpReply { status: 200, body: json!({ "result": reply }).to_string().into() });
        }
        self.answers.borrow_mut().pop_front().expect("the test has scripted every call")
    }
}

fn gate(script: &Script) -> Rc<Gate<Script>> {
    let settings = Settings::read(|name| {
        let value = match name {
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

fn begin(gate: &Gate<Script>, method: &str, path: &str, headers: &[(&str, &str)], now_ms: u64) -> Step {
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    gate.begin(&Visit { method, path, header: &header }, now_ms)
}

/// Claims for `user`, from his request to his answer.
async fn claim_of(gate: &Rc<Gate<Script>>, errand: &Test, user: &str) -> Reply {
    let headers = [("x-user-id", user)];
    match begin(gate, "POST", "/v1/campaigns/spring/claims", &headers, errand.now_ms()) {
        Step::Call(call) => Rc::clone(gate).finish(call, errand.clone()).await,
        Step::Answer(reply) => reply,
    }
}

/// A claim of a fresh visitor, with all that follows after his answer.
async fn claim(gate: &Rc<Gate<Script>>) -> (Reply, Test) {
    let errand = Test::new();
    let local = LocalSet::new();
    let reply = local.run_until(claim_of(gate, &errand, "u1")).await;
    local.await;
    (reply, errand)
}

/// A claim to which Redis answers like this.
async fn answered(script: &Script, gate: &Rc<Gate<Script>>, status: u16, body: &Value) -> Reply {
    script.answer(status, body);
    claim(gate).await.0
}

fn admitted(answer: &str) -> Value {
    let held = if answer == "full" { "1:900" } else { "" };
    json!({ "result": ["0", "900", held, answer] })
}

fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}

fn acknowledged() -> Value {
    json!({ "offsets": [{ "partition": 0, "offset": 1 }] })
}

/// What follows a forward that Kafka acknowledged: the lease moves, and the sweeper looks once.
fn forwarded(script: &Script) {
    script.answer(200, &acknowledged()).answer(200, &json!({ "result": "900" }));
    script.answer(200, &json!({ "result": ["0", "900"] }));
}

#[tokio::test(start_paused = true)]
async fn an_admission_is_one_call_then_its_record_goes_to_kafka_and_the_lease_moves() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    forwarded(&script);
    let (reply, errand) = claim(&gate).await;
    assert_eq!((reply.status, body(&reply)["slot"].as_u64()), (202, Some(7)));
    assert_eq!(*errand.faults.borrow(), []);
    let asked = script.asked.borrow();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0].1[0], "EVALSHA");
    assert_eq!(asked[1].0, "http://kafka/topics/coupon_create");
    assert_eq!(asked[2].1.as_array().unwrap()[3..], [json!("dg:{spring}:outbox"), json!("60000"), json!("u1")]);
}

/// Produce failed leaves the lease where it is, and the sweeper comes back.
#[tokio::test(start_paused = true)]
async fn a_forward_that_is_not_acknowledged_moves_no_lease() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    script.answer(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    let (reply, errand) = claim(&gate).await;
    assert_eq!(reply.status, 202);
    assert_eq!(*errand.faults.borrow(), [("forward", "record_failed")]);
    assert_eq!(script.asked.borrow().len(), 2);
}

/// I5
#[tokio::test(start_paused = true)]
async fn a_repeated_claim_answers_the_same_and_forwards_nothing() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &admitted("+7:900:a"));
    forwarded(&script);
    let first = claim(&gate).await.0;
    let again = answered(&script, &gate, 200, &admitted("=7:900:a")).await;
    assert_eq!((first.status, again.status), (202, 200));
    assert_eq!(body(&first), body(&again));
}

/// I8: silence, garbage, an error page and damaged data are all answered alike.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_never_told_as_a_refusal() {
    let damaged = json!({ "error": "DROPGATE campaign meta is damaged: publish the campaign again" });
    for (status, answer) in [
        (0, Value::Null),
        (200, json!("garbage")),
        (200, admitted("+0:0:?")),
        (502, json!("bad gateway")),
        (401, json!({ "error": "WRONGPASS" })),
        (400, damaged),
    ] {
        let script = Script::default();
        let gate = gate(&script);
        if status == 0 {
            script.silence();
        } else {
            script.answer(status, &answer);
        }
        let (reply, errand) = claim(&gate).await;
        assert_eq!((reply.status, header(&reply, "retry-after")), (503, Some("1")));
        assert_eq!(body(&reply)["type"], "urn:dropgate:problem:unavailable");
        assert!(!errand.faults.borrow().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_redis_does_not_hold_is_sent_whole() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(400, &json!({ "error": "NOSCRIPT No matching script. Please use EVAL." }));
    assert_eq!(answered(&script, &gate, 200, &admitted("=1:900:a")).await.status, 200);
    let asked = script.asked.borrow();
    assert_eq!((asked[0].1[0].as_str(), asked[1].1[0].as_str()), (Some("EVALSHA"), Some("EVAL")));
    assert_eq!(asked[0].1.as_array().unwrap()[2..], asked[1].1.as_array().unwrap()[2..]);
}

#[tokio::test(start_paused = true)]
async fn a_campaign_that_was_seen_alive_does_not_become_unknown() {
    let script = Script::default();
    let gate = gate(&script);
    let gone = json!({ "result": null });
    assert_eq!(answered(&script, &gate, 200, &gone).await.status, 404);
    assert_eq!(answered(&script, &gate, 200, &admitted("late")).await.status, 410);
    let lost = answered(&script, &gate, 200, &gone).await;
    assert_eq!((lost.status, header(&lost, "retry-after")), (503, Some("1")));
}

#[tokio::test(start_paused = true)]
async fn every_decision_has_its_answer() {
    for (answer, status, kind) in
        [("full", 410, "sold-out"), ("late", 410, "closed"), ("early", 403, "not-open"), ("paused", 503, "paused")]
    {
        let script = Script::default();
        let gate = gate(&script);
        script.answer(200, &admitted(answer)).answer(200, &json!({ "result": ["holder"] }));
        let reply = claim(&gate).await.0;
        assert_eq!((reply.status, &body(&reply)["type"]), (status, &json!(format!("urn:dropgate:problem:{kind}"))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_claim_shows_no_code() {
    let script = Script::default();
    let gate = gate(&script);
    let reply = answered(&script, &gate, 200, &admitted("=3:900:r")).await;
    assert_eq!((body(&reply)["status"].as_str(), body(&reply)["code"].as_str()), (Some("refused"), None));
}

/// Many claims, few calls: those that come while a call is under way go together in the next.
#[tokio::test(start_paused = true)]
async fn claims_that_wait_go_to_redis_together_and_each_hears_its_own() {
    let script = Script::default();
    script.takes_ms.set(10);
    let gate = gate(&script);
    script.knows_everyone.set(true);
    let errand = Test::new();
    let local = LocalSet::new();
    let slots = Rc::new(RefCell::new(Vec::new()));
    for n in 1..=100_u64 {
        let (gate, errand, slots) = (Rc::clone(&gate), errand.clone(), Rc::clone(&slots));
        local.spawn_local(async move {
            let reply = claim_of(&gate, &errand, &format!("user-{n}")).await;
            slots.borrow_mut().push((n, body(&reply)["slot"].as_u64().unwrap()));
        });
    }
    local.await;
    assert!(slots.borrow().iter().all(|(n, slot)| n == slot), "somebody heard another's decision");
    assert_eq!(slots.borrow().len(), 100);
    assert!(script.asked.borrow().len() <= 4, "{} calls", script.asked.borrow().len());
}

/// A visitor who hangs up takes nobody with him: his request ends at an await, without any clean-up.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_visitor_hangs_up_still_decides_for_the_others() {
    let script = Script::default();
    script.takes_ms.set(50);
    let gate = gate(&script);
    script.answer(200, &json!({ "result": ["0", "900", "", "=1:900:a"] }));
    script.answer(200, &json!({ "result": ["0", "900", "", "=2:900:a"] }));
    let local = LocalSet::new();
    local
        .run_until(async {
            let errand = Test::new();
            let leader = tokio::task::spawn_local({
                let (gate, errand) = (Rc::clone(&gate), errand.clone());
                async move { claim_of(&gate, &errand, "impatient").await }
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
            leader.abort();
            assert_eq!(body(&claim_of(&gate, &errand, "patient").await)["slot"], 2);
        })
        .await;
}

/// After "sold out" a stranger costs no call, and a holder always hears the truth.
#[tokio::test(start_paused = true)]
async fn sold_out_is_remembered_with_everyone_who_holds_a_slot() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(200, &json!({ "result": ["0", "900", "2:900", "full"] }));
    script.answer(200, &json!({ "result": ["holder-1", "holder-2"] }));
    let errand = Test::new();
    let local = LocalSet::new();
    assert_eq!(local.run_until(claim_of(&gate, &errand, "first-to-hear")).await.status, 410);
    local.await;
    let calls = script.asked.borrow().len();
    for n in 0..1000 {
        let headers = [("x-user-id", &*format!("stranger-{n}"))];
        let step = begin(&gate, "POST", "/v1/campaigns/spring/claims", &headers, errand.now_ms());
        assert!(matches!(step, Step::Answer(reply) if reply.status == 410));
    }
    assert_eq!(script.asked.borrow().len(), calls);

    script.answer(200, &json!({ "result": ["0", "900", "", "=2:900:i"] }));
    let local = LocalSet::new();
    let holder = local.run_until(claim_of(&gate, &errand, "holder-2")).await;
    assert_eq!((holder.status, body(&holder)["slot"].as_u64()), (200, Some(2)));
}

#[test]
fn bad_requests_cost_no_call_and_say_what_would_be_right() {
    let script = Script::default();
    let gate = gate(&script);
    let big = (BODY_LIMIT_BYTES + 1).to_string();
    let long = "x".repeat(129);
    for (method, path, headers, status, says) in [
        ("POST", "/v1/campaigns/spring/claims", vec![], 401, "X-User-Id"),
        ("POST", "/v1/campaigns/spring/claims", vec![("x-user-id", long.as_str())], 400, "128 bytes"),
        ("POST", "/v1/campaigns/spring/claims", vec![("x-user-id", " a")], 400, "white space"),
        ("POST", "/v1/campaigns/Spring!/claims", vec![("x-user-id", "u")], 400, "a-z"),
        ("GET", "/v1/campaigns/spring/claims", vec![], 405, "POST"),
        ("POST", "/v1/campaigns/spring/claims", vec![("content-length", big.as_str())], 413, "4096"),
        ("GET", "/v1/nothing", vec![], 404, "nothing"),
    ] {
        let Step::Answer(reply) = begin(&gate, method, path, &headers, 0) else { panic!("{path} made a call") };
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.body.contains(says), "{} does not say {says}", reply.body);
    }
    assert!(script.asked.borrow().is_empty());
}

#[test]
fn traceparent_is_taken_over_only_if_it_is_one() {
    let gate = gate(&Script::default());
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (given, taken) in [(good, Some(good)), ("nonsense", None)] {
        let headers = [("x-user-id", "u1"), ("traceparent", given)];
        match begin(&gate, "POST", "/v1/campaigns/spring/claims", &headers, 0) {
            Step::Call(Call::Claim { trace, .. }) => assert_eq!(trace.as_deref(), taken),
            other => panic!("{other:?}"),
        }
    }
}
