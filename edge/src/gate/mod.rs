//! One request through the gate: what can be answered at once, what needs I/O, what follows after the
//! answer.

mod authenticate;
pub(crate) mod claims;

use crate::batching::admission_queue::AdmissionQueue;
use crate::batching::batch_queue::BatchQueue;
use crate::cache::campaigns::{self, Campaigns};
use crate::cache::single_flight::SingleFlight;
use crate::cache::sold_out::SoldOut;
use crate::counters::{Counters, MetricKey};
use crate::gate::authenticate::Keys;
use crate::http::request::{CommonHeaders, Request, URL_LIMIT_BYTES};
use crate::http::response::{Problem, Response};
use crate::http::route::{Route, route};
use crate::identity::jwks::PublicKeys;
use crate::identity::{Auth, Identity};
use crate::outbox::sweeper::{self, OutgoingRecord, SWEEP_BATCH, Swept};
use crate::platform::{Limiter, Platform};
use crate::settings::{AdmitAck, Environment, Settings};
use crate::upstream::admission::{self, StoredClaim};
use crate::upstream::kafka_rest::KafkaRest;
use crate::upstream::turnstile::{self, Challenge};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::TOPIC;
use dropgate_shared::redis_rest::RedisRest;
use serde_json::json;
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
/// Between two looks for something that another request fetches, ms.
const LOOK_MS: u32 = 5;

/// How the gate reaches others.
pub trait Network: Http + PublicKeys + Clone + 'static {}

impl<T: Http + PublicKeys + Clone + 'static> Network for T {}

/// What a request wants that needs I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    /// Admit this visitor, or say why not.
    Claim(CampaignId, Identity),
    /// Look up this visitor's claim.
    OwnClaim(CampaignId, Identity),
    /// Look up the campaign.
    Campaign(CampaignId),
}

/// A request that needs I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRequest {
    want: Want,
    common_headers: CommonHeaders,
    begun_ms: u64,
    /// `traceparent` of the request.
    pub trace: Option<String>,
    /// The visitor's network address, as Cloudflare tells it.
    address: Option<String>,
    challenge: Option<String>,
}

/// How a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Answered without any I/O. The same answer may be given to many.
    Done(Rc<Response>),
    /// Needs I/O: [`Gate::finish`].
    Pending(Box<PendingRequest>),
}

/// Why a request ends before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It is decided.
    Problem(Problem),
    /// It is not known what became of it.
    Fault(Fault),
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The gate of one isolate. Plain values only: nothing here belongs to one request.
pub struct Gate<H> {
    pub(crate) network: H,
    pub(crate) redis: RedisRest<H>,
    pub(crate) kafka: KafkaRest<H>,
    codes: CodeSecret,
    pub(crate) auth: Auth,
    pub(crate) keys: SingleFlight<Keys>,
    challenge: Option<Challenge>,
    cors_origins: Vec<String>,
    /// Answers tell how long they took.
    expose_timing: bool,
    log_sample: f64,
    counters: Counters,
    campaigns: Campaigns,
    /// Campaigns that this isolate has seen in Redis: if one is missing later, Redis has lost data.
    seen_alive: RefCell<BTreeSet<CampaignId>>,
    pub(crate) sold_out: SoldOut,
    /// The answer to all whom the memory of sold-out campaigns sends away.
    sold_out_response: Rc<Response>,
    /// Claims of campaigns that were seen alive, and of others: a flood of made-up ids must not hold
    /// up a real campaign.
    pub(crate) alive: AdmissionQueue,
    pub(crate) unseen: AdmissionQueue,
    /// Admitted claims on their way to Kafka. May be lost with the isolate: the outbox has them all.
    pub(crate) outgoing: BatchQueue<OutgoingRecord, FORWARDS_IN_FLIGHT>,
    pub(crate) admit_ack: AdmitAck,
    /// How long a visitor waits for a decision, ms.
    pub(crate) claim_timeout_ms: u64,
    redis_deadline_ms: u32,
    swept_ms: Cell<u64>,
}

