//! The Kafka REST proxies: `POST /topics/{topic}` of the v2 API with binary records.
//!
//! | rule | source |
//! |---|---|
//! | an entry a record, `error_code` 50003 where it may be tried again, status 200 | confluentinc/kafka-rest `entities/v2/ProduceResponse.java`, `KafkaExceptionMapper.java` |
//! | an exception on one record fails the whole call with 500, though others are produced | confluentinc/kafka-rest `resources/v2/AbstractProduceAction.java` |
//! | an entry a partition, raw Kafka codes and no text, status 200 | redpanda `src/v/pandaproxy/rest/test/produce.cc` |
//! | an entry a record, `error_code` 404 or 500 with `message`, status 200; content types match exactly | strimzi/strimzi-kafka-bridge `HttpSourceBridgeEndpoint.java` |
//! | no answer at all although the records are produced | as above: `whenCompleteAsync` on an executor that is full |
//! | an entry a record, `error_code` 1 or 2 with `error`; status 422 if any failed, though others are produced | Aiven-Open/karapace `kafka_rest_apis/__init__.py` |

use super::broker::{NewRecord, ProduceError, partition_of};
use super::server::Kafka;
use super::world::Availability;

use data_encoding::BASE64;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

const CONTENT_TYPE: &str = "application/vnd.kafka.binary.v2+json";

/// How long a proxy waits for an unreachable broker.
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Confluent,
    Redpanda,
    Strimzi,
    Karapace,
}

/// The result of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordEffect {
    Produced,
    Failed,
    /// In Kafka, although its entry reports an error.
    ProducedButFailed,
}

/// A fault of one call. Records beyond the listed ones are [`RecordEffect::Produced`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestFault {
    /// The connection is refused.
    Refused,
    /// The proxy answers 503. Nothing is produced.
    Overloaded,
    /// Some records are produced, others have error entries.
    Records(Vec<RecordEffect>),
    /// The call is answered 500; its records have the given results.
    WholeCall(Vec<RecordEffect>),
    /// All records are produced, and no answer is sent.
    Silent,
}

impl RestFault {
    fn name(&self) -> &'static str {
        match self {
            Self::Refused => "kafka rest: refused",
            Self::Overloaded => "kafka rest: overloaded",
            Self::Records(_) => "kafka rest: some records failed",
            Self::WholeCall(_) => "kafka rest: 500 for the whole call",
            Self::Silent => "kafka rest: no answer",
        }
    }
}

/// How a call ended for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestReply {
    Answer { status: u16, body: Vec<u8> },
    Refused,
    Silence,
}

type Fails = Box<dyn FnMut(usize) -> Option<RestFault>>;

/// A proxy in front of the model.
#[derive(Clone)]
pub struct SimKafkaRest {
    kafka: Kafka,
    dialect: Dialect,
    fails: Rc<RefCell<Fails>>,
}

