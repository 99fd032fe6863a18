//! Admission: one atomic step on Redis decides for one claim or for many.

use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::{Effect, Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::CampaignKeys;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use serde_json::Value;

/// What Redis decided about one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Admitted by this very call.
    Admitted(ClaimEntry),
    /// Admitted by an earlier call; nothing changed.
    Already(ClaimEntry),
    /// No slot is left.
    SoldOut,
    /// The campaign has not begun.
    NotOpen {
        /// When it begins, ms since the epoch.
        opens_ms: u64,
        /// Redis's clock, ms since the epoch.
        now_ms: u64,
    },
    /// The campaign is over.
    Closed,
    /// The operator has paused the campaign.
    Paused,
    /// Redis knows no such campaign.
    UnknownCampaign,
}

/// A mark of the set of holders: two alike stand for the same set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many claims there are.
    pub claims: u64,
    /// When the last one was admitted, ms since the epoch.
    pub last_ms: u64,
}

/// The decisions of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// One a user, in the order asked.
    pub decisions: Vec<Decision>,
    /// Who holds claims, told with every [`Decision::SoldOut`].
    pub held: Option<Held>,
}

/// Decides for `users`, in their order, in one EVALSHA. Repeating the call is harmless (I5).
///
/// `lease_ms`: after this time without the issuer's confirmation the sweeper forwards the claim again.
///
/// # Errors
/// [`Fault`]. With [`Effect::Unknown`] the users may have been admitted: asking again tells.
pub async fn admit<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    users: &[&UserId],
    lease_ms: u32,
) -> Result<Admission, Fault> {
    let keys = CampaignKeys::of(campaign);
    let lease = lease_ms.to_string();
    let mut args = vec![lease.as_str()];
    args.extend(users.iter().map(|user| user.as_str()));
    let reply = redis.eval(&scripts::ADMIT, &[&keys.meta, &keys.claims, &keys.outbox], &args).await?;
    // The script ran, so an answer that cannot be read may stand for an admission.
    read(&reply, users.len()).ok_or_else(|| Fault {
        effect: Effect::Done,
        retry: true,
        source: Source::Redis,
        label: "garbled",
        detail: "the answer of admit.lua cannot be read".to_owned(),
    })
}

/// Reads the answer of `admit.lua`; its form is described there.
fn read(reply: &Value, users: usize) -> Option<Admission> {
    if reply.is_null() {
        return Some(Admission { decisions: vec![Decision::UnknownCampaign; users], held: None });
    }
    let fields: Vec<&str> = reply.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let ([opens_ms, now_ms, held], answers) = fields.split_first_chunk()?;
    let (opens_ms, now_ms) = (opens_ms.parse().ok()?, now_ms.parse().ok()?);
    let held = match held.split_once(':') {
        Some((claims, last_ms)) => Some(Held { claims: claims.parse().ok()?, last_ms: last_ms.parse().ok()? }),
        None if held.is_empty() => None,
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
                ("+", entry) => entry.parse().ok().map(Decision::Admitted),
                ("=", entry) => entry.parse().ok().map(Decision::Already),
                _ => None,
            },
        })
        .collect::<Option<_>>()?;
    (decisions.len() == users).then_some(Admission { decisions, held })
}

/// A user's claim, as far as Redis can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredClaim {
    /// He has this one.
    Found(ClaimEntry),
    /// He has none.
    None,
    /// Redis knows no such campaign, so it cannot tell.
    UnknownCampaign,
}

/// Looks a user's claim up, and whether its campaign is there at all.
///
/// # Errors
/// [`Fault`].
pub async fn stored_claim<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    user: &UserId,
) -> Result<StoredClaim, Fault> {
    let CampaignKeys { meta, claims, .. } = CampaignKeys::of(campaign);
    let commands =
        [vec!["HGET".to_owned(), claims, user.as_str().to_owned()], vec!["HGET".to_owned(), meta, "state".to_owned()]];
    let garbled = || Fault::unknown(Source::Redis, "garbled", "a claim entry cannot be read");
    let mut results = redis.pipeline(&commands).await?.into_iter();
    let entry = results.next().ok_or_else(garbled)??;
    let state = results.next().ok_or_else(garbled)??;
    match (entry.as_str(), state.is_null()) {
        (Some(entry), _) => entry.parse().map(StoredClaim::Found).map_err(|_| garbled()),
        (None, true) => Ok(StoredClaim::UnknownCampaign),
        (None, false) => Ok(StoredClaim::None),
    }
}