impl<H: Network> Gate<H> {
    /// A gate that reaches its upstreams through `network`.
    pub fn new(settings: Settings, network: H) -> Self {
        let Settings { redis_url, redis_token, redis_key_locking, redis_deadline_ms, .. } = &settings;
        let step_ms = u64::from(settings.kafka_deadline_ms).saturating_add(u64::from(*redis_deadline_ms));
        let acknowledged_ms = match settings.admit_ack {
            AdmitAck::Redis => 0,
            AdmitAck::Kafka => u64::from(settings.kafka_deadline_ms),
        };
        Self {
            sold_out: SoldOut::default(),
            sold_out_response: Rc::new(Problem::SoldOut.response()),
            campaigns: Campaigns::default(),
            alive: AdmissionQueue::new(*redis_deadline_ms, ALIVE_WAITING),
            unseen: AdmissionQueue::new(*redis_deadline_ms, UNSEEN_WAITING),
            // Produce and move the leases; and the same again where a step of the sweeper follows.
            outgoing: BatchQueue::new(FORWARD_WAITING, FORWARD_BATCH, step_ms.saturating_mul(3)),
            claim_timeout_ms: u64::from(*redis_deadline_ms).saturating_add(2_000).saturating_add(acknowledged_ms),
            redis: RedisRest::new(network.clone(), redis_url, redis_token, *redis_deadline_ms, *redis_key_locking),
            redis_deadline_ms: *redis_deadline_ms,
            kafka: KafkaRest::new(
                network.clone(),
                settings.kafka_dialect,
                &settings.kafka_url,
                TOPIC,
                settings.kafka_authorization,
                settings.kafka_deadline_ms,
            ),
            network,
            codes: settings.code_secret,
            auth: settings.auth,
            keys: SingleFlight::default(),
            challenge: settings.challenge,
            cors_origins: settings.cors_origins,
            expose_timing: settings.environment == Environment::Development,
            log_sample: settings.log_sample,
            counters: Counters::default(),
            admit_ack: settings.admit_ack,
            seen_alive: RefCell::default(),
            swept_ms: Cell::default(),
        }
    }

