//! One run: the plan is carried out, faults end, and the promises are judged.

use crate::history::{Answer, Answered, CampaignFacts};
use crate::kafka::Availability;
use crate::mutant::Mutant;
use crate::mysql::{At, Away, LostRow, Strike};
use crate::network::Hop;
use crate::operator::Act;
use crate::oracle::Oracle;
use crate::plan::{ACTIVE_MS, FaultKind, Operation, Plan};
use crate::record::{GROUP, Phase, START_MS};
use crate::redis::{CommandFault, Lag, Snapshot};
use crate::tasks;
use crate::violation::{Kind, Violation};
use crate::world::{CodeParty, CodeSecretState, KAFKA_REST_HOST, REDIS_HOST, World};
use dropgate_issuer::operator::verify::findings::Verdict;
use dropgate_issuer::timestamp;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::record::AdmissionRecord;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

/// After the last operation every fault has ended within this time, ms.
const FAULTS_END_MS: u64 = 65_000;
/// All must be quiet this long after the faults ended, ms: longer than the longest lease of the outbox.
const QUIET_WITHIN_MS: u64 = 6 * 3_600_000;
/// Between two looks at what must hold at every moment, ms.
const WATCH_EVERY_MS: u64 = 1_500;
/// How far a replica of Redis or MySQL lags at most when it takes over, ms.
const REPLICA_LAG_MS: u64 = 3_000;
/// A claim is repeated so often before its user gives up.
const ATTEMPTS: u32 = 8;

/// What came out of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// How often each fault struck, in which phase.
    pub struck: BTreeMap<(FaultKind, Phase), u64>,
    pub answers: u64,
    /// The same for two runs of one plan.
    pub digest: u64,
    /// The trace, where it was asked for.
    pub trace: String,
    /// Virtual time that the run took, ms.
    pub virtual_ms: u64,
}

/// Carries out `plan`.
#[must_use]
pub fn execute(plan: &Plan, mutant: Option<Mutant>) -> Report {
    execute_traced(plan, mutant, false)
}

/// The same, with the trace.
#[must_use]
pub fn execute_traced(plan: &Plan, mutant: Option<Mutant>, keep_trace: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else { unreachable!("a runtime without I/O can always be made") };
    let local = LocalSet::new();
    drop(tasks::take_crashes());
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(local.run_until(async { run(plan, mutant, keep_trace).await }))
    }));
    let mut report = ran.unwrap_or_default();
    for crash in tasks::take_crashes() {
        report.violations.push(Violation { kind: Kind::Crashed, detail: crash });
    }
    report
}