/// Who holds a claim of `campaign`, in no order.
///
/// # Errors
/// [`Fault`].
pub async fn holders<H: Http>(redis: &RedisRest<H>, campaign: &CampaignId) -> Result<Value, Fault> {
    let keys = CampaignKeys::of(campaign);
    redis.command(&["HKEYS", &keys.claims]).await
}

/// A campaign as Redis holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignMeta {
    /// `open`, `paused` or `closed`, as the operator set it.
    pub state: String,
    /// Slots there are.
    pub capacity: u64,
    /// Slots handed out.
    pub count: u64,
    /// Opening time, ms since the epoch.
    pub opens_ms: u64,
    /// Closing time, ms since the epoch; 0: never.
    pub closes_ms: u64,
    /// Redis's clock, ms since the epoch.
    pub now_ms: u64,
}

/// The campaign's meta and Redis's clock, in one request.
///
/// # Errors
/// [`Fault`].
pub async fn campaign_meta<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
) -> Result<Option<CampaignMeta>, Fault> {
    let keys = CampaignKeys::of(campaign);
    let hmget = ["HMGET", &keys.meta, "state", "capacity", "count", "opens_ms", "closes_ms"];
    let commands = [hmget.map(str::to_owned).to_vec(), vec!["TIME".to_owned()]];
    let garbled = || Fault::unknown(Source::Redis, "garbled", "the campaign's meta cannot be read");
    let mut results = redis.pipeline(&commands).await?.into_iter();
    let meta = results.next().ok_or_else(garbled)??;
    let time = results.next().ok_or_else(garbled)??;
    read_meta(&meta, &time).ok_or_else(garbled)
}

fn read_meta(meta: &Value, time: &Value) -> Option<Option<CampaignMeta>> {
    let fields = meta.as_array()?;
    if fields.iter().all(Value::is_null) {
        return Some(None);
    }
    let text = |at: usize| fields.get(at).and_then(Value::as_str);
    let number = |at: usize| text(at)?.parse::<u64>().ok();
    let clock = |at: usize| match time.get(at)? {
        Value::String(text) => text.parse::<u64>().ok(),
        other => other.as_u64(),
    };
    Some(Some(CampaignMeta {
        state: text(0)?.to_owned(),
        capacity: number(1)?,
        count: number(2)?,
        opens_ms: number(3)?,
        closes_ms: number(4)?,
        now_ms: clock(0)?.checked_mul(1000)?.checked_add(clock(1)?.checked_div(1000)?)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(text: &str) -> ClaimEntry {
        text.parse().unwrap()
    }

    #[test]
    fn reads_every_answer_of_the_script() {
        let reply = json!(["500", "900", "2:900", "+2:900:a", "=1:800:i", "full"]);
        let admission = read(&reply, 3).unwrap();
        let expected = [Decision::Admitted(entry("2:900:a")), Decision::Already(entry("1:800:i")), Decision::SoldOut];
        assert_eq!(
            (admission.decisions.as_slice(), admission.held),
            (expected.as_slice(), Some(Held { claims: 2, last_ms: 900 }))
        );
        let admission = read(&json!(["500", "400", "", "early", "late", "paused"]), 3).unwrap();
        let expected = [Decision::NotOpen { opens_ms: 500, now_ms: 400 }, Decision::Closed, Decision::Paused];
        assert_eq!((admission.decisions.as_slice(), admission.held), (expected.as_slice(), None));
        assert_eq!(read(&Value::Null, 2).unwrap().decisions, [Decision::UnknownCampaign; 2]);
    }

    #[test]
    fn what_cannot_be_read_is_no_decision() {
        for garbage in [
            json!("OK"),
            json!([]),
            json!(["500", "900", ""]),
            json!(["500", "900", "", "full", "full"]),
            json!(["500", "900", "", "?"]),
            json!(["500", "900", "", "+0:1:a"]),
            json!(["500", "900", "", ""]),
            json!(["x", "900", "", "full"]),
            json!(["500", "900", "many", "full"]),
            json!([1, 2, 3, 4]),
        ] {
            assert_eq!(read(&garbage, 1), None, "{garbage}");
        }
    }

    #[test]
    fn reads_the_meta() {
        let meta = read_meta(&json!(["open", "100", "7", "5", "0"]), &json!(["12", "345678"])).unwrap().unwrap();
        assert_eq!((meta.capacity, meta.count, meta.now_ms), (100, 7, 12_345));
        assert_eq!(read_meta(&json!([null, null, null, null, null]), &json!(["1", "1"])), Some(None));
        assert_eq!(read_meta(&json!(["open", null, null, null, null]), &json!(["1", "1"])), None);
    }
}
