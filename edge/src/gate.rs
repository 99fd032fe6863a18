//! One request through the gate: what can be answered at once, what needs Redis, what follows after
//! the answer.

use crate::admission::{self, StoredClaim};
use crate::errand::Errand;
use crate::identity::identify;
use crate::kafka_rest::KafkaRest;
use crate::lane::Lane;
use crate::queue::Queue;
use crate::relay::{self, SWEEP_BATCH, Swept};
use crate::reply::{Problem, Reply};
use crate::route::{Route, route};
use crate::settings::{Auth, Settings};
use crate::sold_out::SoldOut;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::TOPIC;
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::RedisRest;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

/// A claim says all it has to say in its address and headers.
pub const BODY_LIMIT_BYTES: u64 = 4096;
/// Claims that may wait; beyond that, asking again later is kinder than waiting.
const ALIVE_WAITING: usize = 10_000;
/// The same for campaigns not seen yet. Each made-up id costs a call of its own, so that many of them
/// are through before a real claim among them loses patience.
const UNSEEN_WAITING: usize = 2_000;
/// Produce calls of one isolate in flight at most: a proxy may keep a producer for each connection.
const FORWARDS_IN_FLIGHT: usize = 2;
/// Records in one produce call at most.
const FORWARD_BATCH: usize = 200;
/// Records that may wait to be forwarded; what does not fit is left to the sweeper.
const FORWARD_WAITING: usize = 20_000;
/// How often an isolate that is being visited sweeps beside its cron, in ms.
const SWEEP_EVERY_MS: u64 = 5_000;

/// The parts of a request that the gate looks at.
pub struct Visit<'a> {
    /// Method, upper case.
    pub method: &'a str,
    /// Path, without the query.
    pub path: &'a str,
    /// A header's value by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

/// What a request needs from Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Admit this user, or say why not.
    Claim {
        /// The campaign.
        campaign: CampaignId,
        /// The user.
        user: UserId,
        /// `traceparent` of the request.
        trace: Option<String>,
    },
    /// Look up this user's claim.
    OwnClaim {
        /// The campaign.
        campaign: CampaignId,
        /// The user.
        user: UserId,
    },
    /// Look up the campaign.
    Campaign(CampaignId),
}

/// How a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Answered without any I/O.
    Answer(Reply),
    /// Needs I/O: [`Gate::finish`].
    Call(Call),
}

/// The gate of one isolate. Plain values only: nothing here belongs to one request.
pub struct Gate<H> {
    pub(crate) redis: RedisRest<H>,
    pub(crate) kafka: KafkaRest<H>,
    codes: CodeSecret,
    auth: Auth,
    /// Campaigns that this isolate has seen in Redis: if one is missing later, Redis has lost data.
    seen_alive: RefCell<BTreeSet<CampaignId>>,
    pub(crate) sold_out: SoldOut,
    /// Claims of campaigns that were seen alive, and of others: a flood of made-up ids must not hold
    /// up a real campaign.
    pub(crate) alive: Queue,
    pub(crate) unseen: Queue,
    /// Admitted claims on their way to Kafka. May be lost with the isolate: the outbox has them all.
    pub(crate) outgoing: Lane<AdmissionRecord, FORWARDS_IN_FLIGHT>,
    /// How long a visitor waits for a decision, ms.
    pub(crate) patience_ms: u64,
    swept_ms: Cell<u64>,
}