async fn run(plan: &Plan, mutant: Option<Mutant>, keep_trace: bool) -> Report {
    let world = World::new(plan, mutant, keep_trace);
    let watched = Rc::new(RefCell::new(Oracle::default()));
    let mut oracle = Oracle::default();
    for campaign in 0..world.campaigns.len() {
        if let Err(error) = world.create(campaign).await {
            oracle.found(Kind::Stuck, format!("c{campaign} cannot be created: {error}"));
        }
    }
    {
        // What was published before the first visitor comes is on the replicas: a failover does not lose it.
        let mut front = world.redis.borrow_mut();
        let published = front.server.snapshot();
        front.server.restore(&published);
    }
    for _ in 0..plan.setup.isolates {
        let isolate = world.isolate();
        world.isolates.borrow_mut().push(isolate);
    }
    for _ in 0..plan.setup.issuers {
        let issuer = Rc::new(world.issuer());
        world.issuers.borrow_mut().push(issuer);
    }
    spawn_local(cron(Rc::clone(&world)));
    spawn_local(replicate(Rc::clone(&world)));
    let watch = spawn_local(watch(Rc::clone(&world), Rc::clone(&watched)));
    world.mysql.set_statement_ms(plan.setup.mysql_ms);
    world.set_hops(true);
    let actor = Rc::new(Actor::new(Rc::clone(&world)));
    for timed in &plan.operations {
        let now_ms = world.now_ms();
        if timed.at_ms > now_ms {
            sleep(Duration::from_millis(timed.at_ms - now_ms)).await;
        }
        world.line(&format!("do    {:?}", timed.operation));
        Actor::perform(&actor, timed.operation.clone());
    }
    let ended_ms = world.now_ms().max(ACTIVE_MS);
    sleep(Duration::from_millis(ended_ms - world.now_ms())).await;
    world.set_hops(false);
    sleep(Duration::from_millis(FAULTS_END_MS)).await;
    world.line("---   faults have ended");
    watch.abort();
    oracle.violations.append(&mut watched.borrow_mut().violations);
    actor.recover().await;

    let is_quiet = quiet(&world).await;
    let facts: Vec<CampaignFacts> = (0..world.campaigns.len()).map(|campaign| facts(&world, campaign)).collect();
    if !is_quiet {
        oracle.found(Kind::NotQuiet, unquiet(&world));
    }
    judge(&world, &facts, &mut oracle);
    if is_quiet && oracle.violations.is_empty() {
        // The promises hold; does `verify` say so, and does the system still work?
        verdicts(&world, &mut oracle).await;
        aftermath(&actor, &mut oracle).await;
    }
    let answers = world.record.borrow().answers.clone();
    oracle.answers(&facts, &answers);

    for issuer in world.issuers.borrow().iter() {
        issuer.kill();
    }
    for isolate in world.isolates.borrow().iter() {
        isolate.evict();
    }
    let mut record = world.record.borrow_mut();
    Report {
        violations: oracle.violations,
        struck: std::mem::take(&mut record.struck),
        answers: answers.len() as u64,
        digest: record.digest(),
        trace: std::mem::take(&mut record.trace),
        virtual_ms: world.now_ms(),
    }
}

/// Once a minute, in an isolate of its own, and the supervisor of the issuers with it.
async fn cron(world: Rc<World>) {
    let mut last = None;
    loop {
        sleep(Duration::from_secs(60)).await;
        let isolate = world.isolate();
        isolate.cron();
        last.replace(isolate);
        let ended = world.issuers.borrow().iter().position(|issuer| issuer.has_ended() && !issuer.is_held_down());
        if let Some(at) = ended {
            world.line(&format!("super issuer {at} starts again"));
            restart(&world, at);
        }
    }
}

/// What was committed a while ago is on the replica of MySQL.
async fn replicate(world: Rc<World>) {
    loop {
        world.mysql.replicate();
        sleep(Duration::from_millis(REPLICA_LAG_MS)).await;
    }
}

fn restart(world: &World, at: usize) {
    let fresh = Rc::new(world.issuer());
    if let Some(place) = world.issuers.borrow_mut().get_mut(at) {
        // It may go on, if it was frozen or is still stopping.
        world.replaced_issuers.borrow_mut().push(std::mem::replace(place, fresh));
    }
}

/// Everything of a party starts again with other secrets.
fn redeploy(world: &World, party: CodeParty, change: impl FnOnce(&mut CodeSecretState)) {
    world.change_code_secret(party, change);
    if party == CodeParty::Gates {
        let fresh: Vec<_> = world.isolates.borrow().iter().map(|_| world.isolate()).collect();
        for old in world.isolates.replace(fresh) {
            old.evict();
        }
    } else {
        // None with the old settings goes on anywhere.
        for old in world.replaced_issuers.borrow().iter() {
            old.kill();
        }
        let count = world.issuers.borrow().len();
        for at in 0..count {
            let old = world.issuers.borrow().get(at).map(Rc::clone);
            // One that is down starts with what there is by then.
            if let Some(old) = old.filter(|old| !old.is_held_down()) {
                old.kill();
                restart(world, at);
            }
        }
    }
}

/// Begins a fault (true), or ends it.
type Switch = Box<dyn Fn(&World, bool)>;

/// Carries out operations.
struct Actor {
    world: Rc<World>,
    snapshot: RefCell<Option<Snapshot>>,
    /// Users of the aftermath, each new.
    fresh: Cell<u32>,
    /// Redis has lost data, and MySQL commits: the documented repairs are due.
    redis_lost: Cell<bool>,
    commits_lost: Cell<bool>,
}

