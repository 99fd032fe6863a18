//! After a round: quiet by condition, the documented recovery, and the judgement of the simulator's oracle.

use super::evidence::{self, Log};
use super::round::{Round, run_verb};
use super::world::World;
use dropgate_shared::names::CampaignKeys;
use dropgate_simulator::history::{Answer, CampaignFacts};
use dropgate_simulator::oracle::Oracle;
use dropgate_simulator::random::Random;
use dropgate_simulator::violation::Kind;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// All must be quiet within this time after the faults ended. Leases are ended early meanwhile: the longest takes hours.
const QUIET_WITHIN: Duration = Duration::from_secs(180);
/// Confirmations may be on their way when Kafka is read.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at what must hold at every moment.
const WATCH_EVERY: Duration = Duration::from_millis(1_500);

/// What must hold at every moment, while faults strike. Returns when `over`.
pub async fn watch(world: &World, round: &Round, oracle: &mut Oracle) -> u32 {
    let mut looks = 0;
    let mut faults_ended = round.faults_ended();
    loop {
        tokio::select! {
            () = sleep(WATCH_EVERY) => {}
            _ = faults_ended.wait_for(|ended| *ended) => return looks,
        }
        let seen = async {
            let log = evidence::log(world).await?;
            let facts = facts(world, round, &log).await?;
            Ok::<_, String>((log, facts))
        };
        // A server that is away now can be read the next time.
        let Ok((log, facts)) = seen.await else { continue };
        looks += 1;
        for (campaign, facts) in facts.iter().enumerate() {
            oracle.always(campaign, facts);
        }
        // Offsets of a topic that is gone say nothing about the records of the one that has taken its name.
        if !round.topic_recreated.load(Ordering::Relaxed) {
            offsets(round, &log, &facts, oracle);
        }
        let _ = evidence::note_claims(world, round).await;
    }
}

/// The documented recoveries, as in the simulator: a command that failed is repeated, so the gate gets what MySQL has,
/// and what is paused is resumed.
pub async fn recover(world: &World, round: &Round) -> Result<(), String> {
    for campaign in &round.campaigns {
        let id = campaign.id.as_str();
        let meta = CampaignKeys::of(&campaign.id).meta;
        if !world.redis::<bool>(&["EXISTS", &meta]).await? {
            succeed(world, &["campaign", "publish", id]).await?;
        }
        let is_closed = evidence::rows(world, campaign).await?.is_closed;
        succeed(world, &["campaign", if is_closed { "close" } else { "resume" }, id]).await?;
        if round.data_lost.load(Ordering::Relaxed) {
            run_verb(world, true, &["reconcile", id, "--apply"]).await;
        }
    }
    Ok(())
}

async fn succeed(world: &World, args: &[&str]) -> Result<(), String> {
    let (status, output) = run_verb(world, true, args).await;
    if status == Some(0) { Ok(()) } else { Err(format!("{args:?} fails on a good network: {output}")) }
}

