//! The contract of the Kafka REST gateway over real HTTP. The broker is librdkafka's own mock: it
//! speaks the protocol and fails on demand. A real Kafka is behind it in the end-to-end tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // helpers of tests are tests

mod common;

use common::{Gateway, TOKEN, answer};
use dropgate_local::gateway::kafka_rest::{self, ProducerSettings, Upstream};
use dropgate_local::gateway::{GatewayError, Token};
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const JSON: &str = "application/vnd.kafka.json.v2+json";
const BINARY: &str = "application/vnd.kafka.binary.v2+json";
const TOPIC: &str = "coupon_create";
const PARTITIONS: i32 = 3;
const WAIT: Duration = Duration::from_secs(10);

struct Bench {
    cluster: MockCluster<'static, DefaultProducerContext>,
    gateway: Gateway,
}

async fn bench() -> Bench {
    bench_with(10_000, 1_000_000).await
}

async fn bench_with(message_timeout_ms: u32, body_limit_bytes: usize) -> Bench {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let settings = ProducerSettings { message_timeout_ms, ..ProducerSettings::new(&cluster.bootstrap_servers()) };
    let upstream = Upstream::connect(settings, WAIT).await.unwrap();
    let router = kafka_rest::router(upstream, Token::new(TOKEN).unwrap(), body_limit_bytes);
    Bench { cluster, gateway: Gateway::serve(router).await }
}

impl Bench {
    async fn produce(&self, topic: &str, content_type: &str, body: impl Into<String>) -> (u16, Value) {
        let path = format!("/topics/{topic}");
        let request = self.gateway.request(Method::POST, &path).header("content-type", content_type);
        answer(request.body(body.into())).await
    }

    /// Everything in a partition, oldest first, up to `count` records.
    async fn records(&self, partition: i32, count: usize) -> Vec<(Option<String>, Option<String>)> {
        let bootstrap = self.cluster.bootstrap_servers();
        tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", "reader").create().unwrap();
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
            consumer.assign(&assignment).unwrap();
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            (0..count)
                .map(|_| consumer.poll(WAIT).expect("a record in time").unwrap().detach())
                .map(|message| (text(message.key()), text(message.payload())))
                .collect()
        })
        .await
        .unwrap()
    }
}

fn delivered(partition: i32, offset: i64) -> Value {
    json!({"partition": partition, "offset": offset, "error_code": null, "error": null})
}