impl<H: Http + Clone + 'static> Gate<H> {
    /// A gate that reaches its upstreams through `http`.
    pub fn new(settings: Settings, http: H) -> Self {
        let Settings { redis_url, redis_token, redis_key_locking, redis_deadline_ms, .. } = &settings;
        let step_ms = u64::from(settings.kafka_deadline_ms).saturating_add(u64::from(*redis_deadline_ms));
        Self {
            sold_out: SoldOut::default(),
            alive: Queue::new(*redis_deadline_ms, ALIVE_WAITING),
            unseen: Queue::new(*redis_deadline_ms, UNSEEN_WAITING),
            outgoing: Lane::new(FORWARD_WAITING, FORWARD_BATCH, step_ms.saturating_add(1_000)),
            patience_ms: u64::from(*redis_deadline_ms).saturating_add(2_000),
            redis: RedisRest::new(http.clone(), redis_url, redis_token, *redis_deadline_ms, *redis_key_locking),
            kafka: KafkaRest::new(
                http,
                &settings.kafka_url,
                TOPIC,
                settings.kafka_authorization,
                settings.kafka_deadline_ms,
            ),
            codes: settings.code_secret,
            auth: settings.auth,
            seen_alive: RefCell::default(),
            swept_ms: Cell::default(),
        }
    }

    /// Everything that needs no I/O.
    #[must_use]
    pub fn begin(&self, visit: &Visit<'_>, now_ms: u64) -> Step {
        self.examine(visit, now_ms).unwrap_or_else(|problem| Step::Answer(problem.reply()))
    }

    fn examine(&self, visit: &Visit<'_>, now_ms: u64) -> Result<Step, Problem> {
        let header = visit.header;
        let length = header("content-length").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        if length > BODY_LIMIT_BYTES {
            return Err(Problem::TooLarge { limit_bytes: BODY_LIMIT_BYTES });
        }
        Ok(Step::Call(match route(visit.method, visit.path)? {
            Route::Health => return Ok(Step::Answer(Reply::json(200, &json!({ "status": "ok" })))),
            Route::Campaign(campaign) => Call::Campaign(campaign),
            Route::OwnClaim(campaign) => Call::OwnClaim { campaign, user: identify(self.auth, header)? },
            Route::Claim(campaign) => {
                let user = identify(self.auth, header)?;
                if self.sold_out.stranger(&campaign, &user, now_ms) {
                    return Err(Problem::SoldOut);
                }
                let trace = header("traceparent").filter(|t| t.len() == 55 && t.is_ascii());
                Call::Claim { campaign, user, trace }
            }
        }))
    }

    /// What needs I/O.
    pub async fn finish<E: Errand>(self: Rc<Self>, call: Call, errand: E) -> Reply {
        let done = match call {
            Call::Claim { campaign, user, trace } => self.claim(campaign, user, trace, &errand).await,
            Call::OwnClaim { campaign, user } => self.own_claim(&campaign, &user).await,
            Call::Campaign(campaign) => self.campaign(&campaign).await,
        };
        // Whatever became of the call, it is no refusal (I8).
        done.unwrap_or_else(|fault| {
            errand.report("request", &fault);
            Problem::Unavailable.reply()
        })
    }

    async fn own_claim(&self, campaign: &CampaignId, user: &UserId) -> Result<Reply, Fault> {
        Ok(match admission::stored_claim(&self.redis, campaign, user).await? {
            StoredClaim::Found(entry) => self.claim_reply(200, campaign, user, &entry),
            StoredClaim::None => Problem::NoClaim.reply(),
            StoredClaim::UnknownCampaign => self.unknown_campaign(campaign).reply(),
        })
    }

    async fn campaign(&self, campaign: &CampaignId) -> Result<Reply, Fault> {
        let Some(meta) = admission::campaign_meta(&self.redis, campaign).await? else {
            return Ok(self.unknown_campaign(campaign).reply());
        };
        self.saw_alive(campaign);
        let remaining = meta.capacity.saturating_sub(meta.count);
        let over = meta.closes_ms > 0 && meta.now_ms >= meta.closes_ms;
        let state = if meta.state != "open" {
            meta.state.as_str()
        } else if over {
            "closed"
        } else if meta.now_ms < meta.opens_ms {
            "not-open"
        } else if remaining == 0 {
            "sold-out"
        } else {
            "open"
        };
        let body = json!({
            "state": state,
            "capacity": meta.capacity,
            "remaining": remaining,
            "opens_at": meta.opens_ms,
            "closes_at": if meta.closes_ms > 0 { Value::from(meta.closes_ms) } else { Value::Null },
            "server_time": meta.now_ms,
        });
        let mut reply = Reply::json(200, &body);
        reply.headers.retain(|(name, _)| *name != "cache-control");
        Ok(reply.with("cache-control", "public, max-age=1"))
    }

    /// A campaign that this isolate has seen alive does not cease to exist: Redis has lost it, and
    /// until the operator publishes it again nobody may hear that there is no such thing.
    pub(crate) fn unknown_campaign(&self, campaign: &CampaignId) -> Problem {
        if self.is_alive(campaign) { Problem::Unavailable } else { Problem::UnknownCampaign }
    }

    pub(crate) fn is_alive(&self, campaign: &CampaignId) -> bool {
        self.seen_alive.borrow().contains(campaign)
    }

    pub(crate) fn saw_alive(&self, campaign: &CampaignId) {
        let mut seen = self.seen_alive.borrow_mut();
        if !seen.contains(campaign) {
            seen.insert(campaign.clone());
        }
    }

    pub(crate) fn claim_reply(&self, status: u16, campaign: &CampaignId, user: &UserId, entry: &ClaimEntry) -> Reply {
        // A refused claim has no code to show: what it would open was never issued.
        let code = (entry.status != ClaimStatus::Refused).then(|| self.codes.code(campaign, user));
        let body = json!({
            "status": entry.status.as_str(),
            "campaign": campaign.as_str(),
            "slot": entry.slot,
            "code": code,
            "admitted_at": entry.admitted_ms,
        });
        Reply::json(status, &body).with("location", format!("/v1/campaigns/{campaign}/claims/me"))
    }

    /// Sweeps `campaign` if this isolate has not swept for a while.
    pub(crate) async fn sweep_now_and_then(&self, campaign: &CampaignId, now_ms: u64) -> Result<(), Fault> {
        if now_ms.saturating_sub(self.swept_ms.get()) < SWEEP_EVERY_MS {
            return Ok(());
        }
        self.swept_ms.set(now_ms);
        self.sweep_campaign(campaign).await.map(drop)
    }

    /// Sweeps every campaign: what the cron does. One that fails does not stop the others.
    ///
    /// # Errors
    /// [`Fault`] of reading the list of campaigns.
    pub async fn sweep(&self) -> Result<Vec<(CampaignId, Result<Swept, Fault>)>, Fault> {
        let mut results = Vec::new();
        for campaign in relay::campaigns(&self.redis).await? {
            let swept = self.sweep_campaign(&campaign).await;
            results.push((campaign, swept));
        }
        Ok(results)
    }

    async fn sweep_campaign(&self, campaign: &CampaignId) -> Result<Swept, Fault> {
        let mut total = 0_usize;
        loop {
            let swept = relay::sweep(&self.redis, &self.kafka, campaign).await?;
            total = total.saturating_add(swept.forwarded);
            if swept.forwarded < SWEEP_BATCH {
                return Ok(Swept { forwarded: total, ..swept });
            }
        }
    }
}
