//! What MySQL, Redis and Kafka have, read without the proxies.

use super::round::{Campaign, Round};
use super::world::World;
use dropgate_shared::names::{CampaignKeys, DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::record::AdmissionRecord;
use dropgate_simulator::history::{Admitted, CampaignFacts};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{Connection as _, MySqlConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);
/// The group of `issuer run`, and the partitions of its topic.
const GROUP: &str = "dropgate-issuer";
const PARTITIONS: i32 = 6;

/// What Kafka has.
#[derive(Debug, Default)]
pub struct Log {
    /// Partition, offset and content of each admission record.
    pub records: Vec<(i32, i64, AdmissionRecord)>,
    pub dead_letters: Vec<AdmissionRecord>,
    /// The next offset of the group, for each partition.
    pub committed: BTreeMap<i32, i64>,
    /// Records that the group has not committed.
    pub lag: i64,
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", GROUP).set("enable.auto.commit", "false");
    config.set("log_level", "0").clone()
}

/// Reads Kafka: the committed offsets first, so that nothing is committed beyond what is read later.
pub async fn log(world: &World) -> Result<Log, String> {
    let config = client(&world.direct.kafka_bootstrap);
    tokio::task::spawn_blocking(move || read_log(&config)).await.unwrap()
}

fn read_log(config: &ClientConfig) -> Result<Log, String> {
    let failed = |error: rdkafka::error::KafkaError| error.to_string();
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(TOPIC, 0, PARTITIONS - 1);
    let mut log = Log::default();
    for element in consumer.committed_offsets(list, DEADLINE).map_err(failed)?.elements() {
        if let Offset::Offset(next) = element.offset() {
            log.committed.insert(element.partition(), next);
        }
    }
    let mut wanted = Vec::new();
    let mut assigned = TopicPartitionList::new();
    for (topic, partitions) in [(TOPIC, PARTITIONS), (DEAD_LETTER_TOPIC, 1)] {
        for partition in 0..partitions {
            let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).map_err(failed)?;
            if topic == TOPIC {
                let next = log.committed.get(&partition).copied().filter(|next| *next <= high);
                log.lag += high - next.unwrap_or(low).max(low);
            }
            if high > low {
                assigned.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed)?;
                wanted.push((topic, partition, high));
            }
        }
    }
    consumer.assign(&assigned).map_err(failed)?;
    let until = Instant::now() + DEADLINE;
    while !wanted.is_empty() {
        if Instant::now() > until {
            return Err("Kafka's records were not read in time".to_owned());
        }
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.map_err(failed)?;
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        if let Ok(record) = AdmissionRecord::decode(message.payload().unwrap_or_default()) {
            if topic == TOPIC {
                log.records.push((partition, offset, record));
            } else {
                log.dead_letters.push(record);
            }
        }
        wanted.retain(|(name, at, high)| (*name, *at) != (topic, partition) || offset + 1 < *high);
    }
    Ok(log)
}

/// Deletes the topic and creates it again.
pub async fn recreate_topic(bootstrap: &str) -> Result<(), String> {
    let config = client(bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(|error| error.to_string())?;
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE)).request_timeout(Some(DEADLINE));
    let deleted = admin.delete_topics(&[TOPIC], &options).await.map_err(|error| error.to_string())?;
    let deleted = deleted.into_iter().next().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(-1));
        let created = admin.create_topics(&[topic], &options).await;
        match created.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(_))) => break,
            // A lost answer of the call before, or the deletion is still under way.
            _ if Instant::now() < until => tokio::time::sleep(Duration::from_millis(100)).await,
            other => return Err(format!("the topic is not created: {other:?}")),
        }
    }
    deleted.map(drop).map_err(|(_, code)| code.to_string())
}

pub async fn connect(world: &World) -> Result<MySqlConnection, String> {
    let connected = tokio::time::timeout(DEADLINE, MySqlConnection::connect(&world.direct.database_url)).await;
    connected.map_err(|_| "MySQL is silent".to_owned())?.map_err(|error| error.to_string())
}