impl Actor {
    fn new(world: Rc<World>) -> Self {
        Self {
            world,
            snapshot: RefCell::default(),
            fresh: Cell::default(),
            redis_lost: Cell::default(),
            commits_lost: Cell::default(),
        }
    }

    /// Begins an operation; what lasts goes on in a task of its own.
    fn perform(actor: &Rc<Self>, operation: Operation) {
        let world = Rc::clone(&actor.world);
        if let Some(fault) = operation.fault() {
            // A hang-up strikes when it cancels a request.
            if fault != FaultKind::HangUp {
                world.struck(fault);
            }
        }
        let lasting = |for_ms: u64, begin: Switch| {
            let world = Rc::clone(&world);
            begin(&world, true);
            spawn_local(async move {
                sleep(Duration::from_millis(for_ms)).await;
                world.line("---   a fault ends");
                begin(&world, false);
            });
        };
        match operation {
            Operation::Claim { user, campaign, isolate } => {
                spawn_local(claim(world, campaign, name(user), isolate));
            }
            Operation::HangUp { user, campaign, isolate, after_ms } => {
                let after = Duration::from_millis(after_ms);
                spawn_local(async move {
                    let answer = send_claim(&world, campaign, &name(user), isolate, Some(after)).await;
                    if answer == Answer::Unknown {
                        world.struck(FaultKind::HangUp);
                    }
                });
            }
            Operation::OwnClaim { user, campaign, isolate } => {
                spawn_local(async move {
                    let path = format!("/v1/campaigns/c{campaign}/claims/me");
                    send(&world, "GET", path, campaign, &name(user), isolate, None).await;
                });
            }
            Operation::Look { campaign, isolate } => {
                spawn_local(async move {
                    let path = format!("/v1/campaigns/c{campaign}");
                    send(&world, "GET", path, campaign, "", isolate, None).await;
                });
            }
            Operation::Evict { isolate } => {
                let fresh = world.isolate();
                let mut isolates = world.isolates.borrow_mut();
                let at = isolate % isolates.len().max(1);
                if let Some(place) = isolates.get_mut(at) {
                    place.evict();
                    *place = fresh;
                }
            }
            Operation::IssuerKill { issuer, down_ms } => Self::take_down(actor, issuer, down_ms, true),
            Operation::IssuerStop { issuer, down_ms } => Self::take_down(actor, issuer, down_ms, false),
            Operation::IssuerFreeze { issuer, for_ms } => {
                let at = issuer % world.issuers.borrow().len().max(1);
                // The same process goes on later, although another may have taken its place by then.
                let frozen = world.issuers.borrow().get(at).map(Rc::clone);
                if let Some(issuer) = frozen {
                    issuer.freeze();
                    spawn_local(async move {
                        sleep(Duration::from_millis(for_ms)).await;
                        world.line("---   a fault ends");
                        issuer.thaw();
                    });
                }
            }
            Operation::RedisAway { for_ms } => {
                lasting(for_ms, Box::new(|world, begins| world.redis.borrow_mut().redis_away = begins));
            }
            Operation::RedisSlow { by_ms, for_ms } => lasting(
                for_ms,
                Box::new(move |world, begins| {
                    if begins {
                        let slow = Hop { delay_ms: by_ms / 2..=by_ms, ..Hop::default() };
                        for party in ["gate", "issuer"] {
                            world.network.set_hop(party, REDIS_HOST, Some(slow.clone()));
                        }
                    } else {
                        world.set_hops(world.now_ms() < ACTIVE_MS);
                    }
                }),
            ),
            Operation::RedisReadOnly { for_ms } => {
                lasting(for_ms, Box::new(|world, begins| world.redis.borrow_mut().server.read_only = begins));
            }
            Operation::RedisOutOfMemory { for_ms } => {
                lasting(for_ms, Box::new(|world, begins| world.redis.borrow_mut().server.out_of_memory = begins));
            }
            Operation::RedisScriptFlush => world.redis.borrow_mut().server.flush_scripts(),
            Operation::RedisLoseWrites { count } => {
                actor.redis_lost.set(true);
                world.losing(|front| {
                    // No replica lags for longer.
                    let recent = front.server.units_within(REPLICA_LAG_MS);
                    front.server.lose_suffix(count.min(recent));
                    front.server.flush_scripts();
                });
            }
            Operation::RedisSnapshot => {
                *actor.snapshot.borrow_mut() = Some(world.redis.borrow().server.snapshot());
            }
            Operation::RedisRestore => {
                actor.redis_lost.set(true);
                if let Some(snapshot) = actor.snapshot.borrow().as_ref() {
                    world.losing(|front| {
                        front.server.restore(snapshot);
                        front.server.flush_scripts();
                    });
                }
            }
            Operation::RedisFlush { publish_after_ms } => {
                actor.redis_lost.set(true);
                world.losing(|front| {
                    front.server.command(&["FLUSHALL"]);
                    front.server.flush_scripts();
                });
                spawn_local(async move {
                    sleep(Duration::from_millis(publish_after_ms)).await;
                    for campaign in 0..world.campaigns.len() {
                        let _ = world.act(campaign, Act::Publish).await;
                    }
                });
            }
            Operation::RedisFailInScript { command } => {
                let fault = CommandFault::once(command.name(), 1, crate::redis::ACL_DENIED);
                world.redis.borrow_mut().server.fail_command_in_script(Some(fault));
            }
            Operation::RedisReplicaLag { for_ms } => lasting(
                for_ms,
                Box::new(|world, begins| {
                    let lags: &[Lag] = if begins { &[Lag::Ms(2_000), Lag::Writes(5), Lag::Writes(0)] } else { &[] };
                    world.redis.borrow_mut().server.set_replicas(lags);
                }),
            ),
            Operation::KafkaRestAway { for_ms } => lasting(
                for_ms,
                Box::new(|world, begins| {
                    let refuse = Hop { refuse: 1.0, ..Hop::default() };
                    if begins {
                        world.network.set_hop("gate", KAFKA_REST_HOST, Some(refuse));
                    } else {
                        world.set_hops(world.now_ms() < ACTIVE_MS);
                    }
                }),
            ),
            Operation::KafkaRestPartial { for_ms } => {
                lasting(for_ms, Box::new(|world, begins| world.rest_partial.set(begins)));
            }
            Operation::KafkaAway { for_ms } => lasting(
                for_ms,
                Box::new(move |world, begins| {
                    let broken = if for_ms % 2 == 0 { Availability::Down } else { Availability::Hangs };
                    world.kafka.set_availability(if begins { broken } else { Availability::Up });
                }),
            ),
            Operation::TopicRecreated => {
                world.kafka.delete_topic(TOPIC);
                world.kafka.create_topic(TOPIC, world.plan.setup.partitions);
            }
            Operation::MySqlAway { for_ms } => lasting(
                for_ms,
                Box::new(move |world, on| {
                    let away = if for_ms % 2 == 0 { Away::Refusing } else { Away::Hanging };
                    world.mysql.set_away(on.then_some(away));
                }),
            ),
            Operation::MySqlReadOnly { for_ms } => {
                lasting(for_ms, Box::new(|world, on| world.mysql.set_read_only(on)));
            }
            Operation::MySqlSlow { by_ms, for_ms } => {
                lasting(for_ms, Box::new(move |world, on| world.mysql.set_slow_ms(if on { by_ms } else { 0 })));
            }
            Operation::MySqlDeadlocks { for_ms } => {
                lasting(for_ms, Box::new(|world, on| strikes(world, on, Strike::Deadlock, At::Writes)));
            }
            Operation::MySqlLoseAnswers { for_ms } => {
                lasting(for_ms, Box::new(|world, on| strikes(world, on, Strike::CutAfter, At::Commits)));
            }
            Operation::MySqlLoseCommits { count } => {
                actor.commits_lost.set(true);
                for lost in world.mysql.lose_commits(count) {
                    if let LostRow::Allotment { campaign, .. } = &lost {
                        let at = world.campaigns.iter().position(|id| id.as_str() == campaign);
                        world.record.borrow_mut().raises_lost.extend(at);
                    }
                    let (LostRow::Coupon { campaign, user, .. }
                    | LostRow::Refusal { campaign, user }
                    | LostRow::Waiting { campaign, user }) = lost
                    else {
                        continue;
                    };
                    let at = world.campaigns.iter().position(|id| id.as_str() == campaign);
                    let mut record = world.record.borrow_mut();
                    if let Some(rows) = at.and_then(|at| record.rows_lost.get_mut(at)) {
                        rows.insert(user);
                    }
                }
            }
            Operation::MySqlForeignLock { campaign, for_ms } => {
                spawn_local(async move {
                    if let Some(id) = world.campaigns.get(campaign) {
                        let time = Duration::from_millis(for_ms);
                        // It may have to wait for the lock itself, and ends in time all the same.
                        let _ = tokio::time::timeout(time, world.mysql.hold_campaign(id, time)).await;
                    }
                });
            }
            Operation::CodeSecretReplaced { gates_first, gap_ms } => {
                let (first, second) = match gates_first {
                    true => (CodeParty::Gates, CodeParty::Issuers),
                    false => (CodeParty::Issuers, CodeParty::Gates),
                };
                redeploy(&world, first, |state| state.is_replaced = true);
                spawn_local(async move {
                    sleep(Duration::from_millis(gap_ms)).await;
                    redeploy(&world, second, |state| state.is_replaced = true);
                });
            }
            Operation::CodeSecretWrong { at_gates, for_ms } => {
                let party = if at_gates { CodeParty::Gates } else { CodeParty::Issuers };
                let begin: Switch = Box::new(move |world, begins| {
                    redeploy(world, party, |state| (state.is_wrong, state.was_wrong) = (begins, true));
                });
                lasting(for_ms, begin);
            }
            Operation::Publish { campaign } => Self::act(world, campaign, Act::Publish),
            Operation::Pause { campaign } => Self::act(world, campaign, Act::Pause),
            Operation::Resume { campaign } => Self::act(world, campaign, Act::Resume),
            Operation::Close { campaign } => Self::act(world, campaign, Act::Close),
            Operation::Raise { campaign, by } => {
                let capacity = world.capacity(campaign) + by;
                Self::act(world, campaign, Act::RaiseTo(capacity));
            }
            Operation::Reconcile { campaign } => Self::act(world, campaign, Act::Reconcile),
            Operation::Verify { campaign } => {
                spawn_local(async move {
                    if let Ok((verdict, _)) = world.verify(campaign).await {
                        world.line(&format!("oper  c{campaign} verify: {}", verdict.as_str()));
                    }
                });
            }
            Operation::ReplayDeadLetters => {
                spawn_local(async move { world.replay_dead_letters().await });
            }
        }
    }

