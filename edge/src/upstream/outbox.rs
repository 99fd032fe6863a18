//! Calls to Redis about outbox entries. An entry ends only when the issuer confirms the row; everything here moves the
//! time from which the sweeper may take it.

use crate::labels::fault::GARBLED;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::code::CodeKeyId;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::redis_rest::{RedisRest, number_of, time_ms};
use dropgate_shared::scripts;
use dropgate_shared::time::Millis;
use serde_json::Value;

/// Moves the entries of these users to their lease from now.
///
/// # Errors
/// [`Fault`]: the sweeper forwards them once more than needed.
pub async fn lease<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    leases: Vec<(Millis, &UserId)>,
) -> Result<(), Fault> {
    let args: Vec<String> =
        leases.into_iter().flat_map(|(lease, user)| [lease.to_string(), user.as_str().to_owned()]).collect();
    redis.eval(&scripts::LEASE, &[&redis.keys(campaign).outbox], &args).await.map(drop)
}

/// The reply of `take_due.lua`.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// Entries in the outbox, due or not.
    pub waiting: u64,
    /// Redis's clock.
    pub now: Millis,
    /// The secret of the campaign's codes, where the campaign names it.
    pub code_key: Option<CodeKeyId>,
    /// How many entries were due.
    pub taken: usize,
    /// Those of them whose claim can be read.
    pub claims: Vec<(UserId, ClaimEntry)>,
}

/// Takes the due entries of `campaign`, up to `limit`. Each is leased for as long as it is old, within two bounds.
///
/// # Errors
/// [`Fault`].
pub async fn take_due<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    limit: usize,
    (shortest, longest): (Millis, Millis),
) -> Result<Due, Fault> {
    let keys = redis.keys(campaign);
    let args = [limit.to_string(), shortest.to_string(), longest.to_string()];
    let reply = redis.eval(&scripts::TAKE_DUE, &[&keys.claims, &keys.outbox, &keys.meta], &args).await?;
    Due::read(&reply).ok_or_else(|| garbled("the reply of take_due.lua is malformed"))
}

/// What waits in the outbox of a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub campaign: CampaignId,
    /// Entries, due or not.
    pub entries: u64,
    /// When the first of them is due, by Redis's clock.
    pub due: Millis,
}

/// Campaigns in one request.
pub const PAGE: usize = 500;

/// Redis's clock, and those of `campaigns` in whose outbox something waits. Plain reads: a replica that is behind delays
/// an entry until the next time.
///
/// # Errors
/// [`Fault`].
pub async fn waiting<H: Http>(redis: &RedisRest<H>, campaigns: &[CampaignId]) -> Result<(Millis, Vec<Waiting>), Fault> {
    let mut now = Millis(0);
    let mut found = Vec::new();
    for page in campaigns.chunks(PAGE) {
        let mut commands = vec![vec!["TIME".to_owned()]];
        for campaign in page {
            let outbox = redis.keys(campaign).outbox;
            commands.push(["ZCARD", &outbox].map(str::to_owned).to_vec());
            commands.push(["ZRANGE", &outbox, "0", "0", "WITHSCORES"].map(str::to_owned).to_vec());
        }
        let mut results = redis.pipeline(&commands).await?.into_iter();
        let mut next = || results.next().unwrap_or_else(|| Err(garbled("a result is missing")));
        now = Millis(time_ms(&next()?).ok_or_else(|| garbled("the reply to TIME is malformed"))?);
        for campaign in page {
            // A key of another type does not stop the others.
            if let (Ok(entries), Ok(first)) = (next(), next())
                && let (Some(entries), Some(due)) = (number_of(&entries), first.get(1).and_then(number_of))
            {
                found.push(Waiting { campaign: campaign.clone(), entries, due: Millis(due) });
            }
        }
    }
    Ok((now, found))
}

fn garbled(detail: &str) -> Fault {
    Fault::unknown(Source::Redis, GARBLED, detail)
}

impl Due {
    fn read(reply: &Value) -> Option<Self> {
        let fields: Vec<&str> = reply.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
        let ([waiting, now_ms, code_key], pairs) = fields.split_first_chunk()?;
        let claims = pairs.chunks(2).map(|pair| match pair {
            // An entry whose claim is gone or damaged stays in the outbox, where the operator sees it wait.
            [user, entry] => Some(UserId::parse(user).ok().zip(entry.parse().ok())),
            _ => None,
        });
        Some(Self {
            waiting: waiting.parse().ok()?,
            now: Millis(now_ms.parse().ok()?),
            code_key: if code_key.is_empty() { None } else { Some(code_key.parse().ok()?) },
            taken: pairs.len() / 2,
            claims: claims.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_the_due_entries() {
        let due = Due::read(&json!(["3", "900", "W8PN52VN", "u1", "1:800:a", "u2", "2:801:a"])).unwrap();
        assert_eq!((due.waiting, due.now, due.claims.len()), (3, Millis(900), 2));
        assert_eq!(Due::read(&json!(["0", "900", ""])).unwrap().claims, []);
    }

    #[test]
    fn an_entry_without_its_claim_is_left_in_the_outbox() {
        let due = Due::read(&json!(["2", "900", "", "gone", "", "u2", "2:801:a"])).unwrap();
        assert_eq!(due.claims.len(), 1);
        assert_eq!((due.waiting, due.taken), (2, 2));
    }

    #[test]
    fn a_malformed_reply_is_rejected() {
        for garbage in [json!(null), json!([]), json!(["1"]), json!(["1", "2", "", "u1"]), json!([1, 2, 3])] {
            assert_eq!(Due::read(&garbage), None, "{garbage}");
        }
    }
}
