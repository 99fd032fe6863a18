//! What Redis holds of a campaign, read page by page. Reading is repeatable, so a read that failed for
//! want of an answer is tried again.

use crate::labels;
use crate::timestamp;
use dropgate_shared::campaign::CampaignMeta;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::CampaignKeys;
use dropgate_shared::redis_rest::{RedisRest, number_of, text_of, time_ms};
use dropgate_shared::scripts;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Claims in one page.
pub const PAGE: usize = 1_000;
const TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);
/// An outbox entry of this age is not just on its way: the sweeper has sent it several times.
pub const OLD_MS: u64 = 300_000;
/// Outbox entries that `show` reads one by one.
const SHOWN: usize = 10_000;
/// With more claims under way than this, none that waits is decided yet.
const MOST_UNDER_WAY: usize = 20_000;

/// A campaign in Redis.
pub struct View<'a, H> {
    redis: &'a RedisRest<H>,
    keys: CampaignKeys,
}

/// The outbox in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbox {
    pub waiting: u64,
    /// Entries whose lease has ended: the sweeper would take them now.
    pub due: u64,
    /// Entries admitted more than [`OLD_MS`] ago, among the first that were read.
    pub old: u64,
    /// How many were read for the ages; all of them unless there are very many.
    pub read: u64,
    /// Admission of the oldest of them, in ms since the epoch.
    pub oldest_ms: Option<u64>,
    /// Redis's clock.
    pub now_ms: u64,
}

/// A page: the cursor of the next (`"0"`: there is none), and users with their values.
pub type Page = (String, Vec<(String, String)>);

impl<'a, H: Http> View<'a, H> {
    /// The campaign `id` in `redis`.
    #[must_use]
    pub fn new(redis: &'a RedisRest<H>, id: &CampaignId) -> Self {
        Self { keys: redis.keys(id), redis }
    }

    /// Runs a reading command on `key`, as a script: what an auditor is told must not come from a replica that is
    /// behind.
    async fn query<S: AsRef<str>>(&self, key: &str, command: &[S]) -> Result<Value, Fault> {
        let mut tried = 1;
        loop {
            match self.redis.eval(&scripts::READ, &[key], command).await {
                Err(fault) if fault.retry && tried < TRIES => {
                    tried += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                other => return other,
            }
        }
    }

    /// The meta; `None` if the campaign is not published, or its meta is damaged.
    pub async fn meta(&self) -> Result<Option<CampaignMeta>, Fault> {
        let command: Vec<&str> = ["HMGET"].into_iter().chain(CampaignMeta::FIELDS).collect();
        let reply = self.query(&self.keys.meta, &command).await?;
        Ok(CampaignMeta::read(&reply).unwrap_or_default())
    }

    /// Whether the campaign is among those that the cron visits.
    pub async fn is_listed(&self, id: &CampaignId) -> Result<bool, Fault> {
        Ok(number(&self.query(&self.redis.prefix().campaigns_key(), &["SISMEMBER", id.as_str()]).await?)? == 1)
    }

    pub async fn claims(&self) -> Result<u64, Fault> {
        number(&self.query(&self.keys.claims, &["HLEN"]).await?)
    }

    /// How many outbox entries there are.
    pub async fn waiting(&self) -> Result<u64, Fault> {
        number(&self.query(&self.keys.outbox, &["ZCARD"]).await?)
    }

    /// A page of claims: user and entry. A user may come twice.
    pub async fn claims_page(&self, cursor: &str) -> Result<Page, Fault> {
        page(&self.query(&self.keys.claims, &["HSCAN", cursor, "COUNT", &PAGE.to_string()]).await?)
    }

    /// A page of the outbox: user and due time.
    pub async fn outbox_page(&self, cursor: &str) -> Result<Page, Fault> {
        page(&self.query(&self.keys.outbox, &["ZSCAN", cursor, "COUNT", &PAGE.to_string()]).await?)
    }

    /// The entries of `users`, in their order, as they are stored.
    pub async fn entries<S: AsRef<str>>(&self, users: &[S]) -> Result<Vec<Option<String>>, Fault> {
        self.of_each("HMGET", &self.keys.claims, users).await
    }

    /// Whether each of `users` has an outbox entry.
    pub async fn in_outbox<S: AsRef<str>>(&self, users: &[S]) -> Result<Vec<bool>, Fault> {
        let scores = self.of_each("ZMSCORE", &self.keys.outbox, users).await?;
        Ok(scores.iter().map(Option::is_some).collect())
    }

    /// The claims that are under way: admitted, and in the outbox.
    ///
    /// # Errors
    /// [`Fault`]; also where there are more than `MOST_UNDER_WAY`.
    pub async fn under_way(&self) -> Result<BTreeMap<String, ClaimEntry>, Fault> {
        let (mut found, mut cursor) = (BTreeMap::new(), "0".to_owned());
        loop {
            let (next, page) = self.outbox_page(&cursor).await?;
            let users: Vec<&str> = page.iter().map(|(user, _)| user.as_str()).collect();
            for (user, entry) in users.iter().zip(self.entries(&users).await?) {
                let entry = entry.and_then(|text| text.parse::<ClaimEntry>().ok());
                if let Some(entry) = entry.filter(|entry| entry.status == ClaimStatus::Admitted) {
                    found.insert((*user).to_owned(), entry);
                }
            }
            if found.len() > MOST_UNDER_WAY {
                let detail = format!("more than {MOST_UNDER_WAY} claims are under way");
                return Err(Fault::none(Source::Redis, labels::MANY_UNDER_WAY, true, detail));
            }
            if next == "0" {
                return Ok(found);
            }
            cursor = next;
        }
    }

    async fn of_each<S: AsRef<str>>(&self, verb: &str, key: &str, users: &[S]) -> Result<Vec<Option<String>>, Fault> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let command: Vec<&str> = [verb].into_iter().chain(users.iter().map(AsRef::as_ref)).collect();
        let reply = self.query(key, &command).await?;
        let values = reply.as_array().filter(|values| values.len() == users.len()).ok_or_else(garbled)?;
        Ok(values.iter().map(text_of).collect())
    }

