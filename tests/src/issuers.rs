//! Issuers beside the stack's own, and admission records written to Kafka without a gate.

use crate::{System, until};
use dropgate_devstack::Process;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::record::AdmissionRecord;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
/// The group that `issuer run` joins.
const GROUP: &str = "dropgate-issuer";

/// An issuer that a test starts.
pub struct Issuer {
    pub process: Process,
    /// Of its health and metrics.
    pub url: String,
}

impl Issuer {
    /// Starts one; `env` overrides the stack's settings. Does not wait until it is ready.
    #[must_use]
    pub fn start(system: &System, name: &'static str, env: &[(&'static str, &str)]) -> Self {
        let (spec, url) = system.stack.issuer_spec(name, env).unwrap();
        Self { process: spec.start(&system.stack.paths.logs()).unwrap(), url }
    }

    /// GET of a path: status and text. Status 0: no response.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = dropgate_devstack::http_client().get(format!("{}{path}", self.url)).send().await;
        match response {
            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    }

    /// The sum of a metric over all its labels; 0 while the metric is absent.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.1;
        let values = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// The user of a record, its partition and offset.
pub type SentRecord = (String, i32, i64);

/// Writes one record per user to the topic, with slots from `first_slot` on, and `poison` after every tenth slot.
pub async fn produce(
    system: &System,
    campaign: &str,
    users: impl Iterator<Item = String>,
    first_slot: u32,
    poison: Option<&str>,
) -> Vec<SentRecord> {
    let producer: FutureProducer = client(system).create().unwrap();
    let id = CampaignId::parse(campaign).unwrap();
    let mut sent = Vec::new();
    for (user, slot) in users.zip(first_slot..) {
        let record = AdmissionRecord {
            campaign: id.clone(),
            user: UserId::parse(&user).unwrap(),
            slot: Slot::new(slot).unwrap(),
            admitted_at: 1_763_700_000_123,
            trace: None,
            code_key: None,
        };
        let mut payloads = vec![record.encode()];
        if slot % 10 == 0 {
            payloads.extend(poison.map(str::to_owned));
        }
        for payload in payloads {
            let key = format!("{campaign}/{user}");
            let record = FutureRecord::<str, str>::to(TOPIC).key(&key).payload(&payload);
            // The queue of the client is larger than the records of any test.
            sent.push((user.clone(), producer.send_result(record).map_err(|(error, _)| error).unwrap()));
        }
    }
    let mut written = Vec::with_capacity(sent.len());
    for (user, acknowledgement) in sent {
        let delivery = acknowledgement.await.unwrap().unwrap();
        written.push((user, delivery.partition, delivery.offset));
    }
    written
}

/// Writes one record with these bytes to the topic.
pub async fn produce_bytes(system: &System, payload: &[u8]) {
    let producer: FutureProducer = client(system).set("message.max.bytes", "10000000").create().unwrap();
    let record = FutureRecord::<[u8], [u8]>::to(TOPIC).payload(payload);
    producer.send(record, DEADLINE).await.unwrap();
}

/// User ids.
pub fn users(prefix: &str, count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(move |n| format!("{prefix}-{n}"))
}

/// The next offset of each partition that the group has committed.
pub async fn committed(system: &System) -> HashMap<i32, i64> {
    let mut config = client(system);
    config.set("group.id", GROUP);
    let read = move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in consumer.fetch_metadata(Some(TOPIC), DEADLINE).unwrap().topics()[0].partitions() {
            list.add_partition(TOPIC, partition.id());
        }
        let offsets = consumer.committed_offsets(list, DEADLINE).unwrap();
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(next) => Some((element.partition(), next)),
            _ => None,
        };
        offsets.elements().iter().filter_map(offset).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// I7: every record below a committed offset is in MySQL. Returns the number of these records.
pub async fn assert_no_offset_is_ahead(system: &System, campaign: &str, sent: &[SentRecord]) -> usize {
    // The offsets first: rows are only added.
    let committed = committed(system).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT user_id FROM coupons WHERE campaign_id = ?")
        .bind(campaign)
        .fetch_all(&system.mysql)
        .await
        .unwrap();
    let rows: HashSet<String> = rows.into_iter().collect();
    let done = |(_, partition, offset): &&SentRecord| committed.get(partition).is_some_and(|next| offset < next);
    let done: Vec<&SentRecord> = sent.iter().filter(done).collect();
    for (user, partition, offset) in &done {
        assert!(rows.contains(user), "partition {partition} is committed beyond {offset}, but {user} has no row");
    }
    done.len()
}

/// Waits until everything in the topic is committed.
pub async fn until_no_lag(system: &System, sent: &[SentRecord]) {
    let mut ends = HashMap::<i32, i64>::new();
    for (_, partition, offset) in sent {
        let end = ends.entry(*partition).or_default();
        *end = (*end).max(offset + 1);
    }
    until("the lag is zero", async || {
        let committed = committed(system).await;
        ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|next| next >= end))
    })
    .await;
}

/// The number of dead letters of each cause.
pub async fn dead_letters(system: &System) -> BTreeMap<String, usize> {
    let mut config = client(system);
    config.set("group.id", "dead-letter-reader");
    let read = move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let (low, high) = consumer.fetch_watermarks(DEAD_LETTER_TOPIC, 0, DEADLINE).unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(DEAD_LETTER_TOPIC, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut causes = BTreeMap::new();
        for _ in low..high {
            let message = consumer.poll(DEADLINE).expect("a dead letter").unwrap();
            let headers = message.headers().unwrap();
            let cause = headers.iter().find(|header| header.key == "dropgate.cause").unwrap();
            *causes.entry(String::from_utf8_lossy(cause.value.unwrap()).into_owned()).or_default() += 1;
        }
        causes
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// The number of coupons and of refusals of a campaign.
pub async fn coupons_and_refusals(system: &System, campaign: &str) -> (i64, i64) {
    sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
         (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
    )
    .bind(campaign)
    .bind(campaign)
    .fetch_one(&system.mysql)
    .await
    .unwrap()
}

fn client(system: &System) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &system.stack.endpoints.kafka_bootstrap);
    config
}
