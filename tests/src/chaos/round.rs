//! A round: some campaigns, the crowd that claims, and the operators.

use super::world::{World, now_ms};
use dropgate_shared::ids::CampaignId;
use dropgate_simulator::history::{Answer, Answered};
use dropgate_simulator::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a user waits for a response. Longer than the gate lets a claim wait.
const USER_DEADLINE: Duration = Duration::from_secs(25);
/// How long an operator waits for a command, and then ends it.
const OPERATOR_DEADLINE: Duration = Duration::from_secs(45);
/// A user whom one isolate admitted after a raise may get "sold out" from another for two seconds (docs/architecture.md).
const RAISE_SEEN_WITHIN_MS: u64 = 2_000;

pub struct Campaign {
    pub id: CampaignId,
    pub opens_ms: u64,
    /// The greatest capacity that an operator asked for.
    pub capacity: AtomicU32,
    /// Users who were seen holding a claim in Redis, with their entry.
    pub claims: Mutex<BTreeMap<String, String>>,
    /// Users whose claim Redis has lost, with the time.
    pub lost: Mutex<BTreeMap<String, u64>>,
    /// Users whose row MySQL has lost.
    pub rows_lost: Mutex<BTreeSet<String>>,
    /// When a raise began, and when it was everywhere.
    raises: Mutex<Vec<(u64, u64)>>,
}

pub struct Round {
    pub number: u32,
    pub campaigns: Vec<Campaign>,
    pub answers: Mutex<Vec<Answered>>,
    pub topic_recreated: AtomicBool,
    pub data_lost: AtomicBool,
    /// What must not happen, and no oracle sees.
    pub violations: Mutex<Vec<String>>,
    faults_ended: watch::Sender<bool>,
    fresh: AtomicU32,
}