/// Ends the connections of issuers and operators. Returns how many.
pub async fn kill_connections(world: &World) -> Result<u64, String> {
    let query = "SELECT id FROM information_schema.processlist WHERE user = 'dropgate' AND host <> 'localhost'";
    let ids = sqlx::query_scalar::<_, u64>(query).fetch_all(&world.mysql);
    let ids = tokio::time::timeout(DEADLINE, ids).await.map_err(|_| "MySQL is silent".to_owned())?;
    let mut killed = 0;
    for id in ids.map_err(|error| error.to_string())? {
        killed += u64::from(world.sql(&format!("KILL CONNECTION {id}")).await.is_ok());
    }
    if killed == 0 { Err("there was no connection".to_owned()) } else { Ok(killed) }
}

/// The claims of a campaign in Redis, by user.
pub async fn claims(world: &World, campaign: &Campaign) -> Result<BTreeMap<String, String>, String> {
    world.redis(&["HGETALL", &CampaignKeys::of(&campaign.id).claims]).await
}

/// Adds the claims that Redis has now to those that it ever had.
pub async fn note_claims(world: &World, round: &Round) -> Result<(), String> {
    for campaign in &round.campaigns {
        for (user, entry) in claims(world, campaign).await? {
            campaign.claims.lock().unwrap().entry(user).or_insert(entry);
        }
    }
    Ok(())
}

/// Keys of a snapshot with their serialised values.
pub type Snapshot = Vec<(String, Vec<u8>)>;

pub async fn snapshot(world: &World, round: &Round) -> Result<Snapshot, String> {
    let mut snapshot = Vec::new();
    for campaign in &round.campaigns {
        let keys = CampaignKeys::of(&campaign.id);
        for key in [keys.meta, keys.claims, keys.outbox] {
            if let Some(value) = world.redis::<Option<Vec<u8>>>(&["DUMP", &key]).await? {
                snapshot.push((key, value));
            }
        }
    }
    Ok(snapshot)
}

/// The keys of the round's campaigns are as they were.
pub async fn restore(world: &World, round: &Round, snapshot: &Snapshot) -> Result<(), String> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    for campaign in &round.campaigns {
        let keys = CampaignKeys::of(&campaign.id);
        pipe.cmd("DEL").arg(&[keys.meta, keys.claims, keys.outbox]).ignore();
    }
    for (key, value) in snapshot {
        pipe.cmd("RESTORE").arg(key).arg(0).arg(value).ignore();
    }
    let failed = |error: redis::RedisError| error.to_string();
    let client = redis::Client::open(world.redis_url.as_str()).map_err(failed)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    pipe.query_async::<()>(&mut connection).await.map_err(failed)
}

/// MySQL loses the coupons of the last moments, as after a failover to a replica that lags.
pub async fn lose_rows(world: &World, round: &Round, lag: Duration) -> Result<u64, String> {
    let mut lost = 0;
    for campaign in &round.campaigns {
        let rows = "campaign_id = ? AND issued_at > UTC_TIMESTAMP(3) - INTERVAL ? MICROSECOND";
        let micros = u64::try_from(lag.as_micros()).unwrap();
        let failed = |error: sqlx::Error| error.to_string();
        let mut transaction = world.mysql.begin().await.map_err(failed)?;
        let select = format!("SELECT user_id FROM coupons WHERE {rows} FOR UPDATE");
        let users: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(select))
            .bind(campaign.id.as_str())
            .bind(micros)
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?;
        for user in &users {
            let delete = sqlx::query("DELETE FROM coupons WHERE campaign_id = ? AND user_id = ?");
            delete.bind(campaign.id.as_str()).bind(user).execute(&mut *transaction).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        lost += users.len() as u64;
        campaign.rows_lost.lock().unwrap().extend(users);
    }
    if lost == 0 { Err("there was no row".to_owned()) } else { Ok(lost) }
}

