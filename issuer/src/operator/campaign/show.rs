//! `campaign show`: one campaign in MySQL, Redis and Kafka, as far as each of them answers.

use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics;
use crate::operator::campaign::publish::CampaignError;
use crate::redis::client::Redis;
use crate::redis::view::{Meta, Outbox, View};
use crate::store::mysql::Database;
use crate::timestamp;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::TOPIC;
use serde::Serialize;

/// What is known of a campaign.
#[derive(Debug, Serialize)]
pub struct Report {
    campaign: String,
    state: String,
    capacity: u32,
    opens_at: String,
    closes_at: Option<String>,
    issued: u64,
    refused: u64,
    redis: RedisReport,
    kafka: KafkaReport,
}

#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum RedisReport {
    NotConfigured,
    Unreachable { detail: String },
    NotPublished,
    Published { state: String, capacity: u64, count: u64, outbox: OutboxReport },
}

#[derive(Debug, Serialize)]
struct OutboxReport {
    waiting: u64,
    /// The sweeper would take them now.
    due: u64,
    /// Admitted more than five minutes ago.
    old: u64,
    oldest_admitted_at: Option<String>,
    oldest_age_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum KafkaReport {
    NotConfigured,
    Unreachable { detail: String },
    Reached { lag: u64 },
}

/// Looks a campaign up in MySQL, and in Redis and Kafka as far as they answer.
///
/// # Errors
/// [`CampaignError`] of MySQL. The others' are part of the report.
pub async fn show(
    database: &Database,
    redis: Option<&Redis>,
    kafka: Option<&KafkaSettings>,
    id: &CampaignId,
) -> Result<Report, CampaignError> {
    let campaign = database.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    let tally = database.tally(id).await?;
    let redis = match redis {
        None => RedisReport::NotConfigured,
        Some(redis) => match look(redis, id).await {
            Ok(None) => RedisReport::NotPublished,
            Ok(Some((meta, outbox))) => published(meta, &outbox),
            Err(fault) => RedisReport::Unreachable { detail: fault.to_string() },
        },
    };
    let kafka = match kafka {
        None => KafkaReport::NotConfigured,
        Some(settings) => match topics::lag(settings, TOPIC).await {
            Ok(lag) => KafkaReport::Reached { lag },
            Err(fault) => KafkaReport::Unreachable { detail: fault.to_string() },
        },
    };
    Ok(Report {
        campaign: id.to_string(),
        state: campaign.state,
        capacity: campaign.capacity,
        opens_at: timestamp::format(campaign.opens_at),
        closes_at: campaign.closes_at.map(timestamp::format),
        issued: tally.issued,
        refused: tally.refused,
        redis,
        kafka,
    })
}

async fn look(redis: &Redis, id: &CampaignId) -> Result<Option<(Meta, Outbox)>, Fault> {
    let view = View::new(redis, id);
    let Some(meta) = view.meta().await? else { return Ok(None) };
    Ok(Some((meta, view.outbox().await?)))
}

fn published(meta: Meta, outbox: &Outbox) -> RedisReport {
    RedisReport::Published {
        state: meta.state,
        capacity: meta.capacity,
        count: meta.count,
        outbox: OutboxReport {
            waiting: outbox.waiting,
            due: outbox.due,
            old: outbox.old,
            oldest_admitted_at: outbox.oldest_admitted_at(),
            oldest_age_ms: outbox.oldest_age_ms(),
        },
    }
}

impl OutboxReport {
    fn human(&self) -> String {
        let Some((at, age_ms)) = self.oldest_admitted_at.as_ref().zip(self.oldest_age_ms) else {
            return format!("{} waiting", self.waiting);
        };
        let age_s = age_ms / 1_000;
        format!(
            "{} waiting: {} due now, {} older than 5 min; the oldest is {age_s} s old, admitted at {at}",
            self.waiting, self.due, self.old
        )
    }
}

impl Report {
    /// For a terminal.
    #[must_use]
    pub fn human(&self) -> String {
        let redis = match &self.redis {
            RedisReport::NotConfigured => {
                "not configured (UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN)".to_owned()
            }
            RedisReport::Unreachable { detail } => format!("unreachable: {detail}"),
            RedisReport::NotPublished => {
                format!("not published; the gate does not know it: issuer campaign publish {}", self.campaign)
            }
            RedisReport::Published { state, capacity, count, outbox } => {
                format!("{state}, {count} of {capacity} slots handed out\noutbox     {}", outbox.human())
            }
        };
        let kafka = match &self.kafka {
            KafkaReport::NotConfigured => "not configured (KAFKA_BOOTSTRAP)".to_owned(),
            KafkaReport::Unreachable { detail } => format!("unreachable: {detail}"),
            KafkaReport::Reached { lag } => format!("{lag} records wait for the issuer, of all campaigns"),
        };
        format!(
            "campaign   {}\nstate      {}\nopens at   {}\ncloses at  {}\ncapacity   {}\nissued     {}\nrefused    {}\nRedis      {redis}\nKafka      {kafka}",
            self.campaign,
            self.state,
            self.opens_at,
            self.closes_at.as_deref().unwrap_or("never"),
            self.capacity,
            self.issued,
            self.refused,
        )
    }
}
