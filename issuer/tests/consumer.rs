//! The consumer against librdkafka's in-process broker: what a group member commits, and what not.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::budget::WriteBudget;
use dropgate_issuer::consume::ports::{
    Admission, ClaimOutcome, Confirmation, Confirmations, CouponStore, DeadLetters, Delivery, RejectReason,
};
use dropgate_issuer::consume::service::{Limits, Service, Step};
use dropgate_issuer::consume::traces::Traces;
use dropgate_issuer::health::Health;
use dropgate_issuer::kafka::consumer::KafkaSource;
use dropgate_issuer::kafka::ports::{Backlog as _, CampaignLag};
use dropgate_issuer::kafka::settings::KafkaSettings;
use dropgate_issuer::kafka::topics;
use dropgate_issuer::metrics::Metrics;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::TOPIC;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

const RECORDS: u64 = 60;
const PARTITIONS: i32 = 3;
/// Far more than any of this takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(120);

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A broker with the topic and the records in it.
async fn broker() -> (Cluster, KafkaSettings) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    let settings = KafkaSettings { bootstrap, group: "issuers".to_owned(), ..KafkaSettings::default() };
    let producer: FutureProducer = settings.client().create().unwrap();
    for n in 1..=RECORDS {
        let value = format!(r#"{{"v":1,"campaign":"c","user":"u{n}","slot":{n},"admitted_at":5}}"#);
        let record =
            FutureRecord::<str, str>::to(TOPIC).payload(&value).partition(i32::try_from(n).unwrap() % PARTITIONS);
        producer.send(record, DEADLINE).await.unwrap();
    }
    (cluster, settings)
}

/// A database: remembers who has a row, and can be away.
#[derive(Clone, Default)]
struct Rows {
    users: Arc<Mutex<HashSet<String>>>,
    written: Arc<Mutex<u64>>,
    away: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl CouponStore for Rows {
    async fn persist(&self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, Fault> {
        self.asked.store(true, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(Fault::unknown(Source::MySql, "unreachable", "away"));
        }
        let mut users = self.users.lock().unwrap();
        *self.written.lock().unwrap() += admissions.len() as u64;
        Ok(admissions
            .iter()
            .map(|admission| {
                let slot = admission.record.slot;
                if users.insert(admission.record.user.as_str().to_owned()) {
                    ClaimOutcome::Issued { slot }
                } else {
                    ClaimOutcome::Already { slot }
                }
            })
            .collect())
    }
}

struct Nothing;

impl DeadLetters for Nothing {
    async fn publish(&self, letters: &[(&Delivery, &RejectReason)]) -> Vec<Result<(), Fault>> {
        panic!("{} records became dead letters", letters.len());
    }
}

impl Confirmations for Nothing {
    fn offer(&self, _settled: Vec<Confirmation>) {}
}

/// Runs a member of the group until `done`, then stops it in order.
async fn member(settings: &KafkaSettings, rows: &Rows, done: impl AsyncFn()) {
    measured_member(settings, rows, &Arc::default(), done).await;
}

async fn measured_member(settings: &KafkaSettings, rows: &Rows, metrics: &Arc<Metrics>, done: impl AsyncFn()) {
    let (stop, stopped) = watch::channel(false);
    let metrics = Arc::clone(metrics);
    let source = KafkaSource::join(settings, TOPIC, PARTITIONS as usize, Arc::clone(&metrics)).unwrap();
    let ports = (source, rows.clone(), Nothing, Nothing);
    let (linger, budget) = (Duration::from_millis(5), WriteBudget::Unlimited);
    let limits = Limits { batch_records: 7, linger, budget, dead_letter_limit: 100 };
    let shown = (Arc::new(Health::new(Arc::clone(&metrics))), metrics, Traces::default());
    let mut service = Service::new(ports, limits, shown, Jitter::system(), stopped);
    let run = async {
        while service.step().await.unwrap() == Step::Again {}
        service.into_ports().0.leave().await;
    };
    let end = async {
        done().await;
        stop.send(true).unwrap();
    };
    tokio::time::timeout(DEADLINE, async { tokio::join!(run, end) }).await.unwrap();
}

/// Polls a condition. The time limit is the caller's.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_what_is_written_is_committed_and_not_read_again() {
    let (_cluster, settings) = broker().await;
    let rows = Rows::default();
    member(&settings, &rows, async || until(|| rows.users.lock().unwrap().len() as u64 == RECORDS).await).await;
    assert_eq!(topics::lag(&settings, TOPIC).await.unwrap(), 0);
    assert_eq!(*rows.written.lock().unwrap(), RECORDS, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_nothing_is_committed_while_the_database_is_away() {
    let (_cluster, settings) = broker().await;
    let rows = Rows::default();
    rows.away.store(true, Ordering::SeqCst);
    member(&settings, &rows, async || until(|| rows.asked.load(Ordering::SeqCst)).await).await;
    assert_eq!(topics::lag(&settings, TOPIC).await.unwrap(), RECORDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_member_that_waited_for_the_database_goes_on_where_it_was() {
    let (_cluster, settings) = broker().await;
    let rows = Rows::default();
    rows.away.store(true, Ordering::SeqCst);
    member(&settings, &rows, async || {
        until(|| rows.asked.load(Ordering::SeqCst)).await;
        rows.away.store(false, Ordering::SeqCst);
        until(|| rows.users.lock().unwrap().len() as u64 == RECORDS).await;
    })
    .await;
    assert_eq!(topics::lag(&settings, TOPIC).await.unwrap(), 0);
    assert_eq!(*rows.written.lock().unwrap(), RECORDS, "pausing and resuming repeats no record");
}

/// As after a topic was created again with lower leader epochs than the client knows: it repeats each fetch, and reports
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_a_client_that_reads_nothing_without_an_error_is_replaced() {
    let (cluster, settings) = broker().await;
    cluster.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH; 10_000]);
    let (rows, metrics) = (Rows::default(), Arc::new(Metrics::default()));
    measured_member(&settings, &rows, &metrics, async || {
        until(|| metrics.consumers_replaced.get() == 1).await;
        assert_eq!(*rows.written.lock().unwrap(), 0, "nothing arrived");
        until(|| metrics.encode().contains("stalled{reason=\"partition\"} 1\n")).await;
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        until(|| rows.users.lock().unwrap().len() as u64 == RECORDS).await;
        until(|| metrics.encode().contains("stalled{reason=\"partition\"} 0\n")).await;
    })
    .await;
    assert_eq!(topics::lag(&settings, TOPIC).await.unwrap(), 0);
    assert_eq!(*rows.written.lock().unwrap(), RECORDS, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_counted_by_campaign() {
    let (_cluster, settings) = broker().await;
    for (campaign, own, oldest_ms) in [("c", RECORDS, Some(5)), ("other", 0, None)] {
        let lag = settings.lag_of(&CampaignId::parse(campaign).unwrap()).await.unwrap();
        assert_eq!(lag, CampaignLag { all: RECORDS, own: Some(own), oldest_ms });
    }
    // It has read them, and committed nothing.
    assert_eq!(topics::lag(&settings, TOPIC).await.unwrap(), RECORDS);
}
