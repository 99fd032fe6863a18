//! Random faults on real servers: two gates on workerd, three issuers, Redis, Kafka and MySQL, with a proxy on each
//! connection. Faults are drawn from a seed, while a crowd claims. Then the faults end, and the simulator's
//! oracle judges what users were told against what MySQL and Redis have.
//!
//! Real servers are not deterministic: a seed repeats the faults and the crowd, not the moment at which each meets a
//! process.

mod evidence;
pub mod fault;
mod judge;
mod round;
mod servers;
mod strike;
mod world;

use dropgate_devstack::Paths;
use dropgate_simulator::oracle::Oracle;
use dropgate_simulator::random::Random;
use fault::{Deck, Fault};
use round::Round;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::sleep;
use world::World;

/// Faults strike for so long in one round.
const ROUND: Duration = Duration::from_secs(45);
/// A user is new, or comes again; the last ones come when faults have ended.
const CROWD: Duration = Duration::from_secs(40);

#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds begin within this time.
    pub time: Duration,
    pub seed: u64,
    /// Also faults that lose what a server has acknowledged.
    pub with_data_loss: bool,
    /// If not empty: only faults whose name contains one of these.
    pub only: Vec<String>,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Outcome {
    pub violations: Vec<String>,
    /// How often each fault took effect.
    pub struck: Vec<(Fault, u64)>,
    pub rounds: u32,
    pub answers: usize,

    /// How often it was looked whether everything holds that must hold at every moment.
    pub looks: u32,
}

impl Outcome {
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        self.struck.iter().map(|(_, times)| times).sum()
    }

    /// The table of faults and the times each struck.
    #[must_use]
    pub fn table(&self, with_data_loss: bool) -> String {
        let mut lines: Vec<String> =
            self.struck.iter().map(|(fault, times)| format!("  {fault:<40} {times:>6}")).collect();
        if !with_data_loss {
            let not_struck = |fault: &Fault| format!("  {fault:<40} not struck (--with-data-loss)");
            lines.extend(Fault::DATA_LOSS.iter().map(not_struck));
        }
        lines.join("\n")
    }
}

/// Runs in `dir`, which is emptied first. Every process ends with the returned future, also when it is dropped.
pub async fn run(options: &Options, programs: &Path, dir: &Path) -> Outcome {
    let random = Random::new(options.seed);
    let paths = Paths::new(crate::repo(), programs, dir).unwrap();
    let world = Arc::new(World::start(paths, random.split("world")).await);
    let mut keepers = JoinSet::new();
    keepers.spawn({
        let world = Arc::clone(&world);
        async move { world.supervise().await }
    });
    keepers.spawn({
        let world = Arc::clone(&world);
        async move { world.cron().await }
    });
    let begun = Instant::now();
    let faults = Fault::chosen(options.with_data_loss, &options.only);
    let mut deck = Deck::new(faults.clone(), random.split("deck"));
    let mut outcome = Outcome::default();
    // What a broken promise leaves behind would break the next round, too.
    while outcome.rounds == 0 || (begun.elapsed() < options.time && outcome.violations.is_empty()) {
        outcome.rounds += 1;
        let mut random = random.split(&format!("round {}", outcome.rounds));
        play(&world, &mut deck, &mut random, &mut outcome).await;
        assert!(keepers.try_join_next().is_none(), "the supervisor has ended");
    }
    let struck = world.struck();
    outcome.struck = faults
        .into_iter()
        .chain([Fault::HangUp])
        .map(|fault| (fault, struck.get(&fault).copied().unwrap_or(0)))
        .collect();
    keepers.shutdown().await;
    world.stop().await;
    outcome
}

/// One round, with its judgement.
async fn play(world: &Arc<World>, deck: &mut Deck, random: &mut Random, outcome: &mut Outcome) {
    let round = Arc::new(Round::begin(world, outcome.rounds, random).await);
    world.line(&format!("---   round {} begins", round.number));
    let mut crowd = JoinSet::new();
    for (nth, campaign) in round.campaigns.iter().enumerate() {
        let capacity = u64::from(campaign.capacity.load(std::sync::atomic::Ordering::Relaxed));
        for user in 0..random.range(capacity / 2..=capacity * 3) {
            let (world, round) = (Arc::clone(world), Arc::clone(&round));
            // Some names are not ASCII.
            let name = if user % 7 == 3 { format!("ü{user}-鬼") } else { format!("u{user}") };
            let random = random.split(&format!("user {nth} {name}"));
            let from = Duration::from_millis(random.clone().below(CROWD.as_millis() as u64));
            crowd.spawn(async move {
                sleep(from).await;
                round.user(&world, nth, name, random).await;
            });
        }
    }
    let watching = tokio::spawn({
        let (world, round) = (Arc::clone(world), Arc::clone(&round));
        async move {
            let mut oracle = Oracle::default();
            let looks = judge::watch(&world, &round, &mut oracle).await;
            (oracle, looks)
        }
    });
    let mut strikes = JoinSet::new();
    let begun = Instant::now();
    while begun.elapsed() < ROUND {
        sleep(Duration::from_millis(random.range(300..=3_000))).await;
        let fault = deck.draw();
        let targets = fault.targets();
        {
            let mut busy = world.busy.lock().unwrap();
            if targets.iter().any(|target| busy.contains(target)) {
                continue;
            }
            busy.extend(&targets);
        }
        let (world, round) = (Arc::clone(world), Arc::clone(&round));
        let random = random.split(&format!("strike {}", begun.elapsed().as_millis()));
        strikes.spawn(async move {
            strike::strike(&world, &round, fault, random).await;
            world.busy.lock().unwrap().retain(|target| !targets.contains(target));
        });
    }
    while let Some(struck) = strikes.join_next().await {
        struck.unwrap();
    }
    world.calm().await;
    world.line("---   faults have ended");
    round.end_faults();
    let (mut oracle, looks) = watching.await.unwrap();
    if let Err(error) = judge::recover(world, &round).await {
        round.broken(format!("I9: {error}"));
    }
    while let Some(user) = crowd.join_next().await {
        user.unwrap();
    }
    judge::judge(world, &round, &mut oracle, random).await;
    let of_round = |text: String| format!("round {}: {text}", round.number);
    let broken = round.violations.lock().unwrap().clone();
    outcome.violations.extend(broken.into_iter().map(of_round));
    outcome.violations.extend(oracle.violations.iter().map(|violation| of_round(violation.to_string())));
    outcome.answers += round.answers.lock().unwrap().len();
    outcome.looks += looks;
    println!(
        "round {}: {} answers, {looks} looks, {} violations",
        round.number,
        round.answers.lock().unwrap().len(),
        outcome.violations.len()
    );
}