    fn act(world: Rc<World>, campaign: usize, act: Act) {
        spawn_local(async move { world.act(campaign, act).await });
    }

    fn take_down(actor: &Rc<Self>, issuer: usize, down_ms: u64, kill: bool) {
        let world = Rc::clone(&actor.world);
        let at = issuer % world.issuers.borrow().len().max(1);
        if let Some(issuer) = world.issuers.borrow().get(at) {
            issuer.hold_down();
            if kill { issuer.kill() } else { issuer.stop() }
        }
        spawn_local(async move {
            sleep(Duration::from_millis(down_ms)).await;
            restart(&world, at);
        });
    }

    /// The documented recoveries, once faults have ended. What is lost as a whole is published again. A command that
    /// failed is repeated: so the gate gets what MySQL has, and what is paused is resumed. After a failover that has
    /// lost data the operator does what `verify` names.
    async fn recover(&self) {
        let world = &self.world;
        world.redis.borrow_mut().server.fail_command_in_script(None);
        for (campaign, id) in world.campaigns.iter().enumerate() {
            // With another secret a campaign may have been published too.
            let was_wrong = [world.gate_secret.get(), world.issuer_secret.get()].iter().any(|state| state.was_wrong);
            if was_wrong || world.meta(campaign, "state").is_none() {
                let _ = world.act(campaign, Act::Publish).await;
            }
            let row = world.mysql.campaigns().into_iter().find(|row| row.id == id.as_str());
            let is_closed = row.is_some_and(|row| row.state == CampaignState::Closed);
            let _ = world.act(campaign, if is_closed { Act::Close } else { Act::Resume }).await;
            if self.commits_lost.get() {
                let _ = world.act(campaign, Act::Reissue).await;
            } else if self.redis_lost.get() {
                let _ = world.act(campaign, Act::Reconcile).await;
            }
        }
    }