/// Waits until nothing is under way. Returns what is, if it takes too long.
pub async fn quiet(world: &World, round: &Round) -> Result<(), String> {
    let until = Instant::now() + QUIET_WITHIN;
    loop {
        let mut open = Vec::new();
        let log = evidence::log(world).await;
        let is_read = log.as_ref().is_ok_and(|log| log.lag == 0);
        for campaign in &round.campaigns {
            let outbox = CampaignKeys::of(&campaign.id).outbox;
            let users: Vec<String> = world.redis(&["ZRANGE", &outbox, "0", "-1"]).await?;
            // A lease ends early, but only when no record is under way: otherwise copies would never end.
            for user in users.iter().filter(|_| is_read) {
                world.redis::<()>(&["ZADD", &outbox, "XX", "0", user]).await?;
            }
            if !users.is_empty() {
                open.push(format!("{} in the outbox of {}: {users:?}", users.len(), campaign.id));
            }
        }
        match log {
            Ok(log) if log.lag == 0 => {}
            Ok(log) => open.push(format!("lag {}", log.lag)),
            Err(error) => open.push(error),
        }
        if open.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("not quiet {} s after the faults ended: {}", QUIET_WITHIN.as_secs(), open.join(", ")));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn facts(world: &World, round: &Round, log: &Log) -> Result<Vec<CampaignFacts>, String> {
    let mut facts = Vec::new();
    for campaign in &round.campaigns {
        facts.push(evidence::facts(world, campaign, log).await?);
    }
    Ok(facts)
}

/// The whole judgement of a round whose faults have ended.
pub async fn judge(world: &World, round: &Round, oracle: &mut Oracle, random: &mut Random) {
    if let Err(error) = recover(world, round).await {
        oracle.found(Kind::Stuck, error);
    }
    if let Err(error) = quiet(world, round).await {
        oracle.found(Kind::NotQuiet, error);
    }
    let until = Instant::now() + SETTLED_WITHIN;
    let facts = loop {
        let mut settled = Oracle::default();
        match look(world, round, &mut settled).await {
            Ok(facts) if settled.violations.is_empty() || Instant::now() > until => {
                oracle.violations.append(&mut settled.violations);
                break facts;
            }
            Err(error) if Instant::now() > until => {
                oracle.found(Kind::Stuck, format!("the servers cannot be read: {error}"));
                return;
            }
            _ => sleep(LOOK_EVERY).await,
        }
    };
    write(world, round, &facts);
    if oracle.violations.is_empty() {
        verdicts(world, round, oracle).await;
    }
    if oracle.violations.is_empty() {
        aftermath(world, round, oracle, random).await;
    }
    oracle.answers(&facts, &round.binding_answers());
    same_answers(world, round, oracle).await;
}

async fn look(world: &World, round: &Round, oracle: &mut Oracle) -> Result<Vec<CampaignFacts>, String> {
    let log = evidence::log(world).await?;
    let facts = facts(world, round, &log).await?;
    let answers = round.binding_answers();
    for (campaign, facts) in facts.iter().enumerate() {
        oracle.always(campaign, facts);
        oracle.quiet(campaign, facts, &answers);
    }
    offsets(round, &log, &facts, oracle);
    Ok(facts)
}

/// I7: what is committed is settled.
fn offsets(round: &Round, log: &Log, facts: &[CampaignFacts], oracle: &mut Oracle) {
    for (partition, offset, record) in &log.records {
        let Some(at) = round.campaigns.iter().position(|campaign| campaign.id == record.campaign) else { continue };
        let (facts, user) = (&facts[at], record.user.as_str());
        let is_passed = log.committed.get(partition).is_some_and(|next| offset < next);
        let settled = facts.row_of(user).is_some()
            || facts.is_refused(user)
            || facts.dead_letters.contains(user)
            || facts.rows_lost.contains(user);
        if is_passed && !settled {
            oracle.found(
                Kind::OffsetAhead,
                format!("c{at}: {partition}/{offset} of {user} is committed and nothing else"),
            );
        }
    }
}

/// `verify` agrees.
async fn verdicts(world: &World, round: &Round, oracle: &mut Oracle) {
    for (nth, campaign) in round.campaigns.iter().enumerate() {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            let (status, output) = run_verb(world, true, &["verify", campaign.id.as_str()]).await;
            // 5: users were refused after their admission, which the oracle has judged.
            if matches!(status, Some(0 | 5)) {
                break;
            }
            if status == Some(1) || Instant::now() > until {
                oracle
                    .found(Kind::VerifyWrong, format!("c{nth}: all holds, and verify exits with {status:?}: {output}"));
                break;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// New claims take what is left, and a raise gives more, without an operator's repair.
async fn aftermath(world: &World, round: &Round, oracle: &mut Oracle, random: &mut Random) {
    for (nth, campaign) in round.campaigns.iter().enumerate() {
        for raise_by in [0, 2] {
            let Ok(rows) = evidence::rows(world, campaign).await else {
                return oracle.found(Kind::Stuck, "MySQL cannot be read");
            };
            if rows.is_closed {
                break;
            }
            if raise_by > 0 {
                let (status, output) = round.raise(world, true, nth, raise_by).await;
                if status != Some(0) {
                    return oracle.found(Kind::Stuck, format!("c{nth}: a raise failed: {output}"));
                }
            }
            let Ok(rows) =
                evidence::rows(world, campaign).await.map(|after| evidence::Rows { capacity: after.capacity, ..rows })
            else {
                return oracle.found(Kind::Stuck, "MySQL cannot be read");
            };
            let left = rows.capacity - u32::try_from(rows.coupons.len()).unwrap();
            let mut admitted = 0;
            let until = Instant::now() + SETTLED_WITHIN;
            while admitted < left && Instant::now() < until {
                match round.claim(world, nth, &round.fresh_user(), random).await {
                    Answer::Holds { .. } => admitted += 1,
                    // An isolate may not have seen a raise yet.
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
            let mut denied = 0;
            while denied < 3 && Instant::now() < until {
                match round.claim(world, nth, &round.fresh_user(), random).await {
                    Answer::Holds { .. } => admitted += 1,
                    Answer::SoldOut => denied += 1,
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
            if (admitted, denied) != (left, 3) {
                let text = format!("c{nth}: {left} of {} were left, {admitted} got in", rows.capacity);
                oracle.found(Kind::Stuck, text);
            }
            if let Err(error) = quiet(world, round).await {
                return oracle.found(Kind::NotQuiet, error);
            }
            match evidence::rows(world, campaign).await {
                Ok(after) if after.coupons.len() == rows.capacity as usize => {}
                Ok(after) => {
                    let text = format!("c{nth}: {} coupons of {}", after.coupons.len(), rows.capacity);
                    oracle.found(Kind::NotExactly, text);
                }
                Err(error) => oracle.found(Kind::Stuck, error),
            }
        }
    }
}

/// I5: where nothing was lost, a user always gets the same slot and code, and the code is that of the row.
async fn same_answers(world: &World, round: &Round, oracle: &mut Oracle) {
    if round.data_lost.load(Ordering::Relaxed) {
        return;
    }
    let mut rows = Vec::new();
    for campaign in &round.campaigns {
        rows.push(evidence::rows(world, campaign).await.unwrap_or_default());
    }
    let mut first = BTreeMap::new();
    for answered in round.binding_answers() {
        let Answer::Holds { slot, code, .. } = answered.answer else { continue };
        let (nth, user) = (answered.campaign, answered.user);
        let known = *first.entry((nth, user.clone())).or_insert(slot);
        if known != slot {
            oracle.found(Kind::Contradiction, format!("c{nth}: {user} was told slot {known}, and slot {slot}"));
        }
        if let Some((code, row)) = code.zip(rows[nth].codes.get(&user))
            && code != *row
        {
            oracle.found(Kind::Contradiction, format!("c{nth}: {user} was told a code that is not that of their row"));
        }
    }
}

/// Keeps what was judged, for whoever looks for the cause.
fn write(world: &World, round: &Round, facts: &[CampaignFacts]) {
    let answers: Vec<String> = round.binding_answers().iter().map(|answered| format!("{answered:?}\n")).collect();
    let text = format!("{facts:#?}");
    for (name, text) in [("answers", answers.concat()), ("facts", text)] {
        let file = world.paths.dir.join(format!("round-{}-{name}.txt", round.number));
        std::fs::write(file, text).unwrap();
    }
}
