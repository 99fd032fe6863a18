//! A campaign as Redis holds it in `dg:{ID}:meta`.
//!
//! `lua/publish.lua` and `lua/update.lua` write the settings, `lua/publish.lua` and `lua/admit.lua` write the
//! counters. Nothing else writes the hash.

use crate::code::CodeKeyId;
use crate::redis_rest::{number_of, text_of};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// What the operator has set a campaign to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CampaignState {
    /// Claims are admitted between opening and closing time.
    Open,
    /// No claim is admitted for now.
    Paused,
    /// No claim is admitted any more.
    Closed,
}

/// The text names no campaign state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a campaign state is open, paused or closed")]
pub struct CampaignStateError;

impl CampaignState {
    /// The word in Redis, MySQL and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for CampaignState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CampaignState {
    type Err = CampaignStateError;

    fn from_str(text: &str) -> Result<Self, CampaignStateError> {
        [Self::Open, Self::Paused, Self::Closed]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(CampaignStateError)
    }
}

/// The part of the meta that the operator decides. MySQL is written first, Redis follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignSettings {
    /// State.
    pub state: CampaignState,
    /// Number of slots.
    pub capacity: u64,
    /// Opening time, ms since the epoch.
    pub opens_ms: u64,
    /// Closing time, ms since the epoch; 0: never.
    pub closes_ms: u64,
}

impl CampaignSettings {
    /// The first four arguments of `publish.lua` and `update.lua`; the fifth is the version.
    #[must_use]
    pub fn script_args(&self) -> [String; 4] {
        let Self { state, capacity, opens_ms, closes_ms } = self;
        [state.to_string(), capacity.to_string(), opens_ms.to_string(), closes_ms.to_string()]
    }
}

/// The meta as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignMeta {
    /// What the operator has decided.
    pub settings: CampaignSettings,
    /// Slots handed out.
    pub count: u64,
    /// Time of the last admission by Redis's clock, ms since the epoch; 0: none since the campaign was published.
    /// With the number of claims it identifies the set of holders.
    pub last_ms: u64,
    /// Grows with every change of the settings in MySQL; 0: written before campaigns had versions. The scripts reject
    /// settings of an older version.
    pub version: u64,
    /// The secret of the campaign's codes; none where the campaign was published before there were key ids.
    pub code_key: Option<CodeKeyId>,
}

/// The reply is no meta of a campaign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the campaign's meta is damaged: publish the campaign again")]
pub struct CampaignMetaError;

impl CampaignMeta {
    /// The fields of the hash, in the order that [`CampaignMeta::read`] expects them from HMGET.
    pub const FIELDS: [&str; 8] =
        ["state", "capacity", "count", "opens_ms", "closes_ms", "last_ms", "version", "code_key"];

    /// The command that reads the meta under `key`.
    #[must_use]
    pub fn command(key: &str) -> Vec<String> {
        ["HMGET", key].into_iter().chain(Self::FIELDS).map(str::to_owned).collect()
    }

    /// Reads the reply to [`CampaignMeta::command`]; `None` where Redis has no such campaign.
    ///
    /// # Errors
    /// [`CampaignMetaError`] where a field is missing or malformed.
    pub fn read(reply: &Value) -> Result<Option<Self>, CampaignMetaError> {
        let fields = reply.as_array().ok_or(CampaignMetaError)?;
        // What wrote other fields has published nothing.
        if fields.len() >= 6 && fields.first().is_some_and(Value::is_null) {
            return Ok(None);
        }
        let field = |at: usize| fields.get(at).ok_or(CampaignMetaError);
        let number = |at: usize| number_of(field(at)?).ok_or(CampaignMetaError);
        let state = text_of(field(0)?).and_then(|state| state.parse().ok()).ok_or(CampaignMetaError)?;
        let or_zero = |value: &Value| if value.is_null() { Some(0) } else { number_of(value) };
        Ok(Some(Self {
            settings: CampaignSettings { state, capacity: number(1)?, opens_ms: number(3)?, closes_ms: number(4)? },
            count: number(2)?,
            last_ms: or_zero(field(5)?).ok_or(CampaignMetaError)?,
            version: or_zero(fields.get(6).unwrap_or(&Value::Null)).ok_or(CampaignMetaError)?,
            code_key: code_key(fields.get(7).unwrap_or(&Value::Null))?,
        }))
    }
}

/// The key id in a reply; none where there is no text.
///
/// # Errors
/// [`CampaignMetaError`] where it is no key id.
pub fn code_key(value: &Value) -> Result<Option<CodeKeyId>, CampaignMetaError> {
    let text = text_of(value).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| CampaignMetaError)).transpose()
}
