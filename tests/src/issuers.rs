//! Issuers of a test's own, and records put into Kafka without a gate: what the service does with ten
//! thousand of them, whatever happens to it meanwhile.

use crate::{System, programs, until};
use dropgate_local::stack::{Part, Probe, Spec, ports};
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

/// An issuer of the test's own.
pub struct Issuer {
    /// Its process.
    pub part: Part,
    /// Where it serves health and metrics.
    pub url: String,
}

impl Issuer {
    /// Starts one with more environment, which wins over the stack's.
    ///
    /// # Panics
    /// If the program is not built.
    #[must_use]
    pub fn start(system: &System, name: &'static str, more: &[(&'static str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{}", ports::free().unwrap());
        let mut env = system.stack.endpoints.issuer_env();
        env.push(("HTTP_LISTEN", listen.clone()));
        env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let dir = programs().parent().unwrap().join("e2e").join(system.name);
        let spec = Spec {
            name,
            program: programs().join("issuer"),
            args: vec!["run".into(), "--create-topics".into()],
            env,
            cwd: dir.clone(),
            probe: Probe::Output("partitions assigned"),
            stop_within: Duration::from_secs(30),
        };
        Self { part: spec.start(&dir.join("log")).unwrap(), url: format!("http://{listen}") }
    }

    /// A page of its HTTP port: status and text. Status 0: nobody answers.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = dropgate_local::http_client().get(format!("{}{path}", self.url)).send().await;
        match answer {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    }

    /// The sum of a metric over all its labels; 0 while there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.1;
        let values = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Where a record went: user, partition, offset.
pub type Sent = (String, i32, i64);

/// Puts one record for each user into the topic, with slots from `first_slot` on, and in between what
/// `spoil` makes of every eleventh place.
///
/// # Panics
/// If Kafka does not take them.
pub async fn produce(
    system: &System,
    campaign: &str,
    users: impl Iterator<Item = String>,
    first_slot: u32,
    spoil: Option<&str>,
) -> Vec<Sent> {
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
        };
        let mut payloads = vec![record.encode()];
        if slot % 10 == 0 {
            payloads.extend(spoil.map(str::to_owned));
        }
        for payload in payloads {
            let key = format!("{campaign}/{user}");
            let record = FutureRecord::<str, str>::to(TOPIC).key(&key).payload(&payload);
            // The queue of the client is larger than any test.
            sent.push((user.clone(), producer.send_result(record).map_err(|(error, _)| error).unwrap()));
        }
    }
    let mut placed = Vec::with_capacity(sent.len());
    for (user, acknowledgement) in sent {
        let delivery = acknowledgement.await.unwrap().unwrap();
        placed.push((user, delivery.partition, delivery.offset));
    }
    placed
}

/// Puts one record of these bytes into the topic.
///
/// # Panics
/// If Kafka does not take it.
pub async fn produce_bytes(system: &System, payload: &[u8]) {
    let producer: FutureProducer = client(system).set("message.max.bytes", "10000000").create().unwrap();
    let record = FutureRecord::<[u8], [u8]>::to(TOPIC).payload(payload);
    producer.send(record, DEADLINE).await.unwrap();
}

/// Names of users.
pub fn users(of: &str, count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(move |n| format!("{of}-{n}"))
}

/// What the group has committed.
///
/// # Panics
/// If Kafka does not answer.
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

/// I7, seen from outside: whatever was committed is in MySQL. Returns how many records that were.
///
/// # Panics
/// If an offset is ahead of a row.
pub async fn assert_no_offset_is_ahead(system: &System, campaign: &str, sent: &[Sent]) -> usize {
    // The offsets first: rows may only have become more since.
    let committed = committed(system).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT user_id FROM coupons WHERE campaign_id = ?")
        .bind(campaign)
        .fetch_all(&system.mysql)
        .await
        .unwrap();
    let rows: HashSet<String> = rows.into_iter().collect();
    let done = |(_, partition, offset): &&Sent| committed.get(partition).is_some_and(|next| offset < next);
    let done: Vec<&Sent> = sent.iter().filter(done).collect();
    for (user, partition, offset) in &done {
        assert!(rows.contains(user), "partition {partition} is committed beyond {offset}, and {user} has no row");
    }
    done.len()
}

/// Waits until everything in the topic is committed.
pub async fn until_no_lag(system: &System, sent: &[Sent]) {
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

/// The causes in the dead-letter topic, and how often each stands there.
///
/// # Panics
/// If Kafka does not answer, or a dead letter has no cause.
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

/// How many coupons and refusals a campaign has.
///
/// # Panics
/// If the database cannot be asked.
pub async fn settled(system: &System, campaign: &str) -> (i64, i64) {
    let (rows, refused): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM coupons WHERE campaign_id = ?), \
         (SELECT COUNT(*) FROM refusals WHERE campaign_id = ?)",
    )
    .bind(campaign)
    .bind(campaign)
    .fetch_one(&system.mysql)
    .await
    .unwrap();
    (rows, refused)
}

fn client(system: &System) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &system.stack.endpoints.kafka_bootstrap);
    config
}