    /// The admission of the oldest of the outbox entries that are due first, a page of them, in ms since the epoch.
    pub async fn oldest_due_ms(&self) -> Result<Option<u64>, Fault> {
        let reply = self.query(&self.keys.outbox, &["ZRANGE", "0", &(PAGE - 1).to_string()]).await?;
        let users: Vec<String> = reply.as_array().into_iter().flatten().filter_map(text_of).collect();
        let entries = self.entries(&users).await?;
        let admitted = entries.iter().flatten().filter_map(|entry| entry.parse::<ClaimEntry>().ok());
        Ok(admitted.map(|entry| entry.admitted_ms).min())
    }

    pub async fn outbox(&self) -> Result<Outbox, Fault> {
        let time = self.redis.command(&["TIME"]).await?;
        let now_ms = time_ms(&time).ok_or_else(garbled)?;
        let waiting = self.waiting().await?;
        let due = number(&self.query(&self.keys.outbox, &["ZCOUNT", "-inf", &now_ms.to_string()]).await?)?;
        let mut outbox = Outbox { waiting, due, now_ms, ..Outbox::default() };
        let mut from = 0;
        while from < SHOWN {
            let range = ["ZRANGE", &from.to_string(), &(from + PAGE - 1).to_string()];
            let users: Vec<String> = self
                .query(&self.keys.outbox, &range)
                .await?
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(text_of)
                .collect();
            for entry in self.entries(&users).await?.into_iter().flatten() {
                let Ok(entry) = entry.parse::<ClaimEntry>() else { continue };
                outbox.read += 1;
                outbox.old += u64::from(now_ms.saturating_sub(entry.admitted_ms) > OLD_MS);
                outbox.oldest_ms = Some(outbox.oldest_ms.unwrap_or(u64::MAX).min(entry.admitted_ms));
            }
            if users.len() < PAGE {
                break;
            }
            from += PAGE;
        }
        Ok(outbox)
    }
}

impl Outbox {
    /// When the oldest was admitted, RFC 3339.
    #[must_use]
    pub fn oldest_admitted_at(&self) -> Option<String> {
        self.oldest_ms.and_then(timestamp::from_ms).map(timestamp::format)
    }

    /// How old the oldest is, in ms.
    #[must_use]
    pub fn oldest_age_ms(&self) -> Option<u64> {
        self.oldest_ms.map(|oldest| self.now_ms.saturating_sub(oldest))
    }
}

fn page(reply: &Value) -> Result<Page, Fault> {
    let cursor = reply.get(0).and_then(text_of).ok_or_else(garbled)?;
    let flat = reply.get(1).and_then(Value::as_array).ok_or_else(garbled)?;
    let pairs = flat.chunks(2).map(|pair| Some((text_of(pair.first()?)?, text_of(pair.get(1)?)?)));
    Ok((cursor, pairs.collect::<Option<_>>().ok_or_else(garbled)?))
}

fn number(value: &Value) -> Result<u64, Fault> {
    number_of(value).ok_or_else(garbled)
}

fn garbled() -> Fault {
    Fault::unknown(Source::Redis, labels::GARBLED, "the reply does not fit the command")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pages_are_read_and_garbage_is_no_page() {
        let (cursor, pairs) = page(&json!(["17", ["u1", "1:2:a", "u2", 5]])).unwrap();
        assert_eq!((cursor.as_str(), pairs.len()), ("17", 2));
        assert_eq!(pairs[1], ("u2".to_owned(), "5".to_owned()));
        for garbage in [json!(null), json!(["0"]), json!(["0", ["odd"]]), json!(["0", [null, "x"]])] {
            assert_eq!(page(&garbage).unwrap_err().label, "garbled");
        }
    }
}
