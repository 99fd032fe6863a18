//! Pause, resume, close, raise, list. MySQL first; then the gate is told with one call.

use crate::kafka::settings::KafkaSettings;
use crate::operator::campaign::publish::{CampaignError, publish};
use crate::redis::client::Redis;
use crate::store::mysql::Database;
use crate::store::mysql::campaigns::{Campaign, Listed, Raised};
use crate::timestamp;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::CampaignKeys;
use dropgate_shared::scripts;
use serde::Serialize;

/// A campaign's state, as an operator sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Admit nobody for now.
    Pause,
    /// Admit again.
    Resume {
        /// Even after it was closed.
        reopen: bool,
    },
    /// Admit nobody any more.
    Close,
}

impl Wish {
    fn state(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume { .. } => "open",
            Self::Close => "closed",
        }
    }

    /// The states in which it can be granted. Its own is among them: to wish twice is right.
    fn from(self) -> &'static [&'static str] {
        match self {
            Self::Pause | Self::Resume { reopen: false } => &["open", "paused"],
            Self::Resume { reopen: true } | Self::Close => &["open", "paused", "closed"],
        }
    }
}

/// Sets a campaign's state. Returns what to tell.
///
/// # Errors
/// [`CampaignError`]; to wish again is right, and tells the gate again.
pub async fn set(
    database: &Database,
    redis: &Redis,
    kafka: Option<&KafkaSettings>,
    id: &CampaignId,
    wish: Wish,
) -> Result<String, CampaignError> {
    let before = campaign(database, id).await?;
    if !database.set_state(id, wish.from(), wish.state()).await? {
        return Err(CampaignError::Closed(id.clone()));
    }
    let now = campaign(database, id).await?;
    let changed = if before.state == now.state {
        format!("campaign {id} is {} already", now.state)
    } else {
        format!("campaign {id} is {} now, it was {}", now.state, before.state)
    };
    Ok(format!("{changed}\n{}", tell_gate(database, redis, kafka, id, &now).await?))
}

/// Grants a greater capacity. Returns what to tell.
///
/// # Errors
/// [`CampaignError`]; to grant it again is right, and tells the gate again.
pub async fn raise(
    database: &Database,
    redis: &Redis,
    kafka: Option<&KafkaSettings>,
    id: &CampaignId,
    capacity: u32,
) -> Result<String, CampaignError> {
    let raised = match database.raise(id, capacity).await? {
        Raised::Now { before } => format!("campaign {id} has a capacity of {capacity} now, it had {before}"),
        Raised::Before => format!("campaign {id} has a capacity of {capacity} already"),
        Raised::Lower { in_force } => return Err(CampaignError::Lower { id: id.clone(), capacity, in_force }),
        Raised::Unknown => return Err(CampaignError::Unknown(id.clone())),
    };
    let now = campaign(database, id).await?;
    Ok(format!("{raised}\n{}", tell_gate(database, redis, kafka, id, &now).await?))
}

async fn campaign(database: &Database, id: &CampaignId) -> Result<Campaign, CampaignError> {
    database.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))
}

/// Redis holds what MySQL has decided. Without an answer of Redis the gate goes on as before: MySQL has
/// it, and the operator hears that the gate may not.
async fn tell_gate(
    database: &Database,
    redis: &Redis,
    kafka: Option<&KafkaSettings>,
    id: &CampaignId,
    campaign: &Campaign,
) -> Result<String, CampaignError> {
    let args = [
        campaign.state.clone(),
        campaign.capacity.to_string(),
        timestamp::to_ms(campaign.opens_at).to_string(),
        campaign.closes_at.map_or(0, timestamp::to_ms).to_string(),
    ];
    match redis.eval(&scripts::UPDATE, &[&CampaignKeys::of(id).meta], &args).await {
        Ok(reply) if reply.as_u64() == Some(0) => publish(database, redis, kafka, id).await,
        Ok(_) => Ok("the gate knows it".to_owned()),
        Err(fault) => Err(CampaignError::GateNotTold { id: id.clone(), fault }),
    }
}

#[derive(Serialize)]
struct Line<'a> {
    campaign: &'a str,
    state: &'a str,
    capacity: u32,
    issued: i64,
    refused: i64,
    opens_at: String,
    closes_at: Option<String>,
}

/// All campaigns as a JSON array.
#[must_use]
pub fn list_json(campaigns: &[Listed]) -> String {
    let lines: Vec<Line<'_>> = campaigns
        .iter()
        .map(|campaign| Line {
            campaign: &campaign.id,
            state: &campaign.state,
            capacity: campaign.capacity,
            issued: campaign.issued,
            refused: campaign.refused,
            opens_at: timestamp::format(campaign.opens_at),
            closes_at: campaign.closes_at.map(timestamp::format),
        })
        .collect();
    serde_json::to_string_pretty(&lines).unwrap_or_default()
}

/// All campaigns for a terminal.
#[must_use]
pub fn list_table(campaigns: &[Listed]) -> String {
    if campaigns.is_empty() {
        return "no campaigns; create one with `issuer campaign create ID --capacity N`".to_owned();
    }
    let mut rows =
        vec![["CAMPAIGN", "STATE", "CAPACITY", "ISSUED", "REFUSED", "OPENS AT", "CLOSES AT"].map(str::to_owned)];
    rows.extend(campaigns.iter().map(|campaign| {
        [
            campaign.id.clone(),
            campaign.state.clone(),
            campaign.capacity.to_string(),
            campaign.issued.to_string(),
            campaign.refused.to_string(),
            timestamp::format(campaign.opens_at),
            campaign.closes_at.map_or_else(|| "never".to_owned(), timestamp::format),
        ]
    }));
    crate::operator::table(&rows)
}
