//! How the settings of a campaign get from MySQL to Redis.

use super::error::CampaignError;
use crate::operator::servers::Servers;
use crate::store::ports::{Session, Store};
use crate::store::rows::Campaign;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::scripts::{self, Script};
use serde_json::Value;

/// How often settings are sent again because others changed them meanwhile.
const TRIES: u32 = 8;

pub(super) async fn campaign(session: &mut impl Session, id: &CampaignId) -> Result<Campaign, CampaignError> {
    session.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))
}

/// Runs `script` (`publish.lua` or `update.lua`) with the settings that MySQL has now, until no newer version is in
/// Redis. Returns the settings and the reply. `more`: the arguments after the settings.
pub(super) async fn write_settings<S: Store, H: Http, B>(
    servers: &Servers<S, H, B>,
    session: &mut S::Session,
    id: &CampaignId,
    script: &'static Script,
    more: &[String],
) -> Result<(Campaign, Value), CampaignError> {
    let keys = servers.redis.keys(id);
    let keys: &[&str] = if script.name == scripts::PUBLISH.name { &[&keys.meta, &keys.claims] } else { &[&keys.meta] };
    for _ in 0..TRIES {
        let now = campaign(session, id).await?;
        let reply = servers.redis.eval(script, keys, &[&now.script_args(), more].concat()).await?;
        let Some(newer) = reply.as_str().map(|version| version.parse().unwrap_or(u32::MAX - 1)) else {
            return Ok((now, reply));
        };
        // A version is in MySQL before it is in Redis. Where MySQL still has less than Redis, it has lost changes (a
        // failover, a backup that was restored): what it has now is in force, under a version of its own.
        if campaign(session, id).await?.version < newer {
            session.next_version(id, newer).await?;
        }
    }
    Err(CampaignError::Contention(id.clone()))
}
