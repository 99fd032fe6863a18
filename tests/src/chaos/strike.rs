//! Carries out one fault, from its beginning to its end.

use super::evidence;
use super::fault::{Fault, Link, LinkFault, Party, Verb};
use super::round::{Round, run_verb, run_verb_for};
use super::servers::Server;
use super::world::{Target, World, now_ms};
use crate::fault_proxy::ResponseFault;
use dropgate_devstack::Signal;
use dropgate_simulator::random::Random;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

const RETRY: Duration = Duration::from_millis(200);
/// How far a replica lags at most when it takes over.
const REPLICA_LAG: Duration = Duration::from_secs(2);

impl Fault {
    /// What no other fault may strike at the same time.
    #[must_use]
    pub fn targets(self) -> Vec<Target> {
        match self {
            Self::Link(link, _) => vec![Target::Link(link)],
            Self::Killed(party) | Self::Frozen(party) => vec![Target::Server(party)],
            Self::IssuerFrozenBeyondItsSession | Self::IssuerLeaves => vec![Target::Server(Party::Issuer)],
            Self::KafkaAndMySqlFrozen => vec![Target::Server(Party::Kafka), Target::Server(Party::MySql)],
            Self::TopicRecreated => vec![Target::Server(Party::Kafka), Target::Topic],
            Self::MySqlReadOnly | Self::MySqlForeignLock | Self::MySqlConnectionsKilled | Self::MySqlRowsLost => {
                vec![Target::Server(Party::MySql)]
            }
            Self::RedisScriptsFlushed | Self::RedisOutOfMemory | Self::RedisRestored | Self::RedisFlushed => {
                vec![Target::Server(Party::Redis)]
            }
            Self::Operator(Verb::Pause | Verb::Close) => vec![Target::Campaign],
            Self::Operator(_) | Self::OperatorKilled(_) | Self::IssuerJoins | Self::HangUp => Vec::new(),
        }
    }
}

/// Carries out a fault. Counts it if it took effect.
pub async fn strike(world: &World, round: &Round, fault: Fault, mut random: Random) {
    let lasts = Duration::from_millis(fault.lasts_ms(&mut random));
    world.line(&format!("fault {fault} for {} ms", lasts.as_millis()));
    let times = perform(world, round, fault, lasts, &mut random).await;
    match times {
        Ok(times) => world.strike(fault, times),
        Err(error) => world.line(&format!("fault {fault} had no effect: {error}")),
    }
    world.line(&format!("ends  {fault}"));
}

async fn perform(
    world: &World,
    round: &Round,
    fault: Fault,
    lasts: Duration,
    random: &mut Random,
) -> Result<u64, String> {
    let campaign = usize::try_from(random.below(round.campaigns.len() as u64)).unwrap();
    match fault {
        Fault::Link(link, fault) => return Ok(through_proxy(world, link, fault, lasts, random).await),
        Fault::Killed(party) => {
            let server = one(world, party, random);
            server.kill().await;
            sleep(lasts).await;
            server.release().await;
        }
        Fault::Frozen(party) => frozen(&[one(world, party, random)], lasts, Duration::ZERO).await,
        Fault::IssuerFrozenBeyondItsSession => {
            frozen(&[one(world, Party::Issuer, random)], lasts, Duration::ZERO).await
        }
        Fault::KafkaAndMySqlFrozen => {
            let mut both = [&world.servers(Party::Kafka)[0], &world.servers(Party::MySql)[0]];
            random.shuffle(&mut both);
            frozen(&both, lasts, Duration::from_millis(random.below(4_000))).await;
        }
        Fault::IssuerLeaves => {
            let server = one(world, Party::Issuer, random);
            server.stop().await;
            sleep(lasts).await;
            server.release().await;
        }
        Fault::IssuerJoins => {
            let server = &world.servers(Party::Issuer)[2];
            server.release().await;
            sleep(lasts).await;
            server.stop().await;
        }
        Fault::TopicRecreated => {
            round.topic_recreated.store(true, Ordering::Relaxed);
            evidence::recreate_topic(&world.direct.kafka_bootstrap).await?;
        }
        Fault::MySqlReadOnly => {
            world.sql("SET GLOBAL super_read_only = ON").await?;
            sleep(lasts).await;
            // The end of a fault must succeed, however long a server is away.
            while world.sql("SET GLOBAL read_only = OFF").await.is_err() {
                sleep(RETRY).await;
            }
        }
        Fault::MySqlForeignLock => {
            let mut connection = evidence::connect(world).await?;
            let id = round.campaigns[campaign].id.as_str();
            let lock = async {
                sqlx::query("BEGIN").execute(&mut connection).await?;
                sqlx::query("SELECT id FROM campaigns WHERE id = ? FOR UPDATE")
                    .bind(id)
                    .execute(&mut connection)
                    .await?;
                sleep(lasts).await;
                sqlx::query("ROLLBACK").execute(&mut connection).await
            };
            let most = lasts + Duration::from_secs(10);
            let done = tokio::time::timeout(most, lock).await.map_err(|_| "MySQL is silent".to_owned())?;
            done.map_err(|error| error.to_string())?;
        }
        Fault::MySqlConnectionsKilled => return evidence::kill_connections(world).await,
        Fault::RedisScriptsFlushed => world.redis::<()>(&["SCRIPT", "FLUSH"]).await?,
        Fault::RedisOutOfMemory => {
            world.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await?;
            sleep(lasts).await;
            while world.redis::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.is_err() {
                sleep(RETRY).await;
            }
        }
        // Struck by the users themselves.
        Fault::HangUp => return Ok(0),
        Fault::Operator(verb) => operator(world, round, verb, campaign, lasts).await,
        Fault::OperatorKilled(verb) => {
            let id = round.campaigns[campaign].id.as_str();
            let capacity = (round.campaigns[campaign].capacity.fetch_add(1, Ordering::Relaxed) + 1).to_string();
            let args: &[&str] = match verb {
                Verb::Raise => &["campaign", "raise", id, "--capacity", &capacity],
                Verb::Reconcile => &["reconcile", id, "--apply"],
                _ => &["campaign", "publish", id],
            };
            if run_verb_for(world, false, args, lasts).await.0.is_some() {
                return Err("the command was faster".to_owned());
            }
        }
        Fault::RedisRestored => {
            let snapshot = evidence::snapshot(world, round).await?;
            sleep(REPLICA_LAG.mul_f64(random.range(1..=1_000) as f64 / 1_000.0)).await;
            losing(world, round, evidence::restore(world, round, &snapshot)).await?;
        }
        Fault::RedisFlushed => {
            losing(world, round, async { world.redis::<()>(&["FLUSHALL"]).await }).await?;
            sleep(lasts).await;
            for campaign in &round.campaigns {
                run_verb(world, true, &["campaign", "publish", campaign.id.as_str()]).await;
            }
        }
        Fault::MySqlRowsLost => {
            round.data_lost.store(true, Ordering::Relaxed);
            return evidence::lose_rows(world, round, REPLICA_LAG).await;
        }
    }
    Ok(1)
}