    /// The headers that [`Gate::begin`] reads of nearly every request.
    #[must_use]
    pub fn headers(&self) -> Vec<&'static str> {
        let origin = (!self.cors_origins.is_empty()).then_some("origin");
        [self.auth.header(), "x-request-id"].into_iter().chain(origin).collect()
    }

    /// Everything that needs no I/O.
    #[must_use]
    pub fn begin<P: Platform>(&self, request: &Request<'_>, platform: &P) -> Begun {
        let now_ms = platform.now_ms();
        let found = if request.url.len() > URL_LIMIT_BYTES {
            Err(Problem::TooLong { limit_bytes: URL_LIMIT_BYTES })
        } else {
            route(request.method, request.path())
        };
        let common_headers = CommonHeaders::of(request, &self.cors_origins);
        let (pattern, next) = match found {
            Ok(route) => (route.pattern(), self.examine(request, route, &common_headers, now_ms)),
            Err(problem) => ("unknown", Err(problem)),
        };
        let response = match next {
            Ok(Next::Want(want)) => {
                let header = request.header;
                return Begun::Pending(Box::new(PendingRequest {
                    want,
                    common_headers,
                    begun_ms: now_ms,
                    trace: request.trace(),
                    address: header("cf-connecting-ip"),
                    challenge: self.challenge.as_ref().and_then(|_| header(turnstile::HEADER)),
                }));
            }
            Ok(Next::Answer(response)) => Rc::new(response),
            Err(Problem::SoldOut) => Rc::clone(&self.sold_out_response),
            Err(problem) => Rc::new(problem.response()),
        };
        self.account(pattern, &response, now_ms, &common_headers, None, platform);
        Begun::Done(if common_headers.is_empty() { response } else { Rc::new(response.dressed(&common_headers)) })
    }

    fn examine(
        &self,
        request: &Request<'_>,
        route: Route,
        common_headers: &CommonHeaders,
        now_ms: u64,
    ) -> Result<Next, Problem> {
        let header = request.header;
        let introduced = || header(self.auth.header());
        let small = || {
            let length = header("content-length").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            if length > BODY_LIMIT_BYTES { Err(Problem::TooLarge { limit_bytes: BODY_LIMIT_BYTES }) } else { Ok(()) }
        };
        Ok(match route {
            Route::Health => {
                small()?;
                Next::Answer(Response::json(200, "ok", &json!({ "status": "ok" })))
            }
            Route::Options(allowed) => Next::Answer(common_headers.options(allowed)),
            Route::Campaign(campaign) => {
                small()?;
                match self.campaigns.fresh(&campaign, now_ms) {
                    Some((age_ms, Some(meta))) => Next::Answer(meta.response(age_ms)),
                    Some((_, None)) => return Err(self.unknown_campaign(&campaign)),
                    None => Next::Want(Want::Campaign(campaign)),
                }
            }
            Route::OwnClaim(campaign) => {
                small()?;
                let introduced = introduced();
                let credentials = self.auth.credentials(introduced.as_deref())?;
                Next::Want(Want::OwnClaim(campaign, self.auth.check(credentials, now_ms)?))
            }
            Route::Claim(campaign) => {
                let introduced = introduced();
                let credentials = self.auth.credentials(introduced.as_deref())?;
                // Before any signature is checked: a name that holds nothing costs nothing.
                if self.sold_out.is_sold_out_for(&campaign, &credentials.user, now_ms) {
                    return Err(Problem::SoldOut);
                }
                small()?;
                let user = credentials.user.clone();
                let identity = self.auth.check(credentials, now_ms)?;
                self.sold_out.begin_refresh(&campaign, &user, now_ms);
                Next::Want(Want::Claim(campaign, identity))
            }
        })
    }

    /// What needs I/O.
    pub async fn finish<P: Platform>(self: Rc<Self>, call: Box<PendingRequest>, platform: P) -> Response {
        let PendingRequest { want, common_headers, begun_ms, trace, address, challenge } = *call;
        let (pattern, answer) = match want {
            Want::Claim(campaign, identity) => {
                let pattern = Route::Claim(campaign.clone()).pattern();
                let asker = Asker { address: address.as_deref(), challenge: challenge.as_deref() };
                (pattern, self.claim_of(campaign, identity, trace.clone(), asker, &platform).await)
            }
            Want::OwnClaim(campaign, identity) => {
                let pattern = Route::OwnClaim(campaign.clone()).pattern();
                (pattern, self.own_claim(&campaign, identity, address.as_deref(), &platform).await)
            }
            Want::Campaign(campaign) => {
                let pattern = Route::Campaign(campaign.clone()).pattern();
                (pattern, self.campaign(&campaign, &platform).await)
            }
        };
        let response = match answer {
            Ok(response) => response,
            Err(Rejection::Problem(problem)) => problem.response(),
            // Whatever became of the call, it is no refusal (I8).
            Err(Rejection::Fault(fault)) => {
                self.report("request", &fault, &platform);
                Problem::Unavailable.response()
            }
        };
        self.account(pattern, &response, begun_ms, &common_headers, trace.as_deref(), &platform);
        let mut response = if common_headers.is_empty() { response } else { response.dressed(&common_headers) };
        if self.expose_timing {
            let took_ms = platform.now_ms().saturating_sub(begun_ms);
            response = response.with("server-timing", format!("gate;dur={took_ms}"));
        }
        response
    }

    /// Counts an answer, and leaves a line of it in the log for some.
    fn account<P: Platform>(
        &self,
        pattern: &'static str,
        response: &Response,
        begun_ms: u64,
        common_headers: &CommonHeaders,
        trace: Option<&str>,
        platform: &P,
    ) {
        let now_ms = platform.now_ms();
        let took_ms = now_ms.saturating_sub(begun_ms);
        self.counters.count(MetricKey { kind: "request", place: pattern, label: response.outcome }, took_ms);
        if let Some(points) = self.counters.due(now_ms) {
            platform.write(&points);
        }
        // That a campaign is paused is somebody's wish, and no failure.
        let failed = response.status >= 500 && response.outcome != "paused";
        if failed || (self.log_sample > 0.0 && platform.random() < self.log_sample) {
            let line = json!({
                "event": "request",
                "route": pattern,
                "status": response.status,
                "outcome": response.outcome,
                "took_ms": took_ms,
                "request_id": common_headers.request_id,
                "trace": trace,
            });
            if failed { platform.log_error(&line) } else { platform.log(&line) }
        }
    }

    /// Counts a fault and tells the operator.
    pub(crate) fn report<P: Platform>(&self, during: &'static str, fault: &Fault, platform: &P) {
        self.counters.count(MetricKey { kind: "fault", place: fault.source.label(), label: fault.label }, 0);
        platform.log_error(&json!({
            "event": "fault",
            "during": during,
            "source": fault.source.label(),
            "label": fault.label,
            "detail": fault.detail,
        }));
    }

    async fn within<P: Platform>(&self, limiter: Limiter, key: &str, platform: &P) -> Result<(), Rejection> {
        match platform.within(limiter, key).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Problem::TooMany.into()),
            Err(detail) => Err(Fault::none(Source::Platform, "limiter", true, detail).into()),
        }
    }

    /// Who the visitor is, if he may ask now.
    async fn identified<P: Platform>(
        self: &Rc<Self>,
        identity: Identity,
        address: Option<&str>,
        platform: &P,
    ) -> Result<UserId, Rejection> {
        if let Some(address) = address {
            self.within(Limiter::Address, address, platform).await?;
        }
        let user = self.user(identity, platform).await?;
        self.within(Limiter::User, user.as_str(), platform).await?;
        Ok(user)
    }

    async fn claim_of<P: Platform>(
        self: &Rc<Self>,
        campaign: CampaignId,
        identity: Identity,
        trace: Option<String>,
        asker: Asker<'_>,
        platform: &P,
    ) -> Result<Response, Rejection> {
        let user = self.identified(identity, asker.address, platform).await?;
        if let Some(challenge) = &self.challenge
            && !challenge.passed(&self.network, asker.challenge, (&campaign, &user), asker.address).await?
        {
            return Err(Problem::ChallengeFailed.into());
        }
        Ok(self.claim(campaign, user, trace, platform).await?)
    }

    async fn own_claim<P: Platform>(
        self: &Rc<Self>,
        campaign: &CampaignId,
        identity: Identity,
        address: Option<&str>,
        platform: &P,
    ) -> Result<Response, Rejection> {
        let user = self.identified(identity, address, platform).await?;
        match admission::stored_claim(&self.redis, campaign, &user).await? {
            StoredClaim::Found(entry) => Ok(self.claim_response(200, "claim", campaign, &user, &entry)),
            StoredClaim::None => Err(Problem::NoClaim.into()),
            StoredClaim::UnknownCampaign => Err(self.unknown_campaign(campaign).into()),
        }
    }

    /// A look at the campaign: one request a second asks Redis for all.
    async fn campaign<P: Platform>(
        self: &Rc<Self>,
        campaign: &CampaignId,
        platform: &P,
    ) -> Result<Response, Rejection> {
        let begun_ms = platform.now_ms();
        let deadline_ms = begun_ms.saturating_add(u64::from(self.redis_deadline_ms)).saturating_add(500);
        let look = self.campaigns.of(campaign, begun_ms);
        loop {
            let now_ms = platform.now_ms();
            if let Some((asked_ms, meta)) = look.fresh(now_ms, campaigns::HOLDS_MS) {
                let meta = meta.ok_or_else(|| self.unknown_campaign(campaign))?;
                return Ok(meta.response(now_ms.saturating_sub(asked_ms)));
            }
            if let Some(fault) = look.fault_since(begun_ms) {
                return Err(fault.into());
            }
            if now_ms >= deadline_ms {
                return Err(Fault::none(Source::Redis, "patience", true, "no answer in time").into());
            }
            if look.try_lead(now_ms, deadline_ms.saturating_sub(begun_ms)) {
                let (gate, campaign, look, later) =
                    (Rc::clone(self), campaign.clone(), Rc::clone(&look), platform.clone());
                platform.after_answer(async move {
                    let meta = admission::campaign_meta(&gate.redis, &campaign).await;
                    if let Ok(Some(_)) = &meta {
                        gate.saw_alive(&campaign);
                    }
                    look.complete(now_ms, later.now_ms(), meta);
                });
            }
            platform.sleep(LOOK_MS).await;
        }
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

    pub(crate) fn claim_response(
        &self,
        status: u16,
        outcome: &'static str,
        campaign: &CampaignId,
        user: &UserId,
        entry: &ClaimEntry,
    ) -> Response {
        // A refused claim has no code to show: what it would open was never issued.
        let code = (entry.status != ClaimStatus::Refused).then(|| self.codes.code(campaign, user));
        let body = json!({
            "status": entry.status.as_str(),
            "campaign": campaign.as_str(),
            "slot": entry.slot,
            "code": code,
            "admitted_at": entry.admitted_ms,
        });
        Response::json(status, outcome, &body).with("location", format!("/v1/campaigns/{campaign}/claims/me"))
    }

    /// Sweeps `campaign` if this isolate has not swept for a while.
    pub(crate) async fn sweep_now_and_then(&self, campaign: &CampaignId, now_ms: u64) -> Result<(), Fault> {
        if now_ms.saturating_sub(self.swept_ms.get()) < SWEEP_EVERY_MS {
            return Ok(());
        }
        self.swept_ms.set(now_ms);
        // One step: the rest is the cron's, or comes with the next visits.
        sweeper::sweep(&self.redis, &self.kafka, campaign).await.map(drop)
    }

    /// Sweeps every campaign: what the cron does. One that fails does not stop the others, and what
    /// waits is told.
    pub async fn sweep<P: Platform>(&self, platform: &P) {
        let campaigns = match sweeper::campaigns(&self.redis).await {
            Ok(campaigns) => campaigns,
            Err(fault) => return self.report("sweep", &fault, platform),
        };
        for campaign in campaigns {
            match self.sweep_campaign(&campaign).await {
                Ok(Swept { waiting: 0, .. }) => {}
                Ok(Swept { waiting, forwarded, oldest_ms, .. }) => platform.log(&json!({
                    "event": "outbox",
                    "campaign": campaign,
                    "waiting": waiting,
                    "forwarded": forwarded,
                    "oldest_ms": oldest_ms,
                })),
                Err(fault) => self.report("sweep", &fault, platform),
            }
        }
    }

    async fn sweep_campaign(&self, campaign: &CampaignId) -> Result<Swept, Fault> {
        let mut total = Swept::default();
        loop {
            let swept = sweeper::sweep(&self.redis, &self.kafka, campaign).await?;
            total.forwarded = total.forwarded.saturating_add(swept.forwarded);
            total.oldest_ms = total.oldest_ms.max(swept.oldest_ms);
            total.waiting = swept.waiting;
            if swept.taken < SWEEP_BATCH {
                return Ok(total);
            }
        }
    }
}

/// What an examined request needs.
enum Next {
    Answer(Response),
    Want(Want),
}

/// What is known of whoever asks, beside his name.
#[derive(Clone, Copy)]
struct Asker<'a> {
    address: Option<&'a str>,
    challenge: Option<&'a str>,
}
