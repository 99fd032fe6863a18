//! The operator's verbs on a campaign. MySQL is changed before Redis, always.

use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics;
use crate::redis::client::Redis;
use crate::redis::confirm::{PAIRS, confirm};
use crate::store::mysql::Database;
use crate::store::mysql::campaigns::{Campaign, Holder};
use crate::timestamp;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::{CAMPAIGNS_KEY, CampaignKeys, TOPIC};
use dropgate_shared::scripts;
use serde_json::Value;
use std::fmt::Write as _;

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
    /// The campaign is closed, and the wish was none that opens it.
    #[error(
        "campaign {0} is closed: visitors were told that it is over. `issuer campaign resume {0} --reopen` opens it again"
    )]
    Closed(CampaignId),
    /// Less than was granted before.
    #[error(
        "campaign {id} has a capacity of {in_force}, and {capacity} is less: so many coupons may be promised already. To end it early: `issuer campaign close {id}`"
    )]
    Lower {
        /// The id.
        id: CampaignId,
        /// What was asked for.
        capacity: u32,
        /// What was granted.
        in_force: u32,
    },
    /// MySQL has what was asked for, and Redis did not answer.
    #[error(
        "MySQL has it, but the gate may not know it yet: {fault}\nthe same command again, or `issuer campaign publish {id}`, tells the gate"
    )]
    GateNotTold {
        /// The id.
        id: CampaignId,
        /// What Redis said, if it said anything.
        fault: Fault,
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
    let now = timestamp::now();
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
        timestamp::to_ms(campaign.opens_at).to_string(),
        campaign.closes_at.map_or(0, timestamp::to_ms).to_string(),
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

fn described(campaign: &Campaign) -> String {
    format!(
        "{}, capacity {}, opens at {}, closes {}",
        campaign.state,
        campaign.capacity,
        timestamp::format(campaign.opens_at),
        campaign.closes_at.map_or_else(|| "never".to_owned(), |at| format!("at {}", timestamp::format(at))),
    )
}

fn pairs(holders: Vec<Holder>) -> Vec<String> {
    holders.into_iter().flat_map(|(user, entry)| [user, entry.to_string()]).collect()
}

/// A reply's number, which some services send as a string.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