/// The rows of a campaign. `rows.codes` has the code of each user.
#[derive(Debug, Default)]
pub struct Rows {
    pub coupons: Vec<(String, u32, u64)>,
    pub refusals: Vec<(String, u64)>,
    /// Users whose claim waits to be decided, or has waited.
    pub waiting: BTreeSet<String>,
    pub codes: BTreeMap<String, String>,
    pub capacity: u32,
    pub is_closed: bool,
}

pub async fn rows(world: &World, campaign: &Campaign) -> Result<Rows, String> {
    let id = campaign.id.as_str();
    let ms = "CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', admitted_at) DIV 1000 AS UNSIGNED)";
    let read = async {
        let query = format!("SELECT user_id, slot, {ms}, code FROM coupons WHERE campaign_id = ?");
        let coupons: Vec<(String, u32, u64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(id).fetch_all(&world.mysql).await?;
        let query = format!("SELECT user_id, {ms} FROM refusals WHERE campaign_id = ?");
        let refusals = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(id).fetch_all(&world.mysql).await?;
        let query = "SELECT user_id FROM waiting_claims WHERE campaign_id = ?";
        let waiting: Vec<String> = sqlx::query_scalar(query).bind(id).fetch_all(&world.mysql).await?;
        let waiting = waiting.into_iter().collect();
        // After the rows: it only grows.
        let query = "SELECT MAX(capacity) FROM allotments WHERE campaign_id = ?";
        let capacity: u32 = sqlx::query_scalar(query).bind(id).fetch_one(&world.mysql).await?;
        let query = "SELECT state FROM campaigns WHERE id = ?";
        let state: String = sqlx::query_scalar(query).bind(id).fetch_one(&world.mysql).await?;
        let codes = coupons.iter().map(|(user, .., code)| (user.clone(), code.clone())).collect();
        let coupons = coupons.into_iter().map(|(user, slot, at_ms, _)| (user, slot, at_ms)).collect();
        Ok::<_, sqlx::Error>(Rows { coupons, refusals, waiting, codes, capacity, is_closed: state == "closed" })
    };
    let read = tokio::time::timeout(DEADLINE, read).await.map_err(|_| "MySQL is silent".to_owned())?;
    read.map_err(|error| error.to_string())
}

/// Everything about a campaign that the oracle needs.
pub async fn facts(world: &World, campaign: &Campaign, log: &Log) -> Result<CampaignFacts, String> {
    let keys = CampaignKeys::of(&campaign.id);
    // The rows first: whoever has one was admitted before.
    let rows = rows(world, campaign).await?;
    let claims = claims(world, campaign).await?;
    let count: Option<u64> = world.redis(&["HGET", &keys.meta, "count"]).await?;
    let outbox = world.redis(&["ZCARD", &keys.outbox]).await?;
    let mut ever = campaign.claims.lock().unwrap().clone();
    ever.extend(claims.clone());
    let admissions = ever.into_iter().filter_map(|(user, entry)| {
        let entry: dropgate_shared::claim::ClaimEntry = entry.parse().ok()?;
        Some(Admitted { at_ms: entry.admitted_ms, user, entry })
    });
    let of_campaign =
        |record: &AdmissionRecord| (record.campaign == campaign.id).then(|| record.user.as_str().to_owned());
    Ok(CampaignFacts {
        capacity: rows.capacity,
        first_capacity: rows.capacity,
        opens_ms: campaign.opens_ms,
        coupons: rows.coupons,
        codes: rows.codes,
        refusals: rows.refusals,
        waiting: rows.waiting,
        admissions: admissions.collect(),
        lost: campaign.lost.lock().unwrap().clone(),
        in_kafka: log.records.iter().filter_map(|(.., record)| of_campaign(record)).collect(),
        dead_letters: log.dead_letters.iter().filter_map(of_campaign).collect::<BTreeSet<String>>(),
        rows_lost: campaign.rows_lost.lock().unwrap().clone(),
        raise_lost: false,
        redis: count.map(|count| (count, claims)),
        outbox,
    })
}