impl Round {
    /// Creates and publishes the campaigns of a round.
    pub async fn begin(world: &World, number: u32, random: &mut Random) -> Self {
        let mut campaigns = Vec::new();
        for nth in 0..2 {
            let id = format!("round-{number}-{nth}");
            let capacity = u32::try_from(random.range(20..=150)).unwrap();
            let opens_ms = now_ms() + if random.chance(0.5) { 0 } else { random.range(1_000..=6_000) };
            let opens_at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(opens_ms) * 1_000_000).unwrap();
            let opens_at = opens_at.format(&time::format_description::well_known::Rfc3339).unwrap();
            let capacity_text = capacity.to_string();
            let args = ["campaign", "create", &id, "--capacity", &capacity_text, "--opens-at", &opens_at];
            for args in [&args[..], &["campaign", "publish", &id]] {
                let (status, output) = run_verb(world, true, args).await;
                assert_eq!(status, Some(0), "{args:?}: {output}");
            }
            campaigns.push(Campaign {
                id: CampaignId::parse(&id).unwrap(),
                opens_ms,
                capacity: AtomicU32::new(capacity),
                claims: Mutex::default(),
                lost: Mutex::default(),
                rows_lost: Mutex::default(),
                raises: Mutex::default(),
            });
        }
        Self {
            number,
            campaigns,
            answers: Mutex::default(),
            topic_recreated: AtomicBool::new(false),
            data_lost: AtomicBool::new(false),
            violations: Mutex::default(),
            faults_ended: watch::Sender::new(false),
            fresh: AtomicU32::new(0),
        }
    }

    pub fn end_faults(&self) {
        self.faults_ended.send_replace(true);
    }

    /// Turns true when the faults have ended.
    pub fn faults_ended(&self) -> watch::Receiver<bool> {
        self.faults_ended.subscribe()
    }

    pub fn broken(&self, text: String) {
        self.violations.lock().unwrap().push(text);
    }

    /// A user claims until the outcome is known, and repeats the claim or asks for it later.
    pub async fn user(&self, world: &World, campaign: usize, name: String, mut random: Random) {
        let mut faults_ended = self.faults_ended.subscribe();
        let gave_up = async {
            let _ = faults_ended.wait_for(|ended| *ended).await;
            sleep(Duration::from_secs(90)).await;
        };
        tokio::select! {
            () = self.claim_until_known(world, campaign, &name, &mut random) => {}
            () = gave_up => {
                self.broken(format!("I9: {name} got no answer in c{campaign} within 90 s after the faults ended"));
            }
        }
        while random.chance(0.6) {
            let wait = sleep(Duration::from_millis(random.below(15_000)));
            let mut faults_ended = self.faults_ended.subscribe();
            tokio::select! {
                () = wait => {}
                _ = faults_ended.wait_for(|ended| *ended) => return,
            }
            if random.chance(0.7) {
                self.claim(world, campaign, &name, &mut random).await;
            } else {
                let path = format!("/v1/campaigns/{}/claims/me", self.campaigns[campaign].id);
                self.send(world, "GET", &path, campaign, &name, &mut random).await;
            }
        }
    }

    async fn claim_until_known(&self, world: &World, campaign: usize, name: &str, random: &mut Random) {
        loop {
            let wait_ms = match self.claim(world, campaign, name, random).await {
                Answer::Unknown => 300,
                Answer::Paused => 1_000,
                Answer::NotOpen => self.campaigns[campaign].opens_ms.saturating_sub(now_ms()),
                _ => return,
            };
            sleep(Duration::from_millis(wait_ms + random.below(700))).await;
        }
    }

    pub async fn claim(&self, world: &World, campaign: usize, name: &str, random: &mut Random) -> Answer {
        let path = format!("/v1/campaigns/{}/claims", self.campaigns[campaign].id);
        self.send(world, "POST", &path, campaign, name, random).await
    }

    /// A user whom nobody knows yet.
    pub fn fresh_user(&self) -> String {
        format!("fresh-{}", self.fresh.fetch_add(1, Ordering::Relaxed))
    }

    async fn send(
        &self,
        world: &World,
        method: &'static str,
        path: &str,
        campaign: usize,
        user: &str,
        random: &mut Random,
    ) -> Answer {
        let gate = random.pick(&world.gates).unwrap();
        let hang_up = (random.chance(0.05) && !*self.faults_ended.borrow()).then(|| random.range(1..=200));
        let asked_ms = now_ms();
        let exchange = async {
            let header = reqwest::header::HeaderValue::from_bytes(user.as_bytes()).unwrap();
            let request = dropgate_devstack::http_client()
                .request(method.parse().unwrap(), format!("{}{path}", gate.url))
                .header("x-user-id", header);
            let response = request.send().await.ok()?;
            let status = response.status().as_u16();
            Some(Answer::read(status, &response.text().await.ok()?))
        };
        let patience = hang_up.map_or(USER_DEADLINE, Duration::from_millis);
        let answer = match timeout(patience, exchange).await {
            Ok(answer) => answer.unwrap_or(Answer::Unknown),
            Err(_) => {
                if hang_up.is_some() {
                    world.strike(super::fault::Fault::HangUp, 1);
                }
                Answer::Unknown
            }
        };
        let answered = Answered { asked_ms, at_ms: now_ms(), campaign, user: user.to_owned(), answer: answer.clone() };
        self.answers.lock().unwrap().push(answered);
        answer
    }

    /// The answers that must not contradict each other.
    #[must_use]
    pub fn binding_answers(&self) -> Vec<Answered> {
        let mut answers = self.answers.lock().unwrap().clone();
        answers.retain(|answered| {
            let raises = self.campaigns[answered.campaign].raises.lock().unwrap();
            let after_raise = |(from, to): &(u64, u64)| (*from..=*to + RAISE_SEEN_WITHIN_MS).contains(&answered.at_ms);
            answered.answer != Answer::SoldOut || !raises.iter().any(after_raise)
        });
        answers.sort_by_key(|answered| answered.at_ms);
        answers
    }

    /// Raises the capacity by `by`. Returns the exit status and the output.
    pub async fn raise(&self, world: &World, direct: bool, campaign: usize, by: u32) -> (Option<i32>, String) {
        let campaign = &self.campaigns[campaign];
        let capacity = (campaign.capacity.fetch_add(by, Ordering::Relaxed) + by).to_string();
        let from_ms = now_ms();
        let done = run_verb(world, direct, &["campaign", "raise", campaign.id.as_str(), "--capacity", &capacity]).await;
        campaign.raises.lock().unwrap().push((from_ms, now_ms()));
        done
    }
}

/// Runs a command of the issuer: `direct`, or through the proxies. Returns its exit status and what it printed.
pub async fn run_verb(world: &World, direct: bool, args: &[&str]) -> (Option<i32>, String) {
    run_verb_for(world, direct, args, OPERATOR_DEADLINE).await
}

/// The same; it is killed after this time, and has no exit status then.
pub async fn run_verb_for(world: &World, direct: bool, args: &[&str], time: Duration) -> (Option<i32>, String) {
    let endpoints = if direct { &world.direct } else { &world.proxied };
    let mut command = tokio::process::Command::new(world.paths.programs.join("issuer"));
    command.args(args).envs(endpoints.issuer_env()).stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = match timeout(time, command.output()).await {
        Ok(output) => {
            let output = output.unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8_lossy(&text).into_owned())
        }
        Err(_) => (None, String::new()),
    };
    world.line(&format!("oper  {args:?}: {:?}", done.0));
    let log = OpenOptions::new().create(true).append(true).open(world.paths.logs().join("operators.log"));
    let _ = writeln!(log.unwrap(), "{} {args:?} {:?}\n{}", now_ms(), done.0, done.1);
    done
}