    fn fresh_user(&self) -> String {
        self.fresh.set(self.fresh.get() + 1);
        format!("f{}", self.fresh.get())
    }

    /// `count` new users claim in an isolate that is new; how many of them hold a claim afterwards.
    async fn fresh_claims(&self, campaign: usize, count: u32) -> u32 {
        let mut admitted = 0;
        let isolate = self.world.isolate();
        let at = {
            let mut isolates = self.world.isolates.borrow_mut();
            isolates.push(isolate);
            isolates.len() - 1
        };
        for _ in 0..count {
            let answer = claim(Rc::clone(&self.world), campaign, self.fresh_user(), at).await;
            admitted += u32::from(matches!(answer, Answer::Holds { .. }));
        }
        admitted
    }
}

/// Half of the statements of a kind are struck, while the fault lasts.
fn strikes(world: &World, begins: bool, strike: Strike, at: At) {
    let mut dice = world.random.split(&format!("mysql {} {strike:?}", world.now_ms()));
    let meets = move |place: &crate::mysql::Place| at == At::Writes || place.commits;
    world.mysql.set_dice(begins.then(|| -> crate::mysql::Dice {
        Box::new(move |place| (meets(place) && dice.chance(0.5)).then_some(strike))
    }));
}

/// A user's name. Some are not ASCII.
fn name(user: u32) -> String {
    if user % 7 == 3 { format!("ü{user}-鬼") } else { format!("u{user}") }
}

