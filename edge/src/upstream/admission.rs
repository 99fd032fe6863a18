//! Calls to Redis about claims and campaigns. Admission is one atomic step that decides for one claim or for many.

use crate::labels::fault::{GARBLED, WENT_BACK};
use dropgate_shared::campaign::{self, CampaignMeta};
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::code::{CodeKeyId, CodeSecrets};
use dropgate_shared::fault::{Effect, Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::CampaignKeys;
use dropgate_shared::redis_rest::{OTHER_CODE_KEY, RedisRest, number_of, time_ms};
use dropgate_shared::scripts;
use dropgate_shared::time::Millis;
use serde_json::Value;

/// A claim that a user holds, and the secret of its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldClaim {
    pub entry: ClaimEntry,
    /// In a campaign that was published before there were key ids: the gate's current one.
    pub code_key: CodeKeyId,
}

/// What Redis decided about one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Admitted by this call.
    Admitted(HeldClaim),
    /// Admitted by an earlier call; nothing changed.
    Already(HeldClaim),
    SoldOut,
    NotOpen {
        opens_ms: u64,
        /// Redis's clock.
        now_ms: u64,
    },
    Closed,
    Paused,
    UnknownCampaign,
}

/// Identifies a set of holders: two that are equal stand for the same set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldersVersion {
    /// The number of claims.
    pub claims: u64,
    /// Time of the last admission, ms since the epoch.
    pub last_ms: u64,
}

/// The decisions of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// One a user, in the order asked.
    pub decisions: Vec<Decision>,
    /// Present with every [`Decision::SoldOut`].
    pub holders: Option<HoldersVersion>,
}

/// What only grows of a campaign, as far as a reply shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growing {
    /// The version of the settings.
    pub version: Option<u64>,
    /// Time of the last admission by Redis's clock, ms since the epoch.
    pub last_ms: Option<u64>,
    /// The lowest and the highest slot that this call handed out.
    pub slots: Option<(u64, u64)>,
}

impl Growing {
    /// Whether a part is lower than before.
    #[must_use]
    pub fn is_behind(&self, before: &Self) -> bool {
        let behind = |now: Option<u64>, before: Option<u64>| now.zip(before).is_some_and(|(now, before)| now < before);
        // A slot is handed out once.
        let again = self.slots.zip(before.slots).is_some_and(|((lowest, _), (_, highest))| lowest <= highest);
        behind(self.version, before.version) || behind(self.last_ms, before.last_ms) || again
    }
}

impl Admission {
    /// What the reply shows of the growth of its campaign.
    #[must_use]
    pub fn growing(&self) -> Growing {
        let admitted = || {
            self.decisions.iter().filter_map(|decision| match decision {
                Decision::Admitted(held) => Some(held.entry),
                _ => None,
            })
        };
        let slots = || admitted().map(|entry| u64::from(entry.slot.get()));
        Growing {
            version: None,
            last_ms: self.holders.map(|held| held.last_ms).or(admitted().map(|entry| entry.admitted_ms).max()),
            slots: slots().min().zip(slots().max()),
        }
    }
}

/// Decides for `users`, in their order, in one EVALSHA. Repeating the call is harmless (I5).
///
/// `lease`: when this time has passed without the issuer's confirmation the sweeper forwards the claim again.
///
/// # Errors
/// [`Fault`]. With [`Effect::Unknown`] the users may have been admitted; repeating the call returns the decisions.
pub async fn admit<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    users: &[&UserId],
    lease: Millis,
    secrets: &CodeSecrets,
) -> Result<Admission, Fault> {
    let keys = redis.keys(campaign);
    let (lease, key_ids) = (lease.to_string(), secrets.ids());
    let mut args = vec![lease.as_str(), key_ids.as_str()];
    args.extend(users.iter().map(|user| user.as_str()));
    let reply = redis.eval(&scripts::ADMIT, &[&keys.meta, &keys.claims, &keys.outbox], &args).await?;
    // The script ran, so users may be admitted although the reply cannot be read.
    let malformed = || Fault { effect: Effect::Done, ..garbled("the reply of admit.lua is malformed") };
    read_reply(&reply, users.len(), secrets.unnamed()).ok_or_else(malformed)
}

