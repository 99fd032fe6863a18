//! The way of a request through the gate: what is answered at once, what needs I/O, what runs in the background.

mod admissions;
mod authenticator;

use crate::batching::admission_queue::AdmissionQueues;
use crate::cache::campaigns::CampaignCache;
use crate::gate::admissions::Admissions;
use crate::gate::authenticator::Authenticator;
use crate::http::common_headers::CommonHeaders;
use crate::http::problem::{Problem, Rejection, not_found_page};
use crate::http::request::{Request, URL_LIMIT_BYTES};
use crate::http::response::Response;
use crate::http::route::{Route, route};
use crate::identity::{AuthError, Identity};
use crate::labels::{Activity, Outcome, RouteLabel};
use crate::outbox::forwarder::Forwarder;
use crate::outbox::sweeper::Sweeper;
use crate::platform::{Limiter, Network, Platform};
use crate::settings::{AdmitAck, Environment, Settings};
use crate::telemetry::Telemetry;
use crate::upstream::admission::{self, Decision, HeldClaim, StoredClaim};
use crate::upstream::kafka_rest::KafkaRest;
use crate::upstream::turnstile::{self, Turnstile};
use dropgate_shared::claim::ClaimStatus;
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::redis_rest::{OTHER_CODE_KEY, RedisRest};
use dropgate_shared::time::Millis;
use serde_json::json;
use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::rc::Rc;

/// A claim needs no body: everything is in its URL and headers.
pub const BODY_LIMIT_BYTES: u64 = 4096;

/// How [`Gate::begin`] leaves a request.
pub enum Begun {
    /// Answered without I/O. The same response may be given to many.
    Done(Rc<Response>),
    /// Needs I/O: [`Gate::finish`].
    Pending(Box<PendingRequest>),
}

pub struct PendingRequest {
    campaign: CampaignId,
    operation: Operation,
    common_headers: CommonHeaders,
    began: Millis,
    /// `traceparent` of the request.
    trace: Option<String>,
    /// The client's network address, as Cloudflare reports it.
    address: Option<String>,
    challenge: Option<String>,
}

enum Operation {
    Claim(Identity),
    OwnClaim(Identity),
    Campaign,
}

/// The gate of one isolate. It wires its parts; each part owns its state and is plain values only, so nothing belongs to
/// one request.
pub struct Gate<H> {
    network: H,
    redis: RedisRest<H>,
    authenticator: Rc<Authenticator<H>>,
    admissions: Rc<Admissions<H>>,
    sweeper: Rc<Sweeper<H>>,
    campaigns: Rc<CampaignCache<H>>,
    turnstile: Option<Turnstile>,
    secrets: Rc<CodeSecrets>,
    kafka_topic: String,
    cors_origins: Vec<String>,
    /// The response to every claim that the sold-out memory rejects.
    sold_out_response: Rc<Response>,
    telemetry: Rc<Telemetry>,
}

impl<H: Network> Gate<H> {
    /// A gate that calls its upstreams through `network`.
    pub fn new(settings: Settings, network: H) -> Self {
        let redis = RedisRest::new(
            network.clone(),
            &settings.redis_url,
            &settings.redis_token,
            settings.redis_deadline_ms,
            settings.redis_key_locking,
        )
        .with_prefix(settings.redis_key_prefix);
        let kafka = KafkaRest::new(
            network.clone(),
            settings.kafka_dialect,
            &settings.kafka_url,
            &settings.kafka_topic,
            settings.kafka_authorization,
            settings.kafka_deadline_ms,
        );
        let redis_deadline = Millis::from(settings.redis_deadline_ms);
        let kafka_deadline = Millis::from(settings.kafka_deadline_ms);
        let claim_timeout = match settings.admit_ack {
            AdmitAck::Redis => redis_deadline + Millis(2_000),
            AdmitAck::Kafka => redis_deadline + Millis(2_000) + kafka_deadline,
        };
        let telemetry = Rc::new(Telemetry::new(settings.log_sample, settings.environment == Environment::Development));
        let campaigns = Rc::new(CampaignCache::new(redis.clone(), redis_deadline, Rc::clone(&telemetry)));
        let queues = AdmissionQueues::new(redis_deadline, claim_timeout);
        let secrets = Rc::new(settings.code_secrets);
        let sweeper = Rc::new(Sweeper::new(redis.clone(), kafka.clone(), settings.sweep_calls, Rc::clone(&telemetry)));
        let forwarder = Rc::new(Forwarder::new(
            redis.clone(),
            kafka,
            settings.admit_ack,
            kafka_deadline + redis_deadline,
            Rc::clone(&sweeper),
            Rc::clone(&telemetry),
        ));
        Self {
            authenticator: Rc::new(Authenticator::new(network.clone(), settings.auth, Rc::clone(&telemetry))),
            admissions: Rc::new(Admissions::new(
                redis.clone(),
                queues,
                Rc::clone(&campaigns),
                forwarder,
                Rc::clone(&secrets),
                claim_timeout,
                Rc::clone(&telemetry),
            )),
            sweeper,
            campaigns,
            turnstile: settings.turnstile,
            secrets,
            kafka_topic: settings.kafka_topic,
            cors_origins: settings.cors_origins,
            sold_out_response: Problem::SoldOut.into(),
            telemetry,
            network,
            redis,
        }
    }

