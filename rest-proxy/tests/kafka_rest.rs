//! The contract of the Kafka REST proxy over real HTTP. The broker is librdkafka's own mock: it implements
//! the protocol and fails on demand. The end-to-end tests use a real Kafka.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // helpers of tests are not #[test]s

mod common;

use common::{Proxy, TOKEN, response};
use dropgate_rest_proxy::kafka_rest::{self, ProducerSettings, Upstream};
use dropgate_rest_proxy::{StartError, Token};
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

struct Setup {
    cluster: MockCluster<'static, DefaultProducerContext>,
    proxy: Proxy,
}

async fn start() -> Setup {
    start_with(10_000, 1_000_000).await
}

async fn start_with(message_timeout_ms: u32, body_limit_bytes: usize) -> Setup {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
    let settings = ProducerSettings { message_timeout_ms, ..ProducerSettings::new(&cluster.bootstrap_servers()) };
    let upstream = Upstream::connect(settings, WAIT).await.unwrap();
    let router = kafka_rest::router(upstream, Token::new(TOKEN).unwrap(), body_limit_bytes);
    Setup { cluster, proxy: Proxy::serve(router).await }
}

impl Setup {
    async fn produce(&self, topic: &str, content_type: &str, body: impl Into<String>) -> (u16, Value) {
        let path = format!("/topics/{topic}");
        let request = self.proxy.request(Method::POST, &path).header("content-type", content_type);
        response(request.body(body.into())).await
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
async fn json_records_arrive_as_compact_json_and_their_results_are_in_order() {
    let setup = start().await;
    let body = r#"{"records":[
        {"key": "c/u1", "value": {"v" : 1, "user":"u 1", "n": 1.10}, "partition": 1},
        {"key": null, "value": null, "partition": 1},
        {"value": "x", "partition": 0},
        {"key": {"k": 1}, "value": 0, "partition": 1}
    ]}"#;
    let (status, produced) = setup.produce(TOPIC, JSON, body).await;
    let offsets = json!([delivered(1, 0), delivered(1, 1), delivered(0, 0), delivered(1, 2)]);
    assert_eq!(status, 200, "{produced}");
    assert_eq!(produced, json!({"offsets": offsets, "key_schema_id": null, "value_schema_id": null}));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        setup.records(1, 3).await,
        [(some(r#""c/u1""#), some(r#"{"v":1,"user":"u 1","n":1.10}"#)), (None, None), (some(r#"{"k":1}"#), some("0")),]
    );
    assert_eq!(setup.records(0, 1).await, [(None, some(r#""x""#))]);
}

#[tokio::test]
async fn binary_records_arrive_as_their_bytes() {
    let setup = start().await;
    let body = r#"{"records":[{"key":"Yy91MQ==","value":"aGVsbG8=","partition":2},{"value":"","partition":2}]}"#;
    let (status, produced) = setup.produce(TOPIC, BINARY, body).await;
    assert_eq!((status, &produced["offsets"]), (200, &json!([delivered(2, 0), delivered(2, 1)])));
    let first = setup.records(2, 1).await;
    assert_eq!(first, [(Some("c/u1".to_owned()), Some("hello".to_owned()))]);
}

/// Java's murmur2 of the key decides the partition; the expected ones were computed by Kafka's own
/// `Utils.toPositive(Utils.murmur2(key)) % 3`.
#[tokio::test]
async fn keys_go_to_the_partitions_of_a_java_producer() {
    let setup = start().await;
    // Kafka's own test vectors of murmur2: "21" -> -973932308, "foobar" -> -790332482.
    for (key, murmur2) in [("21", -973_932_308_i32), ("foobar", -790_332_482)] {
        let encoded = data_encoding::BASE64.encode(key.as_bytes());
        let body = json!({"records": [{"key": encoded, "value": "AA=="}]}).to_string();
        let (_, produced) = setup.produce(TOPIC, BINARY, body).await;
        let expected = (murmur2 & 0x7fff_ffff) % PARTITIONS;
        assert_eq!(produced["offsets"][0]["partition"], json!(expected), "{key}: {produced}");
    }
}

#[tokio::test]
async fn hundreds_of_records_are_sent_together() {
    let setup = start().await;
    // A batch costs a few round trips: awaited one by one, 500 of them would take 25 s.
    setup.cluster.broker_round_trip_time(-1, Duration::from_millis(50)).unwrap();
    let records: Vec<Value> = (0..500).map(|i| json!({"key": i, "value": {"i": i}, "partition": 0})).collect();
    let asked = std::time::Instant::now();
    let (status, produced) = setup.produce(TOPIC, JSON, json!({ "records": records }).to_string()).await;
    assert_eq!(status, 200);
    let expected: Vec<Value> = (0..500).map(|offset| delivered(0, offset)).collect();
    assert_eq!(produced["offsets"], json!(expected));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_topic_or_partition_that_does_not_exist_is_rejected_and_not_created() {
    let setup = start().await;
    let record = r#"{"records":[{"value":1}]}"#;
    for topic in ["nosuch", "no%20such", "..%2f", "a%00b"] {
        let (status, body) = setup.produce(topic, JSON, record).await;
        assert_eq!((status, &body["error_code"]), (404, &json!(40401)), "{topic}: {body}");
        assert!(body["message"].as_str().unwrap().contains("does not exist"), "{body}");
    }
    assert_eq!(setup.proxy.get("/topics").await, (200, json!([TOPIC])));
    let body = r#"{"records":[{"value":1,"partition":0},{"value":1,"partition":3}]}"#;
    let (status, body) = setup.produce(TOPIC, JSON, body).await;
    assert_eq!((status, &body["error_code"]), (404, &json!(40402)), "{body}");
    // Nothing of the rejected request was sent: the next record is the partition's first.
    let (_, produced) = setup.produce(TOPIC, JSON, r#"{"records":[{"value":1,"partition":0}]}"#).await;
    assert_eq!(produced["offsets"], json!([delivered(0, 0)]));
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_a_reason() {
    let setup = start_with(10_000, 2000).await;
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
        let (got, response) = setup.produce(TOPIC, content_type, body).await;
        assert_eq!((got, &response["error_code"]), (status, &json!(code)), "{content_type} {body}: {response}");
        assert!(!response["message"].as_str().unwrap().is_empty(), "{response}");
    }
    let large = json!({"records": [{"value": "x".repeat(2000)}]}).to_string();
    let (status, body) = setup.produce(TOPIC, JSON, large).await;
    assert_eq!((status, &body["error_code"]), (413, &json!(413)), "{body}");
    let (status, body) = setup.proxy.get(&format!("/topics/{TOPIC}")).await;
    assert_eq!((status, &body["error_code"]), (405, &json!(405)));
    assert_eq!(setup.proxy.get("/nowhere").await.0, 404);
    let (status, _) = setup.produce(TOPIC, &format!("{JSON}; charset=utf-8"), r#"{"records":[{"value":1}]}"#).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn every_request_needs_the_token() {
    let setup = start().await;
    let path = format!("/topics/{TOPIC}");
    let record = r#"{"records":[{"value":1,"partition":0}]}"#;
    let request = || setup.proxy.bare(Method::POST, &path).header("content-type", JSON).body(record);
    for rejected in [
        request(),
        request().bearer_auth("wrong"),
        request().bearer_auth(""),
        request().basic_auth("user", Some("wrong")),
        request().basic_auth(TOKEN, None::<&str>),
        request().header("authorization", "Basic %%%"),
        setup.proxy.bare(Method::GET, "/topics"),
        setup.proxy.bare(Method::GET, "/nowhere"),
    ] {
        let (status, body) = response(rejected).await;
        assert_eq!((status, &body["error_code"]), (401, &json!(40101)), "{body}");
    }
    let challenge = request().send().await.unwrap();
    assert!(challenge.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    assert_eq!(challenge.headers()["content-type"], "application/vnd.kafka.v2+json");
    for (offset, allowed) in
        [request().bearer_auth(TOKEN), request().basic_auth("anyone", Some(TOKEN))].into_iter().enumerate()
    {
        let (status, produced) = response(allowed).await;
        // The rejected ones wrote no record.
        let expected = json!([delivered(0, i64::try_from(offset).unwrap())]);
        assert_eq!((status, &produced["offsets"]), (200, &expected));
    }
    assert_eq!(response(setup.proxy.bare(Method::GET, "/healthz")).await.0, 200);
}

#[tokio::test]
async fn a_record_that_fails_has_confluents_code_and_the_others_their_offset() {
    let setup = start().await;
    // One record above librdkafka's message.max.bytes (1,000,000) cannot ever be sent.
    let upstream = Upstream::connect(ProducerSettings::new(&setup.cluster.bootstrap_servers()), WAIT).await.unwrap();
    let proxy = Proxy::serve(kafka_rest::router(upstream, Token::new(TOKEN).unwrap(), 4_000_000)).await;
    let body = json!({"records": [
        {"value": 1, "partition": 0},
        {"value": "x".repeat(1_100_000), "partition": 0},
        {"value": 2, "partition": 0}
    ]});
    let request = proxy.request(Method::POST, &format!("/topics/{TOPIC}")).header("content-type", JSON);
    let (status, produced) = response(request.body(body.to_string())).await;
    assert_eq!(status, 200);
    let offsets = produced["offsets"].as_array().unwrap();
    assert_eq!((&offsets[0], &offsets[2]), (&delivered(0, 0), &delivered(0, 1)));
    let failed = &offsets[1];
    assert_eq!((&failed["error_code"], &failed["offset"]), (&json!(50002), &Value::Null), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("too large"), "{failed}");
}

#[tokio::test]
async fn records_that_no_broker_acknowledges_in_time_are_retriable_and_the_proxy_is_not_ready() {
    let setup = start_with(1500, 1_000_000).await;
    let record = r#"{"records":[{"value":1,"partition":0},{"value":2,"partition":0}]}"#;
    assert_eq!(setup.produce(TOPIC, JSON, record).await.0, 200);
    setup.cluster.broker_down(1).unwrap();
    let (status, produced) = setup.produce(TOPIC, JSON, record).await;
    assert_eq!(status, 200, "{produced}");
    let codes: Vec<&Value> = produced["offsets"].as_array().unwrap().iter().map(|o| &o["error_code"]).collect();
    assert_eq!(codes, [&json!(50003), &json!(50003)], "{produced}");
    let (status, _) = response(setup.proxy.bare(Method::GET, "/healthz")).await;
    assert_eq!(status, 503);
    setup.cluster.broker_up(1).unwrap();
    common::until("the proxy is ready again", || async {
        (response(setup.proxy.bare(Method::GET, "/healthz")).await.0 == 200).then_some(())
    })
    .await;
    let (status, produced) = setup.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"][0]["error"]), (200, &Value::Null), "{produced}");
}

/// Missing permission is reported by the status, as Confluent's proxy does.
#[tokio::test]
async fn a_topic_without_permission_to_write_is_forbidden() {
    let setup = start().await;
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    setup.cluster.request_errors(RDKafkaApiKey::Produce, &[denied]);
    let (status, produced) = setup.produce(TOPIC, JSON, r#"{"records":[{"value":1,"partition":0}]}"#).await;
    assert_eq!((status, &produced["offsets"][0]["error_code"]), (403, &json!(40301)), "{produced}");
}

/// An idempotent producer that lost its sequence never works again; the proxy does.
#[tokio::test]
async fn a_producer_that_failed_permanently_is_replaced() {
    let setup = start().await;
    let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    setup.cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
    let record = r#"{"records":[{"value":1,"partition":0}]}"#;
    let (status, produced) = setup.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"][0]["error_code"]), (200, &json!(50003)), "{produced}");
    let (status, produced) = setup.produce(TOPIC, JSON, record).await;
    assert_eq!((status, &produced["offsets"]), (200, &json!([delivered(0, 0)])), "{produced}");
}

#[tokio::test]
async fn an_unreachable_kafka_is_named_with_the_remedy() {
    let bootstrap = format!("127.0.0.1:{}", common::free_port());
    let error = Upstream::connect(ProducerSettings::new(&bootstrap), Duration::from_secs(1)).await.err().unwrap();
    let message = error.to_string();
    assert!(matches!(error, StartError::Unreachable { .. }), "{message}");
    assert!(message.contains("KAFKA_BOOTSTRAP") && message.contains(&bootstrap), "{message}");
}
