//! The issuer's service and the gate's Kafka REST client on the Kafka model.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_edge::upstream::kafka_rest;
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::budget::WriteBudget;
use dropgate_issuer::consume::ports::Admission;
use dropgate_issuer::consume::ports::{ClaimOutcome, Confirmation, Confirmations, CouponStore};
use dropgate_issuer::consume::service::{Limits, Service, Step};
use dropgate_issuer::consume::traces::Traces;
use dropgate_issuer::health::Health;
use dropgate_issuer::metrics::Metrics;
use dropgate_shared::fault::{Effect, Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::record::AdmissionRecord;
use dropgate_simulator::kafka::dead_letters::{LetterFault, SimDeadLetters, replay};
use dropgate_simulator::kafka::rest::{Dialect, RecordEffect, RestFault, SimKafkaRest};
use dropgate_simulator::kafka::{
    AdapterRules, Availability, BrokerSettings, Kafka, MemberHandle, MemberSettings, NewRecord, SimRecordSource,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, sleep};

const GROUP: &str = "issuers";
const DIALECTS: [Dialect; 4] = [Dialect::Confluent, Dialect::Redpanda, Dialect::Strimzi, Dialect::Karapace];

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn kafka() -> Kafka {
    let settings = BrokerSettings { initial_rebalance_delay: Duration::ZERO, ..BrokerSettings::default() };
    let kafka = Kafka::start(settings);
    assert!(kafka.create_topic(TOPIC, 3));
    assert!(kafka.create_topic(DEAD_LETTER_TOPIC, 1));
    kafka
}

fn claim(n: u32) -> AdmissionRecord {
    let (campaign, user) = (CampaignId::parse("c").unwrap(), UserId::parse(&format!("u{n}")).unwrap());
    AdmissionRecord { campaign, user, slot: Slot::new(n).unwrap(), admitted_at: 5, trace: None, code_key: None }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Default)]
struct Rows {
    users: Rc<RefCell<BTreeSet<String>>>,
    written: Rc<Cell<usize>>,
    away: Rc<Cell<bool>>,
    asked: Rc<Cell<usize>>,
}

