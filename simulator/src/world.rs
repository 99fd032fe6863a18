//! The parties of one run and what lies between them.

use crate::clock::Clock;
use crate::history::Admitted;
use crate::isolate::Isolate;
use crate::issuer::{IssuerProcess, Surroundings};
use crate::kafka::rest::{Dialect, RecordEffect, RestFault, RestReply, SimKafkaRest};
use crate::kafka::{BrokerSettings, Kafka};
use crate::mutant::Mutant;
use crate::mysql;
use crate::network::{Answer, Event, Hop, Network, Request, Service, What};
use crate::plan::{FaultKind, Plan, RestDialect};
use crate::random::Random;
use crate::record::{Phase, Record, START_MS};
use crate::redis::rest::Front;
use crate::redis::{Reply, Server};
use dropgate_edge::settings::Settings;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::{CampaignKeys, DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

pub const REDIS_HOST: &str = "redis.example";
pub const KAFKA_REST_HOST: &str = "kafka-rest.example";
const TOKEN: &str = "token";

/// Who has the secret of the codes. Operators have the issuers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeParty {
    Gates,
    Issuers,
}

/// What happened to the secret of the codes at one party.
#[derive(Debug, Clone, Copy, Default)]
pub struct CodeSecretState {
    pub is_replaced: bool,
    /// Deployed with another one, by mistake.
    pub is_wrong: bool,
    /// It was, at some time.
    pub was_wrong: bool,
}

/// The world of one run.
pub struct World {
    pub clock: Clock,
    pub random: Random,
    pub network: Network,
    pub redis: Rc<RefCell<Front>>,
    pub kafka: Kafka,
    pub mysql: mysql::Server,
    pub isolates: RefCell<Vec<Isolate>>,
    pub issuers: RefCell<Vec<Rc<IssuerProcess>>>,
    /// Those in whose place another one was started.
    pub replaced_issuers: RefCell<Vec<Rc<IssuerProcess>>>,
    pub campaigns: Vec<CampaignId>,
    pub record: Rc<RefCell<Record>>,
    pub plan: Plan,
    pub mutant: Option<Mutant>,
    pub gate_secret: Cell<CodeSecretState>,
    pub issuer_secret: Cell<CodeSecretState>,
    /// Faults of the Kafka REST proxy that last.
    pub rest_partial: Rc<Cell<bool>>,
    births: Cell<u64>,
}

impl World {
    /// The world of `plan`, with its servers and topics, and with nobody in it yet.
    #[must_use]
    pub fn new(plan: &Plan, mutant: Option<Mutant>, keep_trace: bool) -> Rc<Self> {
        let clock = Clock::starting_at(START_MS);
        let random = Random::new(plan.seed);
        let campaigns: Vec<CampaignId> =
            (0..plan.setup.campaigns.len()).filter_map(|at| CampaignId::parse(&format!("c{at}")).ok()).collect();
        let record = Rc::new(RefCell::new(Record::new(campaigns.len(), keep_trace)));
        let kafka = Kafka::start(BrokerSettings { epoch_ms: START_MS, ..BrokerSettings::default() });
        kafka.create_topic(TOPIC, plan.setup.partitions);
        kafka.create_topic(DEAD_LETTER_TOPIC, 1);
        let mut way = random.split("kafka way");
        kafka.set_latency(move || Duration::from_millis(way.range(0..=3)));
        let redis = Rc::new(RefCell::new(Front::new(Server::new(clock, plan.seed), TOKEN)));
        let sink = Rc::clone(&record);
        let mysql = mysql::Server::new(
            mysql::Settings {
                schema: mutant.map(Mutant::schema).unwrap_or_default(),
                statement_ms: 0,
                ..mysql::Settings::default()
            },
            Box::new(move |kind, place| {
                sink.borrow_mut().line(clock.now_ms() - START_MS, &format!("mysql {kind} {place}"));
            }),
        );
        let sink = Rc::clone(&record);
        let network = Network::new(random.split("network"), clock, move |event: &Event| {
            if let What::Fault(_) = event.what {
                let text = format!("net   {} -> {} #{} {:?}", event.from, event.to, event.request, event.what);
                sink.borrow_mut().line(event.at_ms - START_MS, &text);
            }
        });
        let world = Rc::new(Self {
            clock,
            random,
            network,
            redis,
            kafka,
            mysql,
            isolates: RefCell::default(),
            issuers: RefCell::default(),
            replaced_issuers: RefCell::default(),
            campaigns,
            record,
            plan: plan.clone(),
            mutant,
            gate_secret: Cell::default(),
            issuer_secret: Cell::default(),
            rest_partial: Rc::default(),
            births: Cell::new(0),
        });
        world.network.serve(REDIS_HOST, Rc::new(RedisService { world: Rc::downgrade(&world) }));
        world.network.serve(KAFKA_REST_HOST, Rc::new(world.kafka_rest()));
        world.set_hops(false);
        world
    }

