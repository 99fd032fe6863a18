//! The relay: brings admitted claims from the outbox to Kafka, as often as it takes.
//!
//! An outbox entry leaves only when the issuer confirms the row. Kafka's acknowledgement merely moves
//! the time from which the sweeper may send the claim again.

use crate::claims::Owed;
use crate::kafka_rest::KafkaRest;
use crate::lane::OfCampaign;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::{CAMPAIGNS_KEY, CampaignKeys};
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use serde_json::Value;

/// From the admission until the sweeper may forward the claim too, in ms: longer than a forward takes.
pub const FIRST_LEASE_MS: u32 = 15_000;
/// From Kafka's acknowledgement until the claim is sent again for want of a confirmation, in ms: at first, and
/// at most. Far out: Kafka keeps what it has acknowledged, and behind a small write budget a claim waits for hours.
pub const ACKNOWLEDGED_LEASE_MS: (u64, u64) = (900_000, 14_400_000);
/// Between two tries of the sweeper to bring a claim to Kafka, in ms: at first, and at most.
const SWEEP_LEASE_MS: (u64, u64) = (5_000, 900_000);
/// Claims that one step of the sweeper takes: a produce call well under 100 KB.
pub const SWEEP_BATCH: usize = 200;

/// An admitted claim on its way to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What is produced.
    pub record: AdmissionRecord,
    /// The visitor who hears of his admission only when Kafka has it.
    pub owed: Option<Owed>,
}

impl OfCampaign for Outgoing {
    fn campaign(&self) -> &CampaignId {
        &self.record.campaign
    }
}

/// What one step of the sweeper did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Obligations in the outbox, due or not.
    pub waiting: u64,
    /// How many were due, [`SWEEP_BATCH`] at most.
    pub taken: usize,
    /// How many of these are forwarded now.
    pub forwarded: usize,
    /// The age of the oldest of these, ms: what is old has been sent many times.
    pub oldest_ms: u64,
}

/// Moves the leases of `records`, which Kafka has acknowledged.
///
/// # Errors
/// [`Fault`]: the sweeper sends them once more than needed.
pub async fn acknowledged<H: Http>(
    redis: &RedisRest<H>,
    campaign: &CampaignId,
    records: &[AdmissionRecord],
) -> Result<(), Fault> {
    let leases = records.iter().map(|record| (ACKNOWLEDGED_LEASE_MS.0, record.user.as_str())).collect();
    lease(redis, campaign, leases).await
}

async fn lease<H: Http>(redis: &RedisRest<H>, campaign: &CampaignId, leases: Vec<(u64, &str)>) -> Result<(), Fault> {
    let args: Vec<String> =
        leases.into_iter().flat_map(|(lease_ms, user)| [lease_ms.to_string(), user.to_owned()]).collect();
    redis.eval(&scripts::LEASE, &[&CampaignKeys::of(campaign).outbox], &args).await.map(drop)
}

/// One step of the sweeper: takes the due obligations of `campaign`, up to [`SWEEP_BATCH`], and
/// forwards them. Call again while it forwards a whole batch.
///
/// # Errors
/// [`Fault`]: what was taken becomes due again when its lease ends.
pub async fn sweep<H: Http>(redis: &RedisRest<H>, kafka: &KafkaRest<H>, campaign: &CampaignId) -> Result<Swept, Fault> {
    let keys = CampaignKeys::of(campaign);
    let (first_ms, most_ms) = SWEEP_LEASE_MS;
    let args = [SWEEP_BATCH.to_string(), first_ms.to_string(), most_ms.to_string()];
    let reply = redis.eval(&scripts::TAKE_DUE, &[&keys.claims, &keys.outbox], &args).await?;
    let due = Due::read(&reply)
        .ok_or_else(|| Fault::unknown(Source::Redis, "garbled", "the answer of take_due.lua cannot be read"))?;
    let records: Vec<AdmissionRecord> = due
        .claims
        .iter()
        .map(|(user, claim)| AdmissionRecord {
            campaign: campaign.clone(),
            user: user.clone(),
            slot: claim.slot,
            admitted_at: claim.admitted_ms,
            trace: None,
        })
        .collect();
    if !records.is_empty() {
        kafka.produce(&records).await?;
        // The lease grows with the age of the obligation, so that an issuer that is away for a day does not
        // find each claim a hundred times in its topic.
        let (least_ms, most_ms) = ACKNOWLEDGED_LEASE_MS;
        let leases = records
            .iter()
            .map(|record| {
                let age_ms = due.now_ms.saturating_sub(record.admitted_at);
                (age_ms.clamp(least_ms, most_ms), record.user.as_str())
            })
            .collect();
        lease(redis, campaign, leases).await?;
    }
    let oldest_ms = records.iter().map(|record| due.now_ms.saturating_sub(record.admitted_at)).max().unwrap_or(0);
    Ok(Swept { waiting: due.waiting, taken: due.taken, forwarded: records.len(), oldest_ms })
}

/// The campaigns that have ever been published, in Redis's order.
///
/// # Errors
/// [`Fault`].
pub async fn campaigns<H: Http>(redis: &RedisRest<H>) -> Result<Vec<CampaignId>, Fault> {
    let reply = redis.command(&["SMEMBERS", CAMPAIGNS_KEY]).await?;
    let garbled = || Fault::unknown(Source::Redis, "garbled", "the set of campaigns cannot be read");
    let ids = reply.as_array().ok_or_else(garbled)?;
    Ok(ids.iter().filter_map(|id| CampaignId::parse(id.as_str()?).ok()).collect())
}

/// The answer of `take_due.lua`.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    waiting: u64,
    now_ms: u64,
    taken: usize,
    claims: Vec<(UserId, ClaimEntry)>,
}

impl Due {
    fn read(reply: &Value) -> Option<Self> {
        let fields: Vec<&str> = reply.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
        let (head, pairs) = fields.split_at_checked(2)?;
        let claims = pairs.chunks(2).map(|pair| match pair {
            // An entry that is gone or damaged stays in the outbox, where the operator sees it wait.
            [user, entry] => Some(UserId::parse(user).ok().zip(entry.parse().ok())),
            _ => None,
        });
        Some(Self {
            waiting: head.first()?.parse().ok()?,
            now_ms: head.get(1)?.parse().ok()?,
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
    fn reads_the_due_obligations() {
        let due = Due::read(&json!(["3", "900", "u1", "1:800:a", "u2", "2:801:a"])).unwrap();
        assert_eq!((due.waiting, due.now_ms, due.claims.len()), (3, 900, 2));
        assert_eq!(Due::read(&json!(["0", "900"])).unwrap().claims, []);
    }

    #[test]
    fn an_obligation_without_its_claim_is_left_where_it_is() {
        let due = Due::read(&json!(["2", "900", "gone", "", "u2", "2:801:a"])).unwrap();
        assert_eq!(due.claims.len(), 1);
        assert_eq!(due.waiting, 2);
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        for garbage in [json!(null), json!([]), json!(["1"]), json!(["1", "2", "u1"]), json!([1, 2])] {
            assert_eq!(Due::read(&garbage), None, "{garbage}");
        }
    }
}
