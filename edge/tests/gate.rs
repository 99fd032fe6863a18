//! The gate over a scripted network: what visitors hear when upstreams misbehave. The real servers'
//! turn comes in the end-to-end tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_edge::gate::{BODY_LIMIT_BYTES, Call, Finished, Gate, Step, Visit};
use dropgate_edge::reply::Reply;
use dropgate_edge::settings::Settings;
use dropgate_shared::http::{Http, HttpReply, HttpRequest, SendFault};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Answers in a given order, and remembers what was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Rc<RefCell<VecDeque<Result<HttpReply, SendFault>>>>,
    asked: Rc<RefCell<Vec<(String, Value)>>>,
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
        self.answers.borrow_mut().pop_front().expect("the test has scripted every call")
    }
}

/// The scripted network never waits, so a future is finished at its first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the scripted network never waits"),
    }
}

fn gate(script: &Script) -> Gate<Script> {
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
    Gate::new(settings.unwrap(), script.clone())
}

fn begin(gate: &Gate<Script>, method: &str, path: &str, headers: &[(&str, &str)]) -> Step {
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    gate.begin(&Visit { method, path, header: &header })
}

fn claim(gate: &Gate<Script>) -> Finished {
    match begin(gate, "POST", "/v1/campaigns/spring/claims", &[("x-user-id", "u1")]) {
        Step::Call(call) => now(gate.finish(call)),
        Step::Answer(reply) => panic!("{reply:?}"),
    }
}

/// A claim to which Redis answers like this.
fn answered(script: &Script, gate: &Gate<Script>, status: u16, body: &Value) -> Finished {
    script.answer(status, body);
    claim(gate)
}

fn admitted(answer: &str) -> Value {
    json!({ "result": ["open", "100", "1", "0", "0", "900", answer] })
}

fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
}

#[test]
fn an_admission_is_one_call_and_leaves_a_record_to_forward() {
    let script = Script::default();
    let gate = gate(&script);
    let done = answered(&script, &gate, 200, &admitted("+1:900:a"));
    assert_eq!(done.reply.status, 202);
    let record = done.forward.unwrap();
    assert_eq!((record.slot.get(), record.admitted_at, record.user.as_str()), (1, 900, "u1"));
    let asked = script.asked.borrow();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1[0], "EVALSHA");
}

/// I5
#[test]
fn a_repeated_claim_answers_the_same_and_forwards_nothing() {
    let script = Script::default();
    let gate = gate(&script);
    let first = answered(&script, &gate, 200, &admitted("+7:900:a"));
    let again = answered(&script, &gate, 200, &admitted("=7:900:a"));
    assert_eq!((first.reply.status, again.reply.status), (202, 200));
    assert_eq!(body(&first.reply), body(&again.reply));
    assert_eq!(again.forward, None);
}

/// I8: silence, garbage, an error page and damaged data are all answered alike.
#[test]
fn an_unknown_outcome_is_never_told_as_a_refusal() {
    let garbled = admitted("+0:0:?");
    let damaged = json!({ "error": "DROPGATE campaign meta is damaged: publish the campaign again" });
    for prepare in [
        &|s: &Script| drop(s.silence()),
        &|s: &Script| drop(s.answer(200, &json!("garbage"))),
        &|s: &Script| drop(s.answer(200, &garbled)),
        &|s: &Script| drop(s.answer(502, &json!("bad gateway"))),
        &|s: &Script| drop(s.answer(401, &json!({ "error": "WRONGPASS" }))),
        &|s: &Script| drop(s.answer(400, &damaged)),
    ] as [&dyn Fn(&Script); 6]
    {
        let script = Script::default();
        let gate = gate(&script);
        prepare(&script);
        let done = claim(&gate);
        assert_eq!(done.reply.status, 503);
        assert_eq!(header(&done.reply, "retry-after"), Some("1"));
        assert_eq!(body(&done.reply)["type"], "urn:dropgate:problem:unavailable");
        assert!(done.fault.is_some() && done.forward.is_none());
    }
}

#[test]
fn a_script_that_redis_does_not_hold_is_sent_whole() {
    let script = Script::default();
    let gate = gate(&script);
    script.answer(400, &json!({ "error": "NOSCRIPT No matching script. Please use EVAL." }));
    let done = answered(&script, &gate, 200, &admitted("+1:900:a"));
    assert_eq!(done.reply.status, 202);
    let asked = script.asked.borrow();
    assert_eq!((asked[0].1[0].as_str(), asked[1].1[0].as_str()), (Some("EVALSHA"), Some("EVAL")));
    assert_eq!(asked[0].1.as_array().unwrap()[2..], asked[1].1.as_array().unwrap()[2..]);
}

#[test]
fn a_campaign_that_was_seen_alive_does_not_become_unknown() {
    let script = Script::default();
    let gate = gate(&script);
    let gone = json!({ "result": null });
    assert_eq!(answered(&script, &gate, 200, &gone).reply.status, 404);
    assert_eq!(answered(&script, &gate, 200, &admitted("full")).reply.status, 410);
    let lost = answered(&script, &gate, 200, &gone).reply;
    assert_eq!((lost.status, header(&lost, "retry-after")), (503, Some("1")));
}

#[test]
fn every_decision_has_its_answer() {
    for (answer, status, kind) in
        [("full", 410, "sold-out"), ("late", 410, "closed"), ("early", 403, "not-open"), ("paused", 503, "paused")]
    {
        let script = Script::default();
        let gate = gate(&script);
        let reply = answered(&script, &gate, 200, &admitted(answer)).reply;
        assert_eq!(reply.status, status);
        assert_eq!(body(&reply)["type"], format!("urn:dropgate:problem:{kind}"));
    }
}

#[test]
fn a_refused_claim_shows_no_code() {
    let script = Script::default();
    let gate = gate(&script);
    let reply = answered(&script, &gate, 200, &admitted("=3:900:r")).reply;
    assert_eq!((body(&reply)["status"].as_str(), body(&reply)["code"].as_str()), (Some("refused"), None));
}

/// Produce acknowledged moves the lease; produce failed leaves it, and the sweeper comes back.
#[test]
fn only_an_acknowledged_forward_moves_the_lease() {
    let script = Script::default();
    let gate = gate(&script);
    let record = answered(&script, &gate, 200, &admitted("+1:900:a")).forward.unwrap();

    script.answer(200, &json!({ "offsets": [{ "error_code": 50003, "error": "retriable" }] }));
    assert_eq!(now(gate.after(record.clone(), 0)).unwrap_err().label, "record_failed");
    assert_eq!(script.asked.borrow().len(), 2);

    script.answer(200, &json!({ "offsets": [{ "partition": 0, "offset": 1 }] }));
    script.answer(200, &json!({ "result": "900" }));
    now(gate.after(record, 0)).unwrap();
    let asked = script.asked.borrow();
    assert_eq!(asked[2].0, "http://kafka/topics/coupon_create");
    assert_eq!(asked[3].1.as_array().unwrap()[3..], [json!("dg:{spring}:outbox"), json!("60000"), json!("u1")]);
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
        let Step::Answer(reply) = begin(&gate, method, path, &headers) else { panic!("{path} made a call") };
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
        match begin(&gate, "POST", "/v1/campaigns/spring/claims", &headers) {
            Step::Call(Call::Claim { trace, .. }) => assert_eq!(trace.as_deref(), taken),
            other => panic!("{other:?}"),
        }
    }
}