    /// ms since the run began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms() - START_MS
    }

    pub fn line(&self, text: &str) {
        self.record.borrow_mut().line(self.now_ms(), text);
    }

    /// The hops with the faults of the plan, or without any.
    pub fn set_hops(&self, with_faults: bool) {
        for (host, hop) in [(REDIS_HOST, &self.plan.setup.redis_hop), (KAFKA_REST_HOST, &self.plan.setup.kafka_hop)] {
            let delay_ms = hop.delay_ms.0..=hop.delay_ms.1;
            let hop = if with_faults {
                Hop {
                    delay_ms,
                    late: if hop.duplicate > 0.0 { 0.1 } else { 0.0 },
                    late_ms: 1..=8_000,
                    drop_before: hop.drop_before,
                    drop_after: hop.drop_after,
                    duplicate: hop.duplicate,
                    garbage: hop.garbage,
                    status_500: hop.status_500,
                    ..Hop::default()
                }
            } else {
                Hop { delay_ms, ..Hop::default() }
            };
            for party in ["gate", "issuer", "operator"] {
                // Operators work on a good network: what they see is what they act on.
                let hop = if party == "operator" { Hop::default() } else { hop.clone() };
                self.network.set_hop(party, host, Some(hop));
            }
        }
    }

    fn kafka_rest(&self) -> KafkaRestService {
        let dialect = match self.plan.setup.kafka_rest {
            RestDialect::Confluent => Dialect::Confluent,
            RestDialect::Redpanda => Dialect::Redpanda,
            RestDialect::Strimzi => Dialect::Strimzi,
            RestDialect::Karapace => Dialect::Karapace,
        };
        let proxy = SimKafkaRest::new(&self.kafka, dialect);
        let (partial, mut dice) = (Rc::clone(&self.rest_partial), self.random.split("kafka rest"));
        proxy.fail(move |records| {
            if !partial.get() {
                return None;
            }
            let fates = [RecordEffect::Produced, RecordEffect::Failed, RecordEffect::ProducedButFailed];
            let mut each = || (0..records).filter_map(|_| dice.pick(&fates).copied()).collect::<Vec<_>>();
            let (records, whole) = (each(), each());
            match dice.below(5) {
                0 => Some(RestFault::Overloaded),
                1 => Some(RestFault::WholeCall(whole)),
                2 => Some(RestFault::Silent),
                _ => Some(RestFault::Records(records)),
            }
        });
        KafkaRestService(proxy)
    }

    fn skew(&self, who: &str) -> Clock {
        let most = self.plan.setup.skew_ms;
        let drawn = self.random.split(who).range(0..=(2 * most).unsigned_abs());
        self.clock.skewed(i64::try_from(drawn).unwrap_or(0) - most)
    }

    /// A number that no other birth has, so that no two parties draw the same.
    fn birth(&self) -> u64 {
        self.births.set(self.births.get() + 1);
        self.births.get()
    }

    /// Changes what a party has. Its processes have it from their next start.
    pub fn change_code_secret(&self, party: CodeParty, change: impl FnOnce(&mut CodeSecretState)) {
        let cell = self.code_secret(party);
        let mut state = cell.get();
        change(&mut state);
        cell.set(state);
    }

    fn code_secret(&self, party: CodeParty) -> &Cell<CodeSecretState> {
        match party {
            CodeParty::Gates => &self.gate_secret,
            CodeParty::Issuers => &self.issuer_secret,
        }
    }

    /// `COUPON_CODE_SECRET` and `COUPON_CODE_SECRET_PREVIOUS` of a party. Two that are wrong are different.
    #[must_use]
    pub fn code_secret_settings(&self, party: CodeParty) -> (String, Option<String>) {
        let CodeSecretState { is_replaced, is_wrong, .. } = self.code_secret(party).get();
        let secret = |name: &str| format!("the {name} secret of the simulation");
        match (is_wrong, is_replaced) {
            (true, _) => (secret(&format!("wrong {party:?}")), None),
            (false, true) => (secret("second"), Some(secret("first"))),
            (false, false) => (secret("first"), None),
        }
    }

    /// The same for issuers and operators.
    #[must_use]
    pub fn issuer_secrets(&self) -> CodeSecrets {
        let parse = |text: String| CodeSecret::parse(&text).unwrap_or_else(|_| unreachable!("it is long enough"));
        let (current, previous) = self.code_secret_settings(CodeParty::Issuers);
        CodeSecrets::new(parse(current), previous.map(parse))
    }

    /// An isolate is born.
    #[must_use]
    pub fn isolate(&self) -> Isolate {
        let ack = if self.plan.setup.ack_by_kafka { "kafka" } else { "redis" };
        let (secret, previous) = self.code_secret_settings(CodeParty::Gates);
        let settings = Settings::read(|name| {
            let value = match name {
                "ENVIRONMENT" => "development",
                "UPSTASH_REDIS_REST_URL" => "http://redis.example",
                "UPSTASH_REDIS_REST_TOKEN" => TOKEN,
                "KAFKA_REST_URL" => "http://kafka-rest.example",
                "COUPON_CODE_SECRET" => &secret,
                "COUPON_CODE_SECRET_PREVIOUS" => previous.as_deref()?,
                "AUTH" => "insecure-header",
                "ADMIT_ACK" => ack,
                "LOG_SAMPLE" => "0",
                _ => return None,
            };
            Some(value.to_owned())
        });
        let settings = settings.unwrap_or_else(|error| unreachable!("settings of the simulation: {error}"));
        let birth = format!("isolate {}", self.birth());
        let (record, clock) = (Rc::clone(&self.record), self.clock);
        let log = Rc::new(move |line: &Value| {
            record.borrow_mut().line(clock.now_ms() - START_MS, &format!("gate  {line}"));
        });
        Isolate::new(settings, self.network.port("gate"), self.skew(&birth), self.random.split(&birth), log)
    }

    /// An issuer's process starts.
    #[must_use]
    pub fn issuer(&self) -> IssuerProcess {
        let birth = format!("issuer {}", self.birth());
        IssuerProcess::start(Surroundings {
            kafka: self.kafka.clone(),
            mysql: self.mysql.store(3),
            redis: self.redis_client("issuer"),
            clock: self.skew(&birth),
            random: self.random.split(&birth),
            secrets: self.issuer_secrets(),
            batch_records: self.plan.setup.batch_records,
            write_budget: self.plan.setup.write_budget.clone(),
            record: Rc::clone(&self.record),
            world_clock: self.clock,
            mutant: self.mutant,
        })
    }

    #[must_use]
    pub fn redis_client(&self, party: &str) -> RedisRest<crate::network::Port> {
        RedisRest::new(self.network.port(party), "http://redis.example", TOKEN, 5_000, false)
    }

    /// The claims that Redis holds, by user.
    #[must_use]
    pub fn claims(&self, campaign: usize) -> BTreeMap<String, String> {
        let Some(id) = self.campaigns.get(campaign) else { return BTreeMap::new() };
        let reply = self.redis.borrow_mut().server.inspect(&["HGETALL", &CampaignKeys::of(id).claims]);
        let texts: Vec<String> = texts(&reply);
        texts.chunks(2).filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone()))).collect()
    }

    /// A field of a campaign's meta.
    #[must_use]
    pub fn meta(&self, campaign: usize, field: &str) -> Option<String> {
        let id = self.campaigns.get(campaign)?;
        let reply = self.redis.borrow_mut().server.inspect(&["HGET", &CampaignKeys::of(id).meta, field]);
        reply.text().map(|text| text.into_owned())
    }

    #[must_use]
    pub fn outbox(&self, campaign: usize) -> usize {
        let Some(id) = self.campaigns.get(campaign) else { return 0 };
        let reply = self.redis.borrow_mut().server.inspect(&["ZCARD", &CampaignKeys::of(id).outbox]);
        match reply {
            Reply::Int(count) => usize::try_from(count).unwrap_or(0),
            _ => 0,
        }
    }

    /// Carries out something that may cost Redis data, and writes down which claims are gone.
    pub fn losing<T>(&self, act: impl FnOnce(&mut Front) -> T) -> T {
        let before: Vec<_> = (0..self.campaigns.len()).map(|campaign| self.claims(campaign)).collect();
        let done = act(&mut self.redis.borrow_mut());
        let now_ms = self.now_ms();
        for (campaign, before) in before.into_iter().enumerate() {
            let after = self.claims(campaign);
            for user in before.keys().filter(|user| !after.contains_key(*user)) {
                if let Some(lost) = self.record.borrow_mut().lost.get_mut(campaign) {
                    lost.entry(user.clone()).or_insert(now_ms);
                }
            }
        }
        done
    }

    /// The phase in which the campaigns are: that of the first one.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let handed_out = self.record.borrow().admissions.first().map_or(0, Vec::len);
        let Some(id) = self.campaigns.first() else { return Phase::Before };
        let capacity = self.capacity(0) as usize;
        if handed_out == 0 {
            Phase::Before
        } else if handed_out < capacity {
            Phase::Admitting
        } else if self.mysql.coupons(id).len() < capacity {
            Phase::SoldOut
        } else {
            Phase::Settled
        }
    }

    /// The newest allotment of a campaign.
    #[must_use]
    pub fn capacity(&self, campaign: usize) -> u32 {
        let allotments = self.campaigns.get(campaign).map(|id| self.mysql.allotments(id)).unwrap_or_default();
        allotments.into_iter().map(|(capacity, _)| capacity).max().unwrap_or(0)
    }

    pub fn struck(&self, fault: FaultKind) {
        let phase = self.phase();
        *self.record.borrow_mut().struck.entry((fault, phase)).or_default() += 1;
    }
}