/// Reads the reply of `admit.lua`, which describes its form and gives no entry where the secret is unknown. `unnamed`: the
/// key id of a campaign that names none.
fn read_reply(reply: &Value, users: usize, unnamed: Option<CodeKeyId>) -> Option<Admission> {
    if reply.is_null() {
        return Some(Admission { decisions: vec![Decision::UnknownCampaign; users], holders: None });
    }
    let fields: Vec<&str> = reply.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let ([opens_ms, now_ms, holders, code_key], answers) = fields.split_first_chunk()?;
    let code_key = if code_key.is_empty() { unnamed } else { Some(code_key.parse().ok()?) };
    let held = |text: &str| Some(HeldClaim { entry: text.parse().ok()?, code_key: code_key? });
    let (opens_ms, now_ms) = (opens_ms.parse().ok()?, now_ms.parse().ok()?);
    let holders = match holders.split_once(':') {
        Some((claims, last_ms)) => {
            Some(HoldersVersion { claims: claims.parse().ok()?, last_ms: last_ms.parse().ok()? })
        }
        None if holders.is_empty() => None,
        None => return None,
    };
    let decisions: Vec<Decision> = answers
        .iter()
        .map(|answer| match *answer {
            "full" => Some(Decision::SoldOut),
            "early" => Some(Decision::NotOpen { opens_ms, now_ms }),
            "late" => Some(Decision::Closed),
            "paused" => Some(Decision::Paused),
            entry => match entry.split_at_checked(1)? {
                ("+", entry) => held(entry).map(Decision::Admitted),
                ("=", entry) => held(entry).map(Decision::Already),
                _ => None,
            },
        })
        .collect::<Option<_>>()?;
    (decisions.len() == users).then_some(Admission { decisions, holders })
}

/// A user's claim, as far as Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredClaim {
    Found(HeldClaim),
    None,
    /// Redis does not have the campaign, so the claim is unknown.
    UnknownCampaign,
}

/// Reads a user's claim, and whether the campaign is there at all. Like all reads here it is a script, which runs at
/// the leader: a plain read may be answered by a replica that does not know the claim yet.
///
/// # Errors
/// [`Fault`].
pub async fn stored_claim<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    user: &UserId,
    secrets: &CodeSecrets,
) -> Result<(StoredClaim, Growing), Fault> {
    let CampaignKeys { meta, claims, .. } = redis.keys(campaign);
    let reply = redis.eval(&scripts::CLAIM, &[&meta, &claims], &[user.as_str()]).await?;
    let Some([state, last_ms, version, entry, code_key]) = reply.as_array().map(Vec::as_slice) else {
        return Err(garbled("the reply of claim.lua is malformed"));
    };
    let claim = match (entry.as_str(), state.is_null()) {
        // Redis has lost the campaign, and with it the name of the secret of its codes.
        (Some(_), true) => return Err(lost(campaign)),
        (Some(entry), false) => StoredClaim::Found(HeldClaim {
            entry: entry.parse().map_err(|_| garbled("a claim entry is malformed"))?,
            code_key: campaign::code_key(code_key)
                .map_err(|e| garbled(e.to_string()))?
                .or(secrets.unnamed())
                .ok_or_else(|| unnamed_secret(campaign, secrets))?,
        }),
        (None, true) => StoredClaim::UnknownCampaign,
        (None, false) => StoredClaim::None,
    };
    Ok((claim, Growing { version: number_of(version), last_ms: number_of(last_ms), slots: None }))
}

/// The users who hold a claim of `campaign`, as an array in no order.
///
/// # Errors
/// [`Fault`].
pub async fn holders<H: Http>(redis: &RedisRest<H>, campaign: &CampaignId) -> Result<Value, Fault> {
    redis.eval(&scripts::READ, &[&redis.keys(campaign).claims], &["HKEYS"]).await
}

/// The campaigns that Redis knows, in no order. None at all: Redis is new, or has lost everything.
///
/// # Errors
/// [`Fault`].
pub async fn published_campaigns<H: Http>(redis: &RedisRest<H>) -> Result<Vec<CampaignId>, Fault> {
    let reply = redis.eval(&scripts::READ, &[&redis.prefix().campaigns_key()], &["SMEMBERS"]).await?;
    let ids = reply.as_array().ok_or_else(|| garbled("the set of campaigns is malformed"))?;
    Ok(ids.iter().filter_map(|id| CampaignId::parse(id.as_str()?).ok()).collect())
}

/// A campaign as Redis holds it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignView {
    pub meta: CampaignMeta,
    /// Redis's clock, ms since the epoch.
    pub now_ms: u64,
    pub version: Option<u64>,
}

/// The campaign and Redis's clock; none where Redis has no such campaign.
///
/// # Errors
/// [`Fault`].
pub async fn campaign_view<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
) -> Result<Option<CampaignView>, Fault> {
    let meta = redis.keys(campaign).meta;
    read_view(&redis.eval(&scripts::CAMPAIGN, &[&meta], &CampaignMeta::FIELDS).await?)
}