#[tokio::test]
async fn json_records_arrive_as_compact_json_and_are_answered_in_order() {
    let bench = bench().await;
    let body = r#"{"records":[
        {"key": "c/u1", "value": {"v" : 1, "user":"u 1", "n": 1.10}, "partition": 1},
        {"key": null, "value": null, "partition": 1},
        {"value": "x", "partition": 0},
        {"key": {"k": 1}, "value": 0, "partition": 1}
    ]}"#;
    let (status, produced) = bench.produce(TOPIC, JSON, body).await;
    let offsets = json!([delivered(1, 0), delivered(1, 1), delivered(0, 0), delivered(1, 2)]);
    assert_eq!(status, 200, "{produced}");
    assert_eq!(produced, json!({"offsets": offsets, "key_schema_id": null, "value_schema_id": null}));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        bench.records(1, 3).await,
        [(some(r#""c/u1""#), some(r#"{"v":1,"user":"u 1","n":1.10}"#)), (None, None), (some(r#"{"k":1}"#), some("0")),]
    );
    assert_eq!(bench.records(0, 1).await, [(None, some(r#""x""#))]);
}

#[tokio::test]
async fn binary_records_arrive_as_their_bytes() {
    let bench = bench().await;
    let body = r#"{"records":[{"key":"Yy91MQ==","value":"aGVsbG8=","partition":2},{"value":"","partition":2}]}"#;
    let (status, produced) = bench.produce(TOPIC, BINARY, body).await;
    assert_eq!((status, &produced["offsets"]), (200, &json!([delivered(2, 0), delivered(2, 1)])));
    let first = bench.records(2, 1).await;
    assert_eq!(first, [(Some("c/u1".to_owned()), Some("hello".to_owned()))]);
}

/// Java's murmur2 of the key decides the partition; the expected ones were computed by Kafka's own
/// `Utils.toPositive(Utils.murmur2(key)) % 3`.
#[tokio::test]
async fn keys_go_where_a_java_producer_sends_them() {
    let bench = bench().await;
    // Kafka's own test vectors of murmur2: "21" -> -973932308, "foobar" -> -790332482.
    for (key, murmur2) in [("21", -973_932_308_i32), ("foobar", -790_332_482)] {
        let encoded = base64_of(key);
        let body = json!({"records": [{"key": encoded, "value": "AA=="}]}).to_string();
        let (_, produced) = bench.produce(TOPIC, BINARY, body).await;
        let expected = (murmur2 & 0x7fff_ffff) % PARTITIONS;
        assert_eq!(produced["offsets"][0]["partition"], json!(expected), "{key}: {produced}");
    }
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn hundreds_of_records_are_sent_together() {
    let bench = bench().await;
    // A batch costs a few round trips: awaited one by one, 500 of them would take 25 s.
    bench.cluster.broker_round_trip_time(-1, Duration::from_millis(50)).unwrap();
    let records: Vec<Value> = (0..500).map(|i| json!({"key": i, "value": {"i": i}, "partition": 0})).collect();
    let asked = std::time::Instant::now();
    let (status, produced) = bench.produce(TOPIC, JSON, json!({ "records": records }).to_string()).await;
    assert_eq!(status, 200);
    let expected: Vec<Value> = (0..500).map(|offset| delivered(0, offset)).collect();
    assert_eq!(produced["offsets"], json!(expected));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_topic_or_partition_that_does_not_exist_is_refused_and_not_created() {
    let bench = bench().await;
    let record = r#"{"records":[{"value":1}]}"#;
    for topic in ["nosuch", "no%20such", "..%2f", "a%00b"] {
        let (status, body) = bench.produce(topic, JSON, record).await;
        assert_eq!((status, &body["error_code"]), (404, &json!(40401)), "{topic}: {body}");
        assert!(body["message"].as_str().unwrap().contains("does not exist"), "{body}");
    }
    assert_eq!(bench.gateway.get("/topics").await, (200, json!([TOPIC])));
    let body = r#"{"records":[{"value":1,"partition":0},{"value":1,"partition":3}]}"#;
    let (status, body) = bench.produce(TOPIC, JSON, body).await;
    assert_eq!((status, &body["error_code"]), (404, &json!(40402)), "{body}");
    // Nothing of the refused request was sent: the next record is the partition's first.
    let (_, produced) = bench.produce(TOPIC, JSON, r#"{"records":[{"value":1,"partition":0}]}"#).await;
    assert_eq!(produced["offsets"], json!([delivered(0, 0)]));
}

#[tokio::test]
async fn requests_that_are_none_are_told_why() {
    let bench = bench_with(10_000, 2000).await;
    for (content_type, body, status, code) in [
        (JSON, "{", 422, 42203),
        (JSON, "", 422, 42203),
        (JSON, r#"{"records":[]}"#, 422, 422),
        (JSON, "{}", 422, 422),
        (JSON, r#"{"records":[{"value":1,"headers":{}}]}"#, 422, 422),
        (JSON, r#"{"records":[{"value":1,"partition":-1}]}"#, 422, 422),
        (BINARY, r#"{"records":[{"value":"not base64!"}]}"#, 422, 422),
        (BINARY, r#"{"records":[{"value":{"a":1}}]}"#, 422, 422),
        ("application/json", r#"{"records":[{"value":1}]}"#, 415, 415),
        ("application/vnd.kafka.avro.v2+json", r#"{"records":[{"value":1}]}"#, 415, 415),
    ] {
        let (got, answer) = bench.produce(TOPIC, content_type, body).await;
        assert_eq!((got, &answer["error_code"]), (status, &json!(code)), "{content_type} {body}: {answer}");
        assert!(!answer["message"].as_str().unwrap().is_empty(), "{answer}");
    }
    let large = json!({"records": [{"value": "x".repeat(2000)}]}).to_string();
    let (status, body) = bench.produce(TOPIC, JSON, large).await;
    assert_eq!((status, &body["error_code"]), (413, &json!(413)), "{body}");
    let (status, body) = bench.gateway.get(&format!("/topics/{TOPIC}")).await;
    assert_eq!((status, &body["error_code"]), (405, &json!(405)));
    assert_eq!(bench.gateway.get("/nowhere").await.0, 404);
    let (status, _) = bench.produce(TOPIC, &format!("{JSON}; charset=utf-8"), r#"{"records":[{"value":1}]}"#).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn only_the_token_opens_the_door() {
    let bench = bench().await;
    let path = format!("/topics/{TOPIC}");
    let record = r#"{"records":[{"value":1,"partition":0}]}"#;
    let request = || bench.gateway.bare(Method::POST, &path).header("content-type", JSON).body(record);
    for refused in [
        request(),
        request().bearer_auth("wrong"),
        request().bearer_auth(""),
        request().basic_auth("user", Some("wrong")),
        request().basic_auth(TOKEN, None::<&str>),
        request().header("authorization", "Basic %%%"),
        bench.gateway.bare(Method::GET, "/topics"),
        bench.gateway.bare(Method::GET, "/nowhere"),
    ] {
        let (status, body) = answer(refused).await;
        assert_eq!((status, &body["error_code"]), (401, &json!(40101)), "{body}");
    }
    let challenge = request().send().await.unwrap();
    assert!(challenge.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    assert_eq!(challenge.headers()["content-type"], "application/vnd.kafka.v2+json");
    for (offset, allowed) in
        [request().bearer_auth(TOKEN), request().basic_auth("anyone", Some(TOKEN))].into_iter().enumerate()
    {
        let (status, produced) = answer(allowed).await;
        // The refused ones left no record behind.
        let expected = json!([delivered(0, i64::try_from(offset).unwrap())]);
        assert_eq!((status, &produced["offsets"]), (200, &expected));
    }
    assert_eq!(answer(bench.gateway.bare(Method::GET, "/healthz")).await.0, 200);
}

#[tokio::test]
async fn a_record_that_fails_has_confluents_code_and_the_others_their_offset() {
    let bench = bench().await;
    // One record above librdkafka's message.max.bytes (1,000,000) cannot ever be sent.
    let upstream = Upstream::connect(ProducerSettings::new(&bench.cluster.bootstrap_servers()), WAIT).await.unwrap();
    let gateway = Gateway::serve(kafka_rest::router(upstream, Token::new(TOKEN).unwrap(), 4_000_000)).await;
    let body = json!({"records": [
        {"value": 1, "partition": 0},
        {"value": "x".repeat(1_100_000), "partition": 0},
        {"value": 2, "partition": 0}
    ]});
    let request = gateway.request(Method::POST, &format!("/topics/{TOPIC}")).header("content-type", JSON);
    let (status, produced) = answer(request.body(body.to_string())).await;
    assert_eq!(status, 200);
    let offsets = produced["offsets"].as_array().unwrap();
    assert_eq!((&offsets[0], &offsets[2]), (&delivered(0, 0), &delivered(0, 1)));
    let failed = &offsets[1];
    assert_eq!((&failed["error_code"], &failed["offset"]), (&json!(50002), &Value::Null), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("too large"), "{failed}");
}

#[tokio::test]
async fn records_that_no_broker_acknowledges_in_time_are_retriable_and_health_says_so() {
    let bench = bench_with(1500, 1_000_000).await;
    let record = r#"{"records":[{"value":1,"partition":0},{"value":2,"partition":0}]}"#;
    assert_eq!(bench.produce(TOPIC, JSON, record).await.0, 200);
    bench.cluster.broker_down(1).unwrap();
    let (status, produced) = bench.produce(TOPIC, JSON, record).await;
    assert_eq!(status, 200, "{produced}");
    let codes: Vec<&Value> = produced["offsets"].as_array().unwrap().iter().map(|o| &o["error_code"]).collect();
    assert_eq!(codes, [&json!(50003), &json!(50003)], "{produced}");
    let (status, _) = answer(bench.gateway.bare(Method::GET, "/healthz")).await;
    assert_eq!(status, 503);
    bench.cluster.broker_up(1).unwrap();
    common::until("the gateway is ready again", || async {
        (answer(bench.gateway.bare(Method::GET, "/healthz")).await.0 == 200).then_some(())
    })
    .await;
    let (status, produced) = bench.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"][0]["error"]), (200, &Value::Null), "{produced}");
}

/// Whoever may not write is told by the status, as Confluent's proxy does.
#[tokio::test]
async fn a_topic_that_may_not_be_written_is_forbidden() {
    let bench = bench().await;
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &[denied]);
    let (status, produced) = bench.produce(TOPIC, JSON, r#"{"records":[{"value":1,"partition":0}]}"#).await;
    assert_eq!((status, &produced["offsets"][0]["error_code"]), (403, &json!(40301)), "{produced}");
}

/// An idempotent producer that lost its sequence is dead for good; the gateway is not.
#[tokio::test]
async fn a_producer_that_failed_for_good_is_replaced() {
    let bench = bench().await;
    let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    bench.cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
    let record = r#"{"records":[{"value":1,"partition":0}]}"#;
    let (status, produced) = bench.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"][0]["error_code"]), (200, &json!(50003)), "{produced}");
    let (status, produced) = bench.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"]), (200, &json!([delivered(0, 0)])), "{produced}");
}

#[tokio::test]
async fn a_kafka_that_is_not_there_is_named_with_the_remedy() {
    let bootstrap = format!("127.0.0.1:{}", common::free_port());
    let error = Upstream::connect(ProducerSettings::new(&bootstrap), Duration::from_secs(1)).await.err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, GatewayError::Unreachable { .. }), "{message}");
    assert!(message.contains("KAFKA_BOOTSTRAP") && message.contains(&bootstrap), "{message}");
}
