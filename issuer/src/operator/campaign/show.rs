//! `campaign show`: one campaign in MySQL, Redis and Kafka, as far as each of them answers.

use super::error::CampaignError;
use crate::kafka::ports::Backlog;
use crate::operator::moment::shown;
use crate::phase::Phase;
use crate::redis::view::{Outbox, View};
use crate::store::ports::{Session, Store};
use crate::timestamp;
use dropgate_shared::campaign::{CampaignMeta, CampaignState};
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::RedisRest;
use serde::Serialize;
use std::fmt;
use time::PrimitiveDateTime;

/// What is known of a campaign.
#[derive(Debug, Serialize)]
pub struct CampaignReport {
    campaign: String,
    state: Phase,
    capacity: u32,
    opens_at: String,
    closes_at: Option<String>,
    /// The times for a person.
    #[serde(skip)]
    shown: [String; 2],
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
    Published { state: CampaignState, capacity: u64, count: u64, outbox: OutboxReport },
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
    store: &impl Store,
    redis: Option<&RedisRest<impl Http>>,
    kafka: Option<&impl Backlog>,
    id: &CampaignId,
    now: PrimitiveDateTime,
) -> Result<CampaignReport, CampaignError> {
    let mut session = store.connect().await?;
    let campaign = session.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    let tally = session.tally(id).await?;
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
        Some(backlog) => match backlog.lag().await {
            Ok(lag) => KafkaReport::Reached { lag },
            Err(fault) => KafkaReport::Unreachable { detail: fault.to_string() },
        },
    };
    let taken = match &redis {
        RedisReport::Published { count, .. } => *count,
        _ => tally.issued,
    };
    let closes_at = campaign.closes_at.map_or_else(|| "never".to_owned(), |at| shown(at, now));
    Ok(CampaignReport {
        campaign: id.to_string(),
        state: Phase::of(&campaign, taken, now),
        shown: [shown(campaign.opens_at, now), closes_at],
        capacity: campaign.capacity,
        opens_at: timestamp::format(campaign.opens_at),
        closes_at: campaign.closes_at.map(timestamp::format),
        issued: tally.issued,
        refused: tally.refused,
        redis,
        kafka,
    })
}

async fn look(redis: &RedisRest<impl Http>, id: &CampaignId) -> Result<Option<(CampaignMeta, Outbox)>, Fault> {
    let view = View::new(redis, id);
    let Some(meta) = view.meta().await? else { return Ok(None) };
    Ok(Some((meta, view.outbox().await?)))
}

impl CampaignReport {
    /// The command that comes next, where one does.
    fn next(&self) -> Option<String> {
        let id = &self.campaign;
        match (&self.redis, self.state) {
            (RedisReport::NotPublished, _) => Some(format!("issuer campaign publish {id}")),
            (_, Phase::Paused) => Some(format!("issuer campaign resume {id}, or issuer campaign close {id}")),
            (RedisReport::Published { outbox, .. }, Phase::SoldOut | Phase::Closed) if outbox.waiting == 0 => {
                Some(format!("issuer verify {id}, then issuer export {id}"))
            }
            _ => None,
        }
    }
}

fn published(meta: CampaignMeta, outbox: &Outbox) -> RedisReport {
    RedisReport::Published {
        state: meta.settings.state,
        capacity: meta.settings.capacity,
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

impl fmt::Display for OutboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiting, due, old, .. } = self;
        let Some((at, age_ms)) = self.oldest_admitted_at.as_ref().zip(self.oldest_age_ms) else {
            return write!(f, "{waiting} waiting");
        };
        let age_s = age_ms / 1_000;
        write!(
            f,
            "{waiting} waiting: {due} due now, {old} older than 5 min; the oldest is {age_s} s old, admitted at {at}"
        )
    }
}

/// For a terminal.
impl fmt::Display for CampaignReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "campaign   {}", self.campaign)?;
        writeln!(f, "state      {}", self.state)?;
        let [opens_at, closes_at] = &self.shown;
        writeln!(f, "opens at   {opens_at}\ncloses at  {closes_at}")?;
        writeln!(f, "capacity   {}", self.capacity)?;
        writeln!(f, "issued     {}", self.issued)?;
        writeln!(f, "refused    {}", self.refused)?;
        f.write_str("Redis      ")?;
        match &self.redis {
            RedisReport::NotConfigured => {
                writeln!(f, "not configured (UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN)")
            }
            RedisReport::Unreachable { detail } => writeln!(f, "unreachable: {detail}"),
            RedisReport::NotPublished => {
                writeln!(f, "not published: the gate does not know it")
            }
            RedisReport::Published { state, capacity, count, outbox } => {
                writeln!(f, "{state}, {count} of {capacity} slots handed out\noutbox     {outbox}")
            }
        }?;
        f.write_str("Kafka      ")?;
        match &self.kafka {
            KafkaReport::NotConfigured => write!(f, "not configured (KAFKA_BOOTSTRAP)"),
            KafkaReport::Unreachable { detail } => write!(f, "unreachable: {detail}"),
            KafkaReport::Reached { lag } => write!(f, "{lag} records wait for the issuer, of all campaigns"),
        }?;
        self.next().map_or(Ok(()), |next| write!(f, "\nnext: {next}"))
    }
}