/// A claim, repeated until its outcome is known or its user gives up.
async fn claim(world: Rc<World>, campaign: usize, user: String, isolate: usize) -> Answer {
    let mut dice = world.random.split(&format!("claim {campaign} {user} {}", world.now_ms()));
    let mut answer = Answer::Unknown;
    for attempt in 0..ATTEMPTS {
        answer = send_claim(&world, campaign, &user, isolate + attempt as usize, None).await;
        let wait_ms = match answer {
            Answer::Unknown => 1_000,
            Answer::Paused => 5_000,
            Answer::NotOpen => {
                let opens_ms = world.plan.setup.campaigns.get(campaign).map_or(0, |setup| setup.opens_at_ms);
                opens_ms.saturating_sub(world.now_ms())
            }
            _ => break,
        };
        sleep(Duration::from_millis(wait_ms + dice.below(1_000))).await;
    }
    answer
}

async fn send_claim(world: &World, campaign: usize, user: &str, isolate: usize, hang_up: Option<Duration>) -> Answer {
    send(world, "POST", format!("/v1/campaigns/c{campaign}/claims"), campaign, user, isolate, hang_up).await
}

async fn send(
    world: &World,
    method: &'static str,
    path: String,
    campaign: usize,
    user: &str,
    isolate: usize,
    hang_up: Option<Duration>,
) -> Answer {
    let asked_ms = world.now_ms();
    let sent = {
        let isolates = world.isolates.borrow();
        let named = (!user.is_empty()).then(|| user.to_owned());
        match isolates.get(isolate % isolates.len().max(1)) {
            Some(isolate) => isolate.request(method, path, named, hang_up),
            None => return Answer::Unknown,
        }
    };
    let answer = sent.await;
    let at_ms = world.now_ms();
    world.line(&format!("answer c{campaign} {user} {method} asked {asked_ms}: {answer:?}"));
    let answered = Answered { asked_ms, at_ms, campaign, user: user.to_owned(), answer: answer.clone() };
    world.record.borrow_mut().answers.push(answered);
    answer
}