fn read_view(reply: &Value) -> Result<Option<CampaignView>, Fault> {
    let Some([meta, time, version]) = reply.as_array().map(Vec::as_slice) else {
        return Err(garbled("the reply of campaign.lua is malformed"));
    };
    let meta = CampaignMeta::read(meta).map_err(|e| garbled(e.to_string()))?;
    let now_ms = time_ms(time).ok_or_else(|| garbled("the reply to TIME is malformed"))?;
    Ok(meta.map(|meta| CampaignView { meta, now_ms, version: number_of(version) }))
}

fn unnamed_secret(campaign: &CampaignId, secrets: &CodeSecrets) -> Fault {
    let ids = secrets.ids();
    let detail =
        format!("{campaign} names no secret of its codes, and there are two, {ids}: publish the campaign again");
    Fault::none(Source::Redis, OTHER_CODE_KEY, false, detail)
}

fn lost(campaign: &CampaignId) -> Fault {
    let detail = format!("Redis has claims of {campaign} and not the campaign: publish it again");
    Fault::unknown(Source::Redis, WENT_BACK, detail)
}

fn garbled(detail: impl Into<String>) -> Fault {
    Fault::unknown(Source::Redis, GARBLED, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(text: &str) -> HeldClaim {
        HeldClaim { entry: text.parse().unwrap(), code_key: current() }
    }

    fn current() -> CodeKeyId {
        "AM8FWTS0".parse().unwrap()
    }

    fn read(reply: &Value, users: usize) -> Option<Admission> {
        read_reply(reply, users, Some(current()))
    }

    #[test]
    fn reads_every_answer_of_the_script() {
        let reply = json!(["500", "900", "2:900", "", "+2:900:a", "=1:800:i", "full"]);
        let admission = read(&reply, 3).unwrap();
        let expected = [Decision::Admitted(entry("2:900:a")), Decision::Already(entry("1:800:i")), Decision::SoldOut];
        assert_eq!(
            (admission.decisions.as_slice(), admission.holders),
            (expected.as_slice(), Some(HoldersVersion { claims: 2, last_ms: 900 }))
        );
        let admission = read(&json!(["500", "400", "", "", "early", "late", "paused"]), 3).unwrap();
        let expected = [Decision::NotOpen { opens_ms: 500, now_ms: 400 }, Decision::Closed, Decision::Paused];
        assert_eq!((admission.decisions.as_slice(), admission.holders), (expected.as_slice(), None));
        let admission = read(&json!(["500", "900", "", "W8PN52VN", "=1:800:i"]), 1).unwrap();
        let code_key = "W8PN52VN".parse().unwrap();
        assert_eq!(admission.decisions, [Decision::Already(HeldClaim { code_key, ..entry("1:800:i") })]);
        assert_eq!(read(&Value::Null, 2).unwrap().decisions, [Decision::UnknownCampaign; 2]);
    }

    #[test]
    fn a_malformed_reply_is_no_decision() {
        for garbage in [
            json!("OK"),
            json!([]),
            json!(["500", "900", "", ""]),
            json!(["500", "900", "", "", "full", "full"]),
            json!(["500", "900", "", "", "?"]),
            json!(["500", "900", "", "no id", "full"]),
            json!(["500", "900", "", "", "+0:1:a"]),
            json!(["500", "900", "", "", ""]),
            json!(["x", "900", "", "", "full"]),
            json!(["500", "900", "many", "", "full"]),
            json!([1, 2, 3, 4, 5]),
        ] {
            assert_eq!(read(&garbage, 1), None, "{garbage}");
        }
    }

    #[test]
    fn reads_the_campaign() {
        let view = |meta: Value, time: Value| read_view(&json!([meta, time, null]));
        let good = view(json!(["open", "100", "7", "5", "0", null]), json!(["12", "345678"])).unwrap().unwrap();
        assert_eq!((good.meta.settings.capacity, good.meta.count, good.now_ms), (100, 7, 12_345));
        assert_eq!(view(json!([null, null, null, null, null, null]), json!(["1", "1"])), Ok(None));
        let damaged = view(json!(["open", null, null, null, null, null]), json!(["1", "1"])).unwrap_err();
        assert_eq!(damaged.label, GARBLED);
        assert!(view(json!(["open", "100", "7", "5", "0", null]), json!(["x"])).is_err());
        assert!(read_view(&json!("OK")).is_err());
    }
}
