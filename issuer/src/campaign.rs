//! The operator's verbs on a campaign. MySQL is changed before Redis, always.

use crate::confirm::{PAIRS, confirm};
use crate::kafka::KafkaSettings;
use crate::moment;
use crate::redis::Redis;
use crate::store::Database;
use crate::store::campaigns::{Campaign, Holder};
use crate::topics;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::{CAMPAIGNS_KEY, CampaignKeys, TOPIC};
use dropgate_shared::scripts;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;

/// Obligations looked at in search of the oldest.
const OLDEST_AMONG: &str = "499";

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// MySQL, Redis or Kafka failed.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// There is no such campaign.
    #[error("MySQL knows no campaign {0}; create it with `issuer campaign create {0} --capacity N`")]
    Unknown(CampaignId),
    /// The id is taken by another campaign.
    #[error("campaign {id} exists already, and differs: {differences}")]
    Exists {
        /// The id.
        id: CampaignId,
        /// What differs.
        differences: String,
    },
}

/// Creates a campaign. `opens_at` is `None` for "now". Returns what to tell.
///
/// # Errors
/// [`CampaignError`]. To create the same campaign again is none: with "now", the same is one that is
/// open already.
pub async fn create(
    database: &Database,
    id: &CampaignId,
    capacity: u32,
    opens_at: Option<time::PrimitiveDateTime>,
    closes_at: Option<time::PrimitiveDateTime>,
) -> Result<String, CampaignError> {
    let now = moment::now();
    let wanted = Campaign { state: "open".to_owned(), capacity, opens_at: opens_at.unwrap_or(now), closes_at };
    if database.create_campaign(id, &wanted).await? {
        return Ok(format!(
            "campaign {id} created: {}\nmake it known to the gate: issuer campaign publish {id}",
            described(&wanted)
        ));
    }
    let existing = database.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    // "now" was another moment when it was created: what counts is that it has begun.
    let begins_alike = match opens_at {
        None => existing.opens_at <= now,
        Some(opens_at) => existing.opens_at == opens_at,
    };
    let rest_alike = Campaign { opens_at: existing.opens_at, ..wanted.clone() } == existing;
    if begins_alike && rest_alike {
        return Ok(format!("campaign {id} exists already, with exactly this"));
    }
    let differences = format!("it is {}; asked for was {}", described(&existing), described(&wanted));
    Err(CampaignError::Exists { id: id.clone(), differences })
}

/// Makes a campaign known to the gate, or rebuilds what Redis knows of it. Returns what to tell.
///
/// # Errors
/// [`CampaignError`]; to publish again is always right.
pub async fn publish(
    database: &Database,
    redis: &Redis,
    kafka: Option<&KafkaSettings>,
    id: &CampaignId,
) -> Result<String, CampaignError> {
    let campaign = database.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    let mut told = String::new();
    // Looked at first: what is under way now has no row yet, and is not among the holders below.
    let lag = match kafka {
        None => "not looked at (KAFKA_BOOTSTRAP is not set)".to_owned(),
        Some(settings) => match topics::lag(settings, TOPIC).await {
            Ok(0) => "0".to_owned(),
            Ok(lag) => format!("{lag} records, whose rows are still to come"),
            Err(fault) => format!("unknown ({fault})"),
        },
    };

    let (mut issued, mut after) = (0_u64, 0);
    loop {
        let page = database.issued_after(id, after, PAIRS as u32).await?;
        let Some((_, last)) = page.last() else { break };
        after = last.slot.get();
        issued += page.len() as u64;
        confirm(redis, id, &pairs(page)).await?;
    }
    let (mut refused, mut after) = (0_u64, String::new());
    loop {
        let page = database.refused_after(id, &after, PAIRS as u32).await?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        refused += page.len() as u64;
        confirm(redis, id, &pairs(page)).await?;
    }

    let keys = CampaignKeys::of(id);
    let args = [
        campaign.state.clone(),
        campaign.capacity.to_string(),
        moment::to_ms(campaign.opens_at).to_string(),
        campaign.closes_at.map_or(0, moment::to_ms).to_string(),
        refused.to_string(),
    ];
    let reply = redis.eval(&scripts::PUBLISH, &[&keys.meta, &keys.claims], &args).await?;
    redis.command(&["SADD", CAMPAIGNS_KEY, id.as_str()]).await?;
    let waiting = redis.command(&["ZCARD", &keys.outbox]).await?;

    let count = reply.get(0).map_or_else(|| "?".to_owned(), text);
    let before = reply.get(1).filter(|before| before.is_string() || before.is_number());
    let before = before.map_or_else(|| "not published".to_owned(), text);
    let _ = writeln!(told, "campaign {id} published: {}", described(&campaign));
    let _ = writeln!(told, "  rows in MySQL         {issued} issued, {refused} refused");
    let _ = writeln!(told, "  slots handed out      {before} before, {count} now");
    let _ = writeln!(told, "  waiting in the outbox {}", text(&waiting));
    let _ = write!(told, "  consumer lag          {lag}");
    Ok(told)
}