/// Whether nothing is under way.
fn is_quiet(world: &World) -> bool {
    let owed: usize = (0..world.campaigns.len()).map(|campaign| world.outbox(campaign)).sum();
    owed == 0 && world.kafka.lag(GROUP, TOPIC) == Ok(0)
}

fn unquiet(world: &World) -> String {
    let outboxes: Vec<usize> = (0..world.campaigns.len()).map(|campaign| world.outbox(campaign)).collect();
    let lag = world.kafka.lag(GROUP, TOPIC);
    format!("after {} s of good weather: outbox {outboxes:?}, lag {lag:?}", QUIET_WITHIN_MS / 1_000)
}

/// Waits until all is quiet, and a little longer: confirmations may be on their way.
async fn quiet(world: &World) -> bool {
    let from_ms = world.now_ms();
    loop {
        if is_quiet(world) {
            sleep(Duration::from_secs(12)).await;
            if is_quiet(world) {
                return true;
            }
        }
        let waited_ms = world.now_ms() - from_ms;
        if waited_ms > QUIET_WITHIN_MS {
            return false;
        }
        sleep(Duration::from_secs(if waited_ms < 300_000 { 2 } else { 30 })).await;
    }
}

fn facts(world: &World, campaign: usize) -> CampaignFacts {
    let Some(id) = world.campaigns.get(campaign) else { return CampaignFacts::default() };
    let record = world.record.borrow();
    let users = |topic: &str| -> BTreeSet<String> {
        let records = world.kafka.records(topic);
        let decoded = records.iter().filter_map(|(_, record)| AdmissionRecord::decode(&record.value).ok());
        decoded
            .filter(|admission| admission.campaign == *id)
            .map(|admission| admission.user.as_str().to_owned())
            .collect()
    };
    let count = world.meta(campaign, "state").and_then(|_| world.meta(campaign, "count")?.parse().ok());
    let lost = record.lost.get(campaign).cloned().unwrap_or_default();
    let mut in_kafka = users(TOPIC);
    // A record of the new topic may lie before an offset of the old one, and be skipped: then the outbox sends the claim
    // again, unless Redis has lost it.
    if record.struck.keys().any(|(fault, _)| *fault == FaultKind::TopicRecreated) {
        in_kafka.retain(|user| !lost.contains_key(user));
    }
    CampaignFacts {
        capacity: world.capacity(campaign),
        first_capacity: world.plan.setup.campaigns.get(campaign).map_or(0, |setup| setup.capacity),
        opens_ms: world.plan.setup.campaigns.get(campaign).map_or(0, |setup| START_MS + setup.opens_at_ms),
        coupons: world
            .mysql
            .coupons(id)
            .into_iter()
            .map(|row| (row.user, row.slot, timestamp::to_ms(row.admitted_at)))
            .collect(),
        codes: world.mysql.coupons(id).into_iter().map(|row| (row.user, row.code)).collect(),
        refusals: world
            .mysql
            .refusals(id)
            .into_iter()
            .map(|row| (row.user, timestamp::to_ms(row.admitted_at)))
            .collect(),
        waiting: world.mysql.waiting_claims(id),
        admissions: record.admissions.get(campaign).cloned().unwrap_or_default(),
        lost,
        in_kafka,
        dead_letters: users(DEAD_LETTER_TOPIC),
        rows_lost: record.rows_lost.get(campaign).cloned().unwrap_or_default(),
        raise_lost: record.raises_lost.contains(&campaign),
        redis: count.map(|count| (count, world.claims(campaign))),
        outbox: world.outbox(campaign),
    }
}

fn judge(world: &World, facts: &[CampaignFacts], oracle: &mut Oracle) {
    let record = world.record.borrow();
    for (campaign, facts) in facts.iter().enumerate() {
        oracle.always(campaign, facts);
        oracle.quiet(campaign, facts, &record.answers);
    }
    drop(record);
    offsets(world, facts, oracle);
}