fn texts(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Array(items) => items.iter().filter_map(|item| item.text().map(|text| text.into_owned())).collect(),
        _ => Vec::new(),
    }
}

/// Redis as the network sees it.
struct RedisService {
    world: std::rc::Weak<World>,
}

impl Service for RedisService {
    fn serve(&self, request: Request) -> Answer {
        let Some(world) = self.world.upgrade() else { return Box::pin(std::future::pending()) };
        let admission = AdmissionCall::read(&world, &request.body);
        let before = admission.as_ref().map(|call| call.entries(&world));
        let body = mutated(&world, &request.body);
        let (status, reply) = world.redis.borrow_mut().handle(
            request.method,
            request.path(),
            request.header("authorization"),
            body.as_deref().unwrap_or(&request.body),
        );
        if let Some((call, before)) = admission.zip(before) {
            call.note(&world, &before);
        }
        Box::pin(std::future::ready((status, reply.into_bytes())))
    }
}

/// A call of a script that the run's mutant changes: the changed text runs instead.
fn mutated(world: &World, body: &str) -> Option<String> {
    let mutant = world.mutant?;
    let script = scripts::ALL.into_iter().find(|script| body.contains(script.sha1))?;
    let mut call: Vec<Value> = serde_json::from_str(body).ok()?;
    let [command, text, ..] = call.as_mut_slice() else { return None };
    *text = mutant.script(script)?.into();
    *command = "EVAL".into();
    serde_json::to_string(&call).ok()
}