    /// The headers that [`Gate::begin`] reads of nearly every request.
    #[must_use]
    pub fn headers(&self) -> Vec<&'static str> {
        let origin = (!self.cors_origins.is_empty()).then_some("origin");
        [self.authenticator.auth().header(), "x-request-id"].into_iter().chain(origin).collect()
    }

    /// Everything that needs no I/O.
    #[must_use]
    pub fn begin<P: Platform>(&self, request: &Request<'_>, platform: &P) -> Begun {
        let began = platform.now();
        let common_headers = CommonHeaders::of(request, &self.cors_origins);
        let found = if request.url.len() > URL_LIMIT_BYTES {
            Err(Problem::TooLong { limit_bytes: URL_LIMIT_BYTES })
        } else {
            route(request.method, request.path())
        };
        let (label, examined) = match found {
            Ok(route) => (route.label(), self.examine(request, route, &common_headers, began, platform)),
            Err(Problem::NotFound) if request.accepts_html() => (RouteLabel::Unknown, Err(Rc::new(not_found_page()))),
            Err(problem) => (RouteLabel::Unknown, Err(problem.into())),
        };
        let mut response = match examined {
            Ok((campaign, operation)) => {
                return Begun::Pending(Box::new(PendingRequest {
                    campaign,
                    operation,
                    common_headers,
                    began,
                    trace: request.trace(),
                    address: (request.header)("cf-connecting-ip"),
                    challenge: self.turnstile.as_ref().and_then(|_| (request.header)(turnstile::HEADER)),
                }));
            }
            Err(response) => response,
        };
        let request_id = common_headers.request_id.as_deref();
        self.telemetry.record_response(label, began, &response, request_id, None, platform);
        if !common_headers.is_empty() {
            common_headers.apply_to(Rc::make_mut(&mut response));
        }
        Begun::Done(response)
    }

    /// What needs I/O, or the response where nothing does.
    fn examine<P: Platform>(
        &self,
        request: &Request<'_>,
        route: Route,
        common_headers: &CommonHeaders,
        now: Millis,
        platform: &P,
    ) -> Result<(CampaignId, Operation), Rc<Response>> {
        let auth = self.authenticator.auth();
        let reject = |error: AuthError| self.authenticator.reject(&error, platform);
        match route {
            Route::Health => {
                check_body_size(request)?;
                Err(Rc::new(Response::json(200, Outcome::Ok, &json!({ "status": "ok" }))))
            }
            Route::Options(allowed) => Err(Rc::new(common_headers.options(allowed))),
            Route::Campaign(campaign) => {
                check_body_size(request)?;
                match self.campaigns.cached(&campaign, now) {
                    Some(Ok(response)) => Err(Rc::new(self.with_site_key(response))),
                    Some(Err(problem)) => Err(problem.into()),
                    None => Ok((campaign, Operation::Campaign)),
                }
            }
            Route::OwnClaim(campaign) => {
                check_body_size(request)?;
                let header = (request.header)(auth.header());
                let credentials = auth.credentials(header.as_deref()).map_err(reject)?;
                Ok((campaign, Operation::OwnClaim(auth.check(credentials, now).map_err(reject)?)))
            }
            Route::Claim(campaign) => {
                let header = (request.header)(auth.header());
                let credentials = auth.credentials(header.as_deref()).map_err(reject)?;
                // Before any signature is verified: of a user who certainly holds no claim it makes no difference.
                if self.admissions.sold_out().is_sold_out_for(&campaign, &credentials.user, now)
                    && !self.campaigns.is_distrusted(&campaign, now)
                {
                    return Err(Rc::clone(&self.sold_out_response));
                }
                check_body_size(request)?;
                let user = credentials.user.clone();
                let identity = auth.check(credentials, now).map_err(reject)?;
                self.admissions.sold_out().begin_refresh(&campaign, &user, now);
                Ok((campaign, Operation::Claim(identity)))
            }
        }
    }

    /// Everything that needs I/O.
    pub async fn finish<P: Platform>(self: Rc<Self>, pending: Box<PendingRequest>, platform: P) -> Response {
        let PendingRequest { campaign, operation, common_headers, began, trace, address, challenge } = *pending;
        let address = address.as_deref();
        let (route, result) = match operation {
            Operation::Claim(identity) => {
                let challenge = challenge.as_deref();
                let claim = self.claim(&campaign, identity, trace.clone(), address, challenge, &platform);
                (RouteLabel::Claim, claim.await)
            }
            Operation::OwnClaim(identity) => {
                (RouteLabel::OwnClaim, self.own_claim(&campaign, identity, address, &platform).await)
            }
            Operation::Campaign => {
                let result = self.campaigns.get(&campaign, &platform).await;
                (RouteLabel::Campaign, result.map(|response| self.with_site_key(response)))
            }
        };
        let mut response = result.unwrap_or_else(|rejection| match rejection {
            Rejection::Problem(problem) => problem.response(),
            // Whatever the effect of the call, it is no refusal (I8).
            Rejection::Fault(fault) => {
                self.telemetry.record_fault(Activity::Request, &fault, &platform);
                if fault.label == OTHER_CODE_KEY { Problem::other_code_key() } else { Problem::Unavailable }.response()
            }
        });
        let request_id = common_headers.request_id.as_deref();
        self.telemetry.record_response(route, began, &response, request_id, trace.as_deref(), &platform);
        common_headers.apply_to(&mut response);
        self.telemetry.add_timing(response, began, &platform)
    }

    /// The cron: forwards what is due in the outbox. Names what must be the same at the issuer, once for all isolates.
    pub async fn sweep<P: Platform>(&self, platform: &P) {
        platform.log(&json!({
            "event": "settings",
            "redis_key_prefix": self.redis.prefix().as_str(),
            "kafka_topic": self.kafka_topic,
            "code_keys": self.secrets.ids(),
        }));
        self.sweeper.run(platform).await;
    }

    /// A claim: who asks, whether they may, what Redis decides.
    async fn claim<P: Platform>(
        &self,
        campaign: &CampaignId,
        identity: Identity,
        trace: Option<String>,
        address: Option<&str>,
        challenge: Option<&str>,
        platform: &P,
    ) -> Result<Response, Rejection> {
        let user = self.identify(identity, address, platform).await?;
        if let Some(turnstile) = &self.turnstile
            && !turnstile.verify(&self.network, challenge, (campaign, &user), address).await?
        {
            return Err(Problem::ChallengeFailed.into());
        }
        let problem = match self.admissions.decide(campaign, &user, trace, platform).await? {
            Decision::Admitted(held) => return self.claim_response(202, Outcome::Admitted, campaign, &user, &held),
            Decision::Already(held) => return self.claim_response(200, Outcome::Again, campaign, &user, &held),
            Decision::SoldOut => Problem::SoldOut,
            Decision::NotOpen { opens_ms, now_ms } => Problem::NotOpen { opens_ms, now_ms },
            Decision::Closed => Problem::Closed,
            Decision::Paused => Problem::Paused,
            Decision::UnknownCampaign => self.campaigns.missing(campaign, platform).await?,
        };
        Err(match problem {
            Problem::SoldOut | Problem::Closed => self.campaigns.denial(campaign, problem, platform.now()),
            problem => problem,
        }
        .into())
    }

    /// Names the widget whose tokens claims need, for the drop page.
    fn with_site_key(&self, response: Response) -> Response {
        match self.turnstile.as_ref().and_then(|turnstile| turnstile.site_key.as_deref()) {
            Some(key) => response.with("x-challenge-site-key", key),
            None => response,
        }
    }

    async fn own_claim<P: Platform>(
        &self,
        campaign: &CampaignId,
        identity: Identity,
        address: Option<&str>,
        platform: &P,
    ) -> Result<Response, Rejection> {
        let user = self.identify(identity, address, platform).await?;
        let asked = platform.now();
        let (claim, growing) = admission::stored_claim(&self.redis, campaign, &user, &self.secrets).await?;
        if claim != StoredClaim::UnknownCampaign {
            self.campaigns.saw(campaign, growing, asked, platform);
        }
        match claim {
            StoredClaim::Found(held) => self.claim_response(200, Outcome::Claim, campaign, &user, &held),
            StoredClaim::None => Err(self.campaigns.denial(campaign, Problem::NoClaim, platform.now()).into()),
            StoredClaim::UnknownCampaign => Err(self.campaigns.missing(campaign, platform).await?.into()),
        }
    }

    /// The user, verified and within the rate limits.
    async fn identify<P: Platform>(
        &self,
        identity: Identity,
        address: Option<&str>,
        platform: &P,
    ) -> Result<UserId, Rejection> {
        if let Some(address) = address {
            check_limit(Limiter::Address, &limited_network(address), platform).await?;
        }
        let user = self.authenticator.verify(identity, platform).await?;
        check_limit(Limiter::User, user.as_str(), platform).await?;
        Ok(user)
    }

    fn claim_response(
        &self,
        status: u16,
        outcome: Outcome,
        campaign: &CampaignId,
        user: &UserId,
        HeldClaim { entry, code_key }: &HeldClaim,
    ) -> Result<Response, Rejection> {
        let code = match self.secrets.of(Some(*code_key)) {
            // A refused claim has no code: there is no coupon that it could redeem.
            _ if entry.status == ClaimStatus::Refused => None,
            Some(secret) => Some(secret.code(campaign, user)),
            // Any other code than the row's would be worthless.
            None => {
                let ids = self.secrets.ids();
                let detail = format!(
                    "the codes of {campaign} are derived from the secret {code_key}, and COUPON_CODE_SECRET is {ids}"
                );
                return Err(Fault::none(Source::Redis, OTHER_CODE_KEY, false, detail).into());
            }
        };
        let body = json!({
            "status": entry.status.as_str(),
            "campaign": campaign.as_str(),
            "slot": entry.slot,
            "code": code,
            "admitted_at": entry.admitted_ms,
        });
        Ok(Response::json(status, outcome, &body).with("location", format!("/v1/campaigns/{campaign}/claims/me")))
    }
}

fn check_body_size(request: &Request<'_>) -> Result<(), Problem> {
    let length = (request.header)("content-length").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    if length > BODY_LIMIT_BYTES { Err(Problem::TooLarge { limit_bytes: BODY_LIMIT_BYTES }) } else { Ok(()) }
}

/// The key of the rate limit for an address. A household or a server has a whole /64 of IPv6 addresses.
fn limited_network(address: &str) -> Cow<'_, str> {
    match address.parse::<Ipv6Addr>() {
        Ok(v6) => match (v6.to_ipv4_mapped(), v6.segments()) {
            (Some(v4), _) => v4.to_string().into(),
            (None, [a, b, c, d, ..]) => format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)).into(),
        },
        Err(_) => address.into(),
    }
}

async fn check_limit<P: Platform>(limiter: Limiter, key: &str, platform: &P) -> Result<(), Rejection> {
    if platform.within(limiter, key).await? { Ok(()) } else { Err(Problem::TooManyRequests.into()) }
}