/// I7: what is committed is settled.
fn offsets(world: &World, facts: &[CampaignFacts], oracle: &mut Oracle) {
    let committed = world.kafka.committed(GROUP, TOPIC);
    for (partition, record) in world.kafka.records(TOPIC) {
        let is_passed = committed.get(&partition).is_some_and(|next| record.offset < *next);
        let Ok(admission) = AdmissionRecord::decode(&record.value) else { continue };
        let at = world.campaigns.iter().position(|id| *id == admission.campaign);
        let Some(facts) = at.and_then(|at| facts.get(at)) else { continue };
        let user = admission.user.as_str();
        let settled = facts.row_of(user).is_some()
            || facts.is_refused(user)
            || facts.waiting.contains(user)
            || facts.dead_letters.contains(user)
            || facts.rows_lost.contains(user)
            || !facts.in_kafka.contains(user);
        if is_passed && !settled {
            let place = format!("{partition}/{}", record.offset);
            let text = format!("{place} of {user} in {} is committed and nothing else", admission.campaign);
            oracle.found(Kind::OffsetAhead, text);
        }
    }
}

/// What must hold at every moment is judged now and then, not only when all is quiet: by then much has healed.
async fn watch(world: Rc<World>, oracle: Rc<RefCell<Oracle>>) {
    loop {
        sleep(Duration::from_millis(WATCH_EVERY_MS)).await;
        let facts: Vec<CampaignFacts> = (0..world.campaigns.len()).map(|campaign| facts(&world, campaign)).collect();
        let mut oracle = oracle.borrow_mut();
        for (campaign, facts) in facts.iter().enumerate() {
            oracle.always(campaign, facts);
        }
        // Offsets of a topic that is gone say nothing about the records of the one that has taken its name.
        let recreated = world.record.borrow().struck.keys().any(|(fault, _)| *fault == FaultKind::TopicRecreated);
        if !recreated {
            offsets(&world, &facts, &mut oracle);
        }
    }
}

async fn verdicts(world: &World, oracle: &mut Oracle) {
    for campaign in 0..world.campaigns.len() {
        match world.verify(campaign).await {
            // Losses of data cause refusals, which the oracle has judged.
            Ok((Verdict::Holds | Verdict::CapacityKept, _)) => {}
            Ok((verdict, report)) => {
                oracle.found(
                    Kind::VerifyWrong,
                    format!("c{campaign}: {} although all holds: {report}", verdict.as_str()),
                );
            }
            Err(error) => oracle.found(Kind::VerifyWrong, format!("c{campaign}: {error}")),
        }
    }
}

/// After all was quiet: new claims take what is left, and a raise gives more, without an operator's repair.
async fn aftermath(actor: &Actor, oracle: &mut Oracle) {
    let world = &actor.world;
    for (campaign, id) in world.campaigns.iter().enumerate() {
        let setup = world.plan.setup.campaigns.get(campaign);
        let is_over = setup.and_then(|setup| setup.closes_at_ms).is_some();
        if is_over || world.meta(campaign, "state").as_deref() != Some("open") {
            continue;
        }
        for raise_by in [0, 2] {
            let before = world.mysql.coupons(id).len() as u32;
            let capacity = world.capacity(campaign) + raise_by;
            if raise_by > 0
                && let Err(error) = world.act(campaign, Act::RaiseTo(capacity)).await
            {
                oracle.found(Kind::Stuck, format!("c{campaign}: a raise failed: {error}"));
                return;
            }
            let left = capacity.saturating_sub(before);
            let admitted = actor.fresh_claims(campaign, left + 2).await;
            if admitted != left {
                oracle.found(
                    Kind::Stuck,
                    format!("c{campaign}: {left} of {capacity} were left, {admitted} of {} new users got in", left + 2),
                );
            }
            if !quiet(world).await {
                oracle.found(Kind::NotQuiet, unquiet(world));
                return;
            }
            let coupons = world.mysql.coupons(id).len() as u32;
            if coupons != capacity {
                oracle.found(Kind::NotExactly, format!("c{campaign}: {coupons} coupons of {capacity}"));
            }
            oracle.always(campaign, &facts(world, campaign));
        }
    }
}