/// A call of `admit.lua`. What it admits is seen in the claims, whatever it answers.
struct AdmissionCall {
    campaign: usize,
    users: Vec<String>,
}

impl AdmissionCall {
    fn read(world: &World, body: &str) -> Option<Self> {
        if !body.contains(scripts::ADMIT.sha1) && !body.starts_with("[\"EVAL\",\"-- Admits") {
            return None;
        }
        let call: Vec<String> = serde_json::from_str(body).ok()?;
        let keys: usize = call.get(2)?.parse().ok()?;
        let meta = call.get(3)?;
        let campaign = world.campaigns.iter().position(|id| *meta == CampaignKeys::of(id).meta)?;
        // After the keys come the lease and the key ids, then the users.
        Some(Self { campaign, users: call.get(keys + 5..)?.to_vec() })
    }

    fn entries(&self, world: &World) -> Vec<Option<String>> {
        let Some(id) = world.campaigns.get(self.campaign) else { return Vec::new() };
        let keys = CampaignKeys::of(id);
        let mut command = vec!["HMGET", keys.claims.as_str()];
        command.extend(self.users.iter().map(String::as_str));
        match world.redis.borrow_mut().server.inspect(&command) {
            Reply::Array(entries) => entries.iter().map(|entry| entry.text().map(|text| text.into_owned())).collect(),
            _ => Vec::new(),
        }
    }

    fn note(&self, world: &World, before: &[Option<String>]) {
        let (after, at_ms) = (self.entries(world), world.now_ms());
        for ((user, before), after) in self.users.iter().zip(before).zip(after) {
            let (None, Some(entry)) = (before, after.and_then(|entry| entry.parse::<ClaimEntry>().ok())) else {
                continue;
            };
            let mut record = world.record.borrow_mut();
            let Some(admissions) = record.admissions.get_mut(self.campaign) else { continue };
            let admitted = Admitted { at_ms, user: user.clone(), entry };
            // A user may come twice in one call.
            if admissions.last() != Some(&admitted) {
                admissions.push(admitted);
                record.line(at_ms, &format!("redis c{} admits {user} {entry}", self.campaign));
            }
        }
    }
}

/// The Kafka REST proxy as the network sees it.
struct KafkaRestService(SimKafkaRest);

impl Service for KafkaRestService {
    fn serve(&self, request: Request) -> Answer {
        let proxy = self.0.clone();
        Box::pin(async move {
            let content_type = request.header("content-type").unwrap_or_default().to_owned();
            match proxy.exchange(&request.url, &content_type, request.body.as_bytes(), 60_000).await {
                RestReply::Answer { status, body } => (status, body),
                RestReply::Refused => (503, Vec::new()),
                RestReply::Silence => std::future::pending().await,
            }
        })
    }
}