impl CouponStore for Rows {
    async fn persist(&self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, Fault> {
        self.asked.set(self.asked.get() + 1);
        if self.away.get() {
            return Err(Fault::unknown(Source::MySql, "unreachable", "away"));
        }
        self.written.set(self.written.get() + admissions.len());
        let outcome = |admission: &&Admission| {
            let slot = admission.record.slot;
            let new = self.users.borrow_mut().insert(admission.record.user.as_str().to_owned());
            if new { ClaimOutcome::Issued { slot } } else { ClaimOutcome::Already { slot } }
        };
        Ok(admissions.iter().map(outcome).collect())
    }
}

struct Discarded;

impl Confirmations for Discarded {
    fn offer(&self, _settled: Vec<Confirmation>) {}
}

/// An issuer's process.
struct Issuer {
    handle: MemberHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Issuer {
    fn start(kafka: &Kafka, rows: &Rows, fails: impl FnMut() -> Option<LetterFault> + 'static) -> Self {
        let settings = MemberSettings {
            session_timeout: Duration::from_secs(2),
            heartbeat_interval: Duration::from_millis(200),
            auto_commit_interval: Duration::from_millis(100),
            // Without it a partition that is revoked while paused and assigned after the resume is never read again.
            adapter: AdapterRules { resume_on_assign: true, ..AdapterRules::default() },
            ..MemberSettings::new(GROUP)
        };
        let source = SimRecordSource::join(kafka, TOPIC, 3, settings);
        let handle = source.handle();
        let letters = SimDeadLetters::new(kafka, TOPIC, DEAD_LETTER_TOPIC);
        letters.fail(fails);
        let metrics = Arc::new(Metrics::default());
        let pace = Limits {
            batch_records: 7,
            linger: Duration::from_millis(5),
            budget: WriteBudget::Unlimited,
            dead_letter_limit: 100,
        };
        let (stop, stopped) = watch::channel(false);
        let shown = (Arc::new(Health::new(Arc::clone(&metrics))), metrics, Traces::default());
        let mut service =
            Service::new((source, rows.clone(), letters, Discarded), pace, shown, Jitter::new(|| 0), stopped);
        let task = tokio::task::spawn_local(async move {
            while service.step().await.unwrap() == Step::Again {}
            service.into_ports().0.leave().await;
        });
        Self { handle, stop, task }
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

async fn produce(kafka: &Kafka, claims: std::ops::RangeInclusive<u32>) {
    let rest = SimKafkaRest::new(kafka, Dialect::Confluent);
    let gate = kafka_rest::KafkaRest::new(rest, kafka_rest::Dialect::V2, "http://kafka", TOPIC, None, 5_000);
    gate.produce(&claims.map(claim).collect::<Vec<_>>()).await.unwrap();
}

#[test]
fn i7_the_issuer_settles_what_the_gate_sends_and_commits_it() {
    run(async {
        let (kafka, rows) = (kafka(), Rows::default());
        let issuer = Issuer::start(&kafka, &rows, || None);
        produce(&kafka, 1..=60).await;
        until("all are rows", || rows.users.borrow().len() == 60).await;
        issuer.end().await;
        assert_eq!(kafka.lag(GROUP, TOPIC), Ok(0));
        assert_eq!((rows.written.get(), kafka.members(GROUP)), (60, 0));
    });
}

#[test]
fn i9_a_database_a_broker_and_a_process_that_fail_lose_no_claim() {
    run(async {
        let (kafka, rows) = (kafka(), Rows::default());
        let a = Issuer::start(&kafka, &rows, || None);
        let b = Issuer::start(&kafka, &rows, || None);
        produce(&kafka, 1..=30).await;
        until("all are rows", || rows.users.borrow().len() == 30).await;
        rows.away.set(true);
        let asked = rows.asked.get();
        produce(&kafka, 31..=60).await;
        until("they wait for the database", || rows.asked.get() > asked + 1).await;
        kafka.set_availability(Availability::Hangs);
        until("both give up", || a.handle.assignment().is_empty() && b.handle.assignment().is_empty()).await;
        kafka.set_availability(Availability::Up);
        a.handle.kill();
        a.task.abort();
        rows.away.set(false);
        until("all are rows", || rows.users.borrow().len() == 60).await;
        b.end().await;
        assert_eq!(kafka.lag(GROUP, TOPIC), Ok(0));
    });
}

#[test]
fn a_bad_record_becomes_one_dead_letter_or_more_and_can_be_replayed() {
    run(async {
        let (kafka, rows) = (kafka(), Rows::default());
        let mut faults = vec![LetterFault::Unacknowledged, LetterFault::Lost];
        let issuer = Issuer::start(&kafka, &rows, move || faults.pop());
        let record = NewRecord { key: Some(b"c/u9".to_vec()), value: b"{".to_vec(), ..NewRecord::default() };
        let place = kafka.produce(TOPIC, record).unwrap();
        until("it is settled", || kafka.committed(GROUP, TOPIC).get(&place.0) == Some(&(place.1 + 1))).await;
        issuer.end().await;
        let letters = kafka.records(DEAD_LETTER_TOPIC);
        assert_eq!(letters.len(), 2, "one of them was not acknowledged");
        let letter = &letters[0].1;
        let header = |name| letter.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(header("dropgate.cause").as_deref(), Some("malformed"));
        assert_eq!(header("dropgate.offset"), Some(place.1.to_string()));
        assert_eq!((letter.key.as_deref(), letter.value.as_slice()), (Some(&b"c/u9"[..]), &b"{"[..]));
        let again = replay(&kafka, letter).await.unwrap().unwrap();
        assert_eq!(again, (place.0, place.1 + 1), "the same key, the same partition");
        assert!(kafka.records(TOPIC).iter().any(|(_, record)| record.header("dropgate.replayed").is_some()));
        assert_eq!(kafka.faults().borrow().len(), 2);
    });
}

type FaultOf = fn() -> Option<RestFault>;

#[test]
fn i8_the_gate_takes_for_delivered_only_what_every_dialect_acknowledges() {
    let some = || Some(RestFault::Records(vec![RecordEffect::Produced, RecordEffect::Failed]));
    let though = || Some(RestFault::Records(vec![RecordEffect::ProducedButFailed; 3]));
    let whole = || Some(RestFault::WholeCall(vec![RecordEffect::Produced, RecordEffect::Failed]));
    let cases: [(FaultOf, _, _); 7] = [
        (|| None, Ok(&()), 3),
        (some, Err("record_failed"), 2),
        (though, Err("record_failed"), 3),
        (whole, Err("status"), 2),
        (|| Some(RestFault::Silent), Err("timeout"), 3),
        (|| Some(RestFault::Overloaded), Err("status"), 0),
        (|| Some(RestFault::Refused), Err("connect"), 0),
    ];
    for dialect in DIALECTS {
        for (fault, expected, in_kafka) in cases {
            run(async {
                let kafka = kafka();
                let rest = SimKafkaRest::new(&kafka, dialect);
                rest.fail(move |_| fault());
                let url = "http://kafka-rest:8082";
                let gate = kafka_rest::KafkaRest::new(rest, kafka_rest::Dialect::V2, url, TOPIC, None, 5_000);
                let result = gate.produce(&[claim(1), claim(2), claim(3)]).await;
                let label = result.as_ref().map_err(|fault| fault.label);
                // Karapace says 422 where a record failed.
                let expected = match (dialect, expected) {
                    (Dialect::Karapace, Err("record_failed")) => Err("status"),
                    (_, expected) => expected,
                };
                assert_eq!(label, expected, "{dialect:?} {:?}", fault());
                assert_eq!(kafka.records(TOPIC).len(), in_kafka, "{dialect:?} {:?}", fault());
                assert_eq!(kafka.faults().borrow().len(), usize::from(fault().is_some()));
                let effect = result.err().map(|fault| fault.effect);
                assert_eq!(effect == Some(Effect::None), fault() == Some(RestFault::Refused));
            });
        }
    }
}

#[test]
fn answers_have_the_form_of_each_proxy() {
    let expected = [
        (
            Dialect::Confluent,
            200,
            r#"{"key_schema_id":null,"offsets":[{"error":null,"error_code":null,"offset":0,"partition":0},{"error":"Kafka error, may retry.","error_code":50003,"offset":null,"partition":null}],"value_schema_id":null}"#,
        ),
        (
            Dialect::Redpanda,
            200,
            r#"{"offsets":[{"offset":0,"partition":0},{"error_code":7,"offset":-1,"partition":1}]}"#,
        ),
        (
            Dialect::Strimzi,
            200,
            r#"{"offsets":[{"offset":0,"partition":0},{"error_code":500,"message":"Kafka error"}]}"#,
        ),
        (
            Dialect::Karapace,
            422,
            r#"{"key_schema_id":null,"offsets":[{"offset":0,"partition":0},{"error":"timed out","error_code":1}],"value_schema_id":null}"#,
        ),
    ];
    for (dialect, status, body) in expected {
        run(async {
            let kafka = kafka();
            let rest = SimKafkaRest::new(&kafka, dialect);
            rest.fail(|_| Some(RestFault::Records(vec![RecordEffect::Produced, RecordEffect::Failed])));
            let call = r#"{"records":[{"partition":0,"value":"YQ=="},{"partition":1,"value":"Yg=="}]}"#;
            let content_type = "application/vnd.kafka.binary.v2+json";
            let reply = rest.serve(&format!("/topics/{TOPIC}"), content_type, call.as_bytes()).await.unwrap();
            let dropgate_simulator::kafka::rest::RestReply::Answer { status: got, body: text } = reply else {
                panic!("no answer");
            };
            assert_eq!((got, String::from_utf8(text).unwrap().as_str()), (status, body), "{dialect:?}");
            assert_eq!(kafka.records(TOPIC)[0].1.value, b"a");
        });
    }
}

#[test]
fn a_caller_that_gives_up_has_produced_all_the_same() {
    run(async {
        let kafka = kafka();
        kafka.set_latency(|| Duration::from_millis(400));
        let rest = SimKafkaRest::new(&kafka, Dialect::Strimzi);
        let gate = kafka_rest::KafkaRest::new(rest, kafka_rest::Dialect::V2, "http://k", TOPIC, None, 500);
        let fault = gate.produce(&[claim(1)]).await.unwrap_err();
        assert_eq!((fault.label, fault.effect), ("timeout", Effect::Unknown));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(kafka.records(TOPIC).len(), 1);
    });
}