/// Two issuers and two gates: one of them.
fn one<'a>(world: &'a World, party: Party, random: &mut Random) -> &'a Server {
    let servers = world.servers(party);
    &servers[usize::try_from(random.below(servers.len().min(2) as u64)).unwrap()]
}

/// All stand still; they continue in this order, with a pause between them.
async fn frozen(servers: &[&Server], lasts: Duration, apart: Duration) {
    for server in servers {
        server.signal(Signal::STOP).await;
    }
    sleep(lasts).await;
    for server in servers {
        server.signal(Signal::CONT).await;
        sleep(apart).await;
    }
}

async fn through_proxy(world: &World, link: Link, fault: LinkFault, lasts: Duration, random: &mut Random) -> u64 {
    let proxy = world.link(link);
    let fault = match fault {
        LinkFault::Slow => ResponseFault::Delay(Duration::from_millis(random.range(20..=1_500))),
        LinkFault::RequestsLost => ResponseFault::CloseBefore,
        LinkFault::ResponsesLost => ResponseFault::Close,
        LinkFault::Silent => ResponseFault::Hang,
        LinkFault::Refused => ResponseFault::Refuse,
        LinkFault::Garbage => ResponseFault::Garbage,
    };
    let before = proxy.injected();
    proxy.inject_into(fault, random.range(100..=1_000));
    sleep(lasts).await;
    proxy.inject(ResponseFault::None);
    u64::from(proxy.injected() > before)
}

async fn operator(world: &World, round: &Round, verb: Verb, campaign: usize, lasts: Duration) {
    let id = round.campaigns[campaign].id.as_str();
    match verb {
        Verb::Publish => drop(run_verb(world, false, &["campaign", "publish", id]).await),
        Verb::Raise => drop(round.raise(world, false, campaign, 1 + campaign as u32 * 4).await),
        Verb::Reconcile => drop(run_verb(world, false, &["reconcile", id, "--apply"]).await),
        Verb::Close => drop(run_verb(world, false, &["campaign", "close", id]).await),
        Verb::Pause => {
            run_verb(world, false, &["campaign", "pause", id]).await;
            sleep(lasts).await;
            run_verb(world, false, &["campaign", "resume", id]).await;
        }
        Verb::Verify => {
            let (status, output) = run_verb(world, false, &["verify", id]).await;
            if status == Some(1) && !round.data_lost.load(Ordering::Relaxed) {
                round.broken(format!("I12: verify says during the run that a promise is broken: {output}"));
            }
        }
    }
}

/// Carries out what may cost Redis data, and notes which claims are gone.
async fn losing(world: &World, round: &Round, act: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    round.data_lost.store(true, Ordering::Relaxed);
    evidence::note_claims(world, round).await?;
    let proxy = world.link(Link::RestToRedis);
    // Nothing is admitted between the look and the loss.
    proxy.inject(ResponseFault::Hang);
    let done = async {
        evidence::note_claims(world, round).await?;
        act.await?;
        for campaign in &round.campaigns {
            let left = evidence::claims(world, campaign).await?;
            let gone = campaign.claims.lock().unwrap();
            let mut lost = campaign.lost.lock().unwrap();
            for user in gone.keys().filter(|user| !left.contains_key(*user)) {
                lost.entry(user.clone()).or_insert_with(now_ms);
            }
        }
        Ok(())
    }
    .await;
    proxy.inject(ResponseFault::None);
    done
}