/// What MySQL and Redis know of a campaign.
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
}

#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum RedisReport {
    NotConfigured,
    Unreachable { detail: String },
    NotPublished,
    Published { state: String, capacity: String, count: String, outbox: Outbox },
}

#[derive(Debug, Default, Serialize)]
struct Outbox {
    waiting: u64,
    /// Admission of the oldest obligation (among the 500 that are due first).
    oldest_admitted_at: Option<String>,
}

/// Looks a campaign up in MySQL, and in Redis as far as that answers.
///
/// # Errors
/// [`CampaignError`] of MySQL. Redis's are part of the report.
pub async fn show(database: &Database, redis: Option<&Redis>, id: &CampaignId) -> Result<Report, CampaignError> {
    let campaign = database.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    let tally = database.tally(id).await?;
    let redis = match redis {
        None => RedisReport::NotConfigured,
        Some(redis) => {
            look(redis, id).await.unwrap_or_else(|fault| RedisReport::Unreachable { detail: fault.to_string() })
        }
    };
    Ok(Report {
        campaign: id.to_string(),
        state: campaign.state,
        capacity: campaign.capacity,
        opens_at: moment::format(campaign.opens_at),
        closes_at: campaign.closes_at.map(moment::format),
        issued: tally.issued,
        refused: tally.refused,
        redis,
    })
}

async fn look(redis: &Redis, id: &CampaignId) -> Result<RedisReport, Fault> {
    let keys = CampaignKeys::of(id);
    let meta = redis.command(&["HMGET", &keys.meta, "state", "capacity", "count"]).await?;
    let field = |index: usize| meta.get(index).filter(|value| !value.is_null()).map(text);
    let (Some(state), Some(capacity), Some(count)) = (field(0), field(1), field(2)) else {
        return Ok(RedisReport::NotPublished);
    };
    let waiting = redis.command(&["ZCARD", &keys.outbox]).await?.as_u64().unwrap_or(0);
    let mut outbox = Outbox { waiting, oldest_admitted_at: None };
    let due_first = redis.command(&["ZRANGE", &keys.outbox, "0", OLDEST_AMONG]).await?;
    let users: Vec<&str> = due_first.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !users.is_empty() {
        let command: Vec<&str> = ["HMGET", &keys.claims].into_iter().chain(users).collect();
        let entries = redis.command(&command).await?;
        let entries = entries.as_array().into_iter().flatten().filter_map(Value::as_str);
        let oldest = entries.filter_map(|entry| entry.parse::<ClaimEntry>().ok()).map(|entry| entry.admitted_ms).min();
        outbox.oldest_admitted_at = oldest.and_then(moment::from_ms).map(moment::format);
    }
    Ok(RedisReport::Published { state, capacity, count, outbox })
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
                let oldest = outbox.oldest_admitted_at.as_ref();
                let oldest = oldest.map_or_else(String::new, |at| format!(", the oldest admitted at {at}"));
                format!(
                    "{state}, {count} of {capacity} slots handed out\noutbox     {} waiting{oldest}",
                    outbox.waiting
                )
            }
        };
        format!(
            "campaign   {}\nstate      {}\nopens at   {}\ncloses at  {}\ncapacity   {}\nissued     {}\nrefused    {}\nRedis      {redis}",
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

fn described(campaign: &Campaign) -> String {
    format!(
        "{}, capacity {}, opens at {}, closes {}",
        campaign.state,
        campaign.capacity,
        moment::format(campaign.opens_at),
        campaign.closes_at.map_or_else(|| "never".to_owned(), |at| format!("at {}", moment::format(at))),
    )
}

fn pairs(holders: Vec<Holder>) -> Vec<String> {
    holders.into_iter().flat_map(|(user, entry)| [user, entry.to_string()]).collect()
}

/// A reply's number, which some services send as a string.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