/// A record's partition, and its offset there or why it has none.
type Produced = (i32, Result<i64, ProduceFault>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProduceFault {
    UnknownTopic,
    Retriable,
    TooLarge,
}

impl SimKafkaRest {
    #[must_use]
    pub fn new(kafka: &Kafka, dialect: Dialect) -> Self {
        Self { kafka: kafka.clone(), dialect, fails: Rc::new(RefCell::new(Box::new(|_| None))) }
    }

    /// `fails` is called once a request, with the number of its records.
    pub fn fail(&self, fails: impl FnMut(usize) -> Option<RestFault> + 'static) {
        *self.fails.borrow_mut() = Box::new(fails);
    }

    /// Sends a call and waits for its answer. A call that has arrived takes effect even if the caller has given up.
    pub async fn exchange(&self, url: &str, content_type: &str, body: &[u8], deadline_ms: u64) -> RestReply {
        let (server, path, content_type, body) =
            (self.clone(), path(url).to_owned(), content_type.to_owned(), body.to_vec());
        let served = tokio::task::spawn_local(async move {
            server.kafka.way().await;
            let reply = server.serve(&path, &content_type, &body).await;
            server.kafka.way().await;
            reply
        });
        let deadline = Instant::now() + Duration::from_millis(deadline_ms);
        match tokio::time::timeout_at(deadline, served).await {
            Ok(Ok(Some(reply))) => reply,
            _ => {
                tokio::time::sleep_until(deadline).await;
                RestReply::Silence
            }
        }
    }

    /// Handles a call. None: no answer is ever sent.
    pub async fn serve(&self, path: &str, content_type: &str, body: &[u8]) -> Option<RestReply> {
        let parsed = path
            .strip_prefix("/topics/")
            .ok_or((404, 404, "no such resource"))
            .and_then(|topic| self.parse(content_type, body).map(|records| (topic, records)));
        let (topic, records) = match parsed {
            Ok(parsed) => parsed,
            Err((status, code, message)) => return Some(refusal(status, code, message)),
        };
        let fault = (self.fails.borrow_mut())(records.len());
        if let Some(fault) = &fault {
            self.kafka.world.borrow().log_fault(fault.name(), topic);
        }
        let fates = match &fault {
            Some(RestFault::Refused) => return Some(RestReply::Refused),
            Some(RestFault::Overloaded) => return Some(refusal(503, 503, "overloaded")),
            Some(RestFault::Records(fates) | RestFault::WholeCall(fates)) => fates.clone(),
            Some(RestFault::Silent) | None => Vec::new(),
        };
        if self.kafka.partitions(topic).is_none() && matches!(self.dialect, Dialect::Confluent | Dialect::Karapace) {
            return Some(refusal(404, 40401, "Topic not found."));
        }
        let reached = tokio::time::timeout(PRODUCE_TIMEOUT, self.kafka.reachable()).await.is_ok();
        let mut produced = Vec::with_capacity(records.len());
        for (index, record) in records.into_iter().enumerate() {
            let fate = fates.get(index).copied().unwrap_or(RecordEffect::Produced);
            produced.push(self.produce(topic, record, fate, reached));
        }
        match fault {
            Some(RestFault::Silent) => None,
            Some(RestFault::WholeCall(_)) => Some(refusal(500, 500, "Internal Server Error")),
            _ => Some(self.answer(&produced)),
        }
    }

    fn parse(&self, content_type: &str, body: &[u8]) -> Result<Vec<NewRecord>, (u16, u32, &'static str)> {
        if content_type != CONTENT_TYPE {
            let status = if self.dialect == Dialect::Strimzi { 500 } else { 415 };
            return Err((status, status.into(), "unsupported content type"));
        }
        let body: Value = serde_json::from_slice(body).map_err(|_| (422, 42203, "malformed JSON"))?;
        let records = body.get("records").and_then(Value::as_array).filter(|records| !records.is_empty());
        let field = |record: &Value, name: &str| match record.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => {
                BASE64.decode(text.as_bytes()).map(Some).map_err(|_| (422, 42205, "no base64"))
            }
            Some(_) => Err((422, 42205, "no base64")),
        };
        let record = |record: &Value| {
            let partition = record.get("partition").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
            let (key, value) = (field(record, "key")?, field(record, "value")?.unwrap_or_default());
            Ok(NewRecord { partition, key, value, headers: Vec::new() })
        };
        records.ok_or((422, 42203, "records is empty"))?.iter().map(record).collect()
    }

    fn produce(&self, topic: &str, record: NewRecord, fate: RecordEffect, reached: bool) -> Produced {
        let up = reached && self.kafka.world.borrow().availability() == Availability::Up;
        let partitions = self.kafka.partitions(topic).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let by_key = || record.key.as_ref().map_or(0, |key| partition_of(key, partitions));
        let partition = record.partition.unwrap_or_else(|| i32::try_from(by_key()).unwrap_or(0));
        if fate == RecordEffect::Failed || !up {
            return (partition, Err(ProduceFault::Retriable));
        }
        let produced = self.kafka.produce(topic, record);
        if fate == RecordEffect::ProducedButFailed {
            return (partition, Err(ProduceFault::Retriable));
        }
        match produced {
            Ok((partition, offset)) => (partition, Ok(offset)),
            Err(ProduceError::UnknownTopicOrPartition) => (partition, Err(ProduceFault::UnknownTopic)),
            Err(ProduceError::MessageTooLarge) => (partition, Err(ProduceFault::TooLarge)),
        }
    }

    fn answer(&self, produced: &[Produced]) -> RestReply {
        let failed = produced.iter().any(|(_, result)| result.is_err());
        let (status, offsets): (u16, Vec<Value>) = match self.dialect {
            Dialect::Confluent => (200, produced.iter().map(confluent).collect()),
            Dialect::Strimzi => (200, produced.iter().map(strimzi).collect()),
            Dialect::Karapace => (if failed { 422 } else { 200 }, produced.iter().map(karapace).collect()),
            Dialect::Redpanda => (200, redpanda(produced)),
        };
        let body = match self.dialect {
            Dialect::Confluent | Dialect::Karapace => {
                json!({ "offsets": offsets, "key_schema_id": null, "value_schema_id": null })
            }
            Dialect::Redpanda | Dialect::Strimzi => json!({ "offsets": offsets }),
        };
        RestReply::Answer { status, body: body.to_string().into_bytes() }
    }
}

fn path(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find('/').and_then(|at| after_scheme.get(at..)).unwrap_or("/")
}

fn refusal(status: u16, code: u32, message: &str) -> RestReply {
    RestReply::Answer { status, body: json!({ "error_code": code, "message": message }).to_string().into_bytes() }
}

fn confluent((partition, result): &Produced) -> Value {
    match result {
        Ok(offset) => {
            json!({ "partition": partition, "offset": offset, "error_code": null, "error": null })
        }
        Err(ProduceFault::TooLarge) => {
            json!({ "partition": null, "offset": null, "error_code": 50002, "error": "The message is too large." })
        }
        Err(_) => json!({ "partition": null, "offset": null, "error_code": 50003, "error": "Kafka error, may retry." }),
    }
}

fn strimzi((partition, result): &Produced) -> Value {
    match result {
        Ok(offset) => json!({ "partition": partition, "offset": offset }),
        Err(ProduceFault::UnknownTopic) => json!({ "error_code": 404, "message": "unknown topic" }),
        Err(_) => json!({ "error_code": 500, "message": "Kafka error" }),
    }
}

fn karapace((partition, result): &Produced) -> Value {
    match result {
        Ok(offset) => json!({ "partition": partition, "offset": offset }),
        Err(ProduceFault::Retriable) => json!({ "error_code": 1, "error": "timed out" }),
        Err(_) => json!({ "error_code": 1, "error": "not produced" }),
    }
}

/// One entry a partition: the offset of its first record, or the code of a failed one.
fn redpanda(produced: &[Produced]) -> Vec<Value> {
    let mut entries: BTreeMap<i32, Value> = BTreeMap::new();
    for (partition, result) in produced {
        let code = match result {
            Ok(offset) => {
                entries.entry(*partition).or_insert_with(|| json!({ "partition": partition, "offset": offset }));
                continue;
            }
            Err(ProduceFault::UnknownTopic) => 3,
            Err(ProduceFault::Retriable) => 7,
            Err(ProduceFault::TooLarge) => 10,
        };
        entries.insert(*partition, json!({ "partition": partition, "error_code": code, "offset": -1 }));
    }
    entries.into_values().collect()
}
