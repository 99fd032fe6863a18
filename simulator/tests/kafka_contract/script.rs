//! The script: steps, conditions to wait for, and the log to compare. It does not know which Kafka it runs on.

use crate::app::{Command, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Number of scenarios.
pub const SCENARIOS: usize = 13;
pub const SESSION: Duration = Duration::from_secs(6);
pub const MAX_POLL: Duration = Duration::from_secs(8);
/// Far more than any step takes, so that a hang fails instead of hanging.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub type Log = (&'static str, Vec<String>);

/// A Kafka, real or not.
pub trait World {
    type Member: Member;
    async fn create_topic(&self, topic: &'static str, partitions: i32);
    async fn delete_topic(&self, topic: &'static str);
    /// Sends `count` records to a partition, and waits until they are acknowledged.
    async fn produce(&self, topic: &'static str, partition: i32, count: usize);
    /// Starts a member of the group that is called like the topic.
    async fn join(&self, topic: &'static str, instance_id: Option<&str>) -> Self::Member;
    /// What the group has committed.
    async fn committed(&self, topic: &'static str) -> BTreeMap<i32, i64>;
    async fn lag(&self, topic: &'static str) -> u64;
    /// How many members the group has, as the broker sees it, and whether no rebalance is in progress.
    async fn group(&self, topic: &'static str) -> (usize, bool);
    /// The broker is suspended while `work` runs.
    async fn frozen<T>(&self, work: impl Future<Output = T>) -> T;
    /// The broker is killed, and starts again after `work`.
    async fn crashed<T>(&self, work: impl Future<Output = T>) -> T;

    async fn members(&self, topic: &'static str) -> usize {
        self.group(topic).await.0
    }
}

/// A member's process.
pub trait Member {
    async fn call(&self, command: Command) -> Report;
    /// SIGKILL
    async fn kill(self);
    /// SIGSTOP, SIGCONT
    async fn freeze(&self);
    async fn thaw(&self);

    async fn report(&self) -> Report {
        self.call(Command::Report).await
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn owns(member: &impl Member, count: usize) {
    until(&format!("{count} partitions owned"), async || member.report().await.owned == count).await;
}

async fn sees(member: &impl Member, partition: i32, offset: i64) {
    until(&format!("offset {offset} of partition {partition} seen"), async || {
        member.report().await.seen(partition).contains(&offset)
    })
    .await;
}

/// Runs all scenarios, most of them concurrently.
pub async fn run(world: &impl World) -> Vec<Log> {
    let (a, b, c, d, e, f, g, h, i, j, k) = tokio::join!(
        share(world),
        pause_outlives(world),
        pause_loses_nothing(world),
        store(world),
        static_restart(world),
        recreated(world),
        recreated_longer(world),
        frozen(world),
        idle_leaves(world),
        does_not_poll(world),
        statistics(world),
    );
    // These affect every member.
    let l = broken(world).await;
    let m = recreated_after_restart(world).await;
    vec![
        ("a second member joins and is killed", a),
        ("a pause outlives revoke and assign", b),
        ("a pause loses and repeats nothing", c),
        ("stored offsets", d),
        ("a static member restarts, and another takes its name", e),
        ("a topic is recreated with fewer records", f),
        ("a topic is recreated with more records", g),
        ("a member is frozen beyond its session", h),
        ("members leave", i),
        ("a member does not poll", j),
        ("lag by the client's statistics", k),
        ("the broker is suspended, then killed", l),
        ("a topic is recreated after the broker was killed", m),
    ]
}

async fn share(world: &impl World) -> Vec<String> {
    let topic = "share";
    let mut log = Vec::new();
    world.create_topic(topic, 4).await;
    let a = world.join(topic, None).await;
    owns(&a, 4).await;
    for partition in 0..4 {
        world.produce(topic, partition, 3).await;
    }
    until("a has read all", async || a.report().await.count() == 12).await;
    log.push(format!("a sees {:?}", a.report().await.seen));
    until("all is committed", async || world.lag(topic).await == 0).await;
    log.push(format!("committed {:?}", world.committed(topic).await));
    let b = world.join(topic, None).await;
    owns(&a, 2).await;
    owns(&b, 2).await;
    log.push(format!("a has given up {:?}", a.report().await.revoked));
    a.call(Command::Forget).await;
    for partition in 0..4 {
        world.produce(topic, partition, 1).await;
    }
    until("both have read", async || a.report().await.count() + b.report().await.count() == 4).await;
    log.push(format!("a sees {:?}, b sees {:?}", a.report().await.seen, b.report().await.seen));
    until("all is committed", async || world.lag(topic).await == 0).await;
    b.call(Command::Settle(false)).await;
    world.produce(topic, 0, 2).await;
    sees(&b, 0, 5).await;
    a.call(Command::Forget).await;
    b.kill().await;
    owns(&a, 4).await;
    sees(&a, 0, 5).await;
    log.push(format!("a inherits what b had not stored: {:?}", a.report().await.seen));
    until("the killed member is removed", async || world.members(topic).await == 1).await;
    log
}

async fn pause_outlives(world: &impl World) -> Vec<String> {
    let topic = "pause_outlives";
    let mut log = Vec::new();
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    a.call(Command::Pause).await;
    let b = world.join(topic, None).await;
    owns(&a, 1).await;
    owns(&b, 1).await;
    log.push(format!("a has given up {:?} while paused", a.report().await.revoked));
    // A partition that is not assigned is not resumed.
    a.call(Command::Resume).await;
    b.call(Command::Leave).await;
    owns(&a, 2).await;
    for partition in 0..2 {
        world.produce(topic, partition, 5).await;
        sees(&a, partition, 4).await;
    }
    log.push("both partitions flow".to_owned());
    a.call(Command::Pause).await;
    a.call(Command::Resume).await;
    sees(&a, 0, 4).await;
    log.push(format!("after another pause a sees {:?}", a.report().await.seen(0)));
    // Revoked while it flows, paused while another member owns it.
    let b = world.join(topic, None).await;
    owns(&a, 1).await;
    owns(&b, 1).await;
    a.call(Command::Pause).await;
    b.call(Command::Leave).await;
    owns(&a, 2).await;
    a.call(Command::Forget).await;
    world.produce(topic, 0, 1).await;
    log.push(format!("what is assigned during a pause is paused: {:?}", a.report().await.seen(0)));
    a.call(Command::Resume).await;
    sees(&a, 0, 5).await;
    log.push(format!("and flows after it; of the other one a sees {:?}", a.report().await.seen(1)));
    log
}

async fn pause_loses_nothing(world: &impl World) -> Vec<String> {
    let topic = "pause_loses_nothing";
    world.create_topic(topic, 1).await;
    let a = world.join(topic, None).await;
    owns(&a, 1).await;
    a.call(Command::PauseAt(4)).await;
    world.produce(topic, 0, 10).await;
    sees(&a, 0, 3).await;
    until("what was seen is committed", async || world.committed(topic).await.get(&0) == Some(&4)).await;
    let log = format!("paused after {:?}", a.report().await.seen(0));
    a.call(Command::Resume).await;
    sees(&a, 0, 9).await;
    // Before anything was seen, and twice.
    a.call(Command::Forget).await;
    a.call(Command::PauseAt(usize::MAX)).await;
    a.call(Command::Pause).await;
    world.produce(topic, 0, 3).await;
    a.call(Command::Pause).await;
    a.call(Command::Resume).await;
    a.call(Command::Resume).await;
    sees(&a, 0, 12).await;
    vec![log, format!("then {:?}", a.report().await.seen(0))]
}

async fn store(world: &impl World) -> Vec<String> {
    let topic = "store";
    let mut log = Vec::new();
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    a.call(Command::Settle(false)).await;
    for partition in 0..2 {
        world.produce(topic, partition, 5).await;
    }
    until("a has read all", async || a.report().await.count() == 10).await;
    log.push(format!("committed {:?}", world.committed(topic).await));
    a.call(Command::Store(0, 2)).await;
    commits(world, topic, 2).await;
    let b = world.join(topic, None).await;
    b.call(Command::Settle(false)).await;
    owns(&a, 1).await;
    owns(&b, 1).await;
    sees(&b, 0, 4).await;
    log.push(format!("b begins where a had stored: {:?}", b.report().await.seen(0)));
    let failed = a.call(Command::Store(0, 4)).await.store_failed;
    log.push(format!("storing an offset for another member's partition fails: {failed}"));
    // A step back is stored and not committed.
    a.call(Command::Store(1, 4)).await;
    until("it is committed", async || world.committed(topic).await.get(&1) == Some(&4)).await;
    a.call(Command::Store(1, 1)).await;
    b.call(Command::Store(0, 3)).await;
    until("the other's is", async || world.committed(topic).await.get(&0) == Some(&3)).await;
    a.call(Command::Store(1, 5)).await;
    until("a step forward is", async || world.committed(topic).await.get(&1) == Some(&5)).await;
    // At the end the last stored offset is committed even if it is a step back.
    a.call(Command::Store(1, 2)).await;
    a.call(Command::Leave).await;
    owns(&b, 2).await;
    sees(&b, 1, 4).await;
    log.push(format!("after a has left: committed {:?}", world.committed(topic).await));
    log.push(format!("b sees {:?}", b.report().await.seen(1)));
    log
}

async fn static_restart(world: &impl World) -> Vec<String> {
    let topic = "static_restart";
    let mut log = Vec::new();
    world.create_topic(topic, 4).await;
    let a = world.join(topic, Some("a")).await;
    owns(&a, 4).await;
    let b = world.join(topic, Some("b")).await;
    owns(&a, 2).await;
    owns(&b, 2).await;
    for partition in 0..4 {
        world.produce(topic, partition, 1).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    let before = (a.report().await.partitions(), b.report().await.partitions());
    log.push(format!("a has {:?}, b has {:?}", before.0, before.1));
    a.kill().await;
    let a = world.join(topic, Some("a")).await;
    owns(&a, 2).await;
    for partition in 0..4 {
        world.produce(topic, partition, 1).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    let (of_a, of_b) = (a.report().await, b.report().await);
    log.push(format!("restarted, a sees {:?}, b sees {:?} and has given up {:?}", of_a.seen, of_b.seen, of_b.revoked));
    // Nor when it ends in order.
    a.call(Command::Leave).await;
    log.push(format!("members after a has left: {}", world.members(topic).await));
    let a = world.join(topic, Some("a")).await;
    owns(&a, 2).await;
    log.push(format!("b has given up {:?}", b.report().await.revoked));
    let second = world.join(topic, Some("a")).await;
    until("the first of the name is fenced", async || a.report().await.fatal).await;
    owns(&second, 2).await;
    log.push(format!("fenced; b has given up {:?}", b.report().await.revoked));
    log
}

/// The group has committed the first partition up to `next`.
async fn commits(world: &impl World, topic: &'static str, next: i64) {
    until("all is committed", async || world.committed(topic).await.get(&0) == Some(&next)).await;
}

async fn recreated(world: &impl World) -> Vec<String> {
    let topic = "recreated";
    let mut log = Vec::new();
    world.create_topic(topic, 1).await;
    let a = world.join(topic, None).await;
    owns(&a, 1).await;
    world.produce(topic, 0, 20).await;
    commits(world, topic, 20).await;
    a.call(Command::Forget).await;
    world.delete_topic(topic).await;
    world.create_topic(topic, 1).await;
    log.push(format!("committed {:?}, lag {}", world.committed(topic).await, world.lag(topic).await));
    world.produce(topic, 0, 5).await;
    sees(&a, 0, 4).await;
    let report = a.report().await;
    log.push(format!("a sees {:?}, has given up {:?}", report.seen(0), report.revoked));
    // The group's offset goes back to what the new topic has.
    world.produce(topic, 0, 5).await;
    commits(world, topic, 10).await;
    log.push(format!("lag {}", world.lag(topic).await));
    world.produce(topic, 0, 11).await;
    commits(world, topic, 21).await;
    log.push("committed also once it is longer than the old one".to_owned());
    log
}

async fn recreated_longer(world: &impl World) -> Vec<String> {
    let topic = "recreated_longer";
    world.create_topic(topic, 1).await;
    let a = world.join(topic, None).await;
    owns(&a, 1).await;
    world.produce(topic, 0, 5).await;
    commits(world, topic, 5).await;
    a.call(Command::Forget).await;
    a.freeze().await;
    world.delete_topic(topic).await;
    world.create_topic(topic, 1).await;
    world.produce(topic, 0, 8).await;
    a.thaw().await;
    sees(&a, 0, 7).await;
    vec![format!("a sees {:?}", a.report().await.seen(0))]
}

async fn recreated_after_restart(world: &impl World) -> Vec<String> {
    let topic = "recreated_after_restart";
    let mut log = Vec::new();
    world.create_topic(topic, 1).await;
    let a = world.join(topic, None).await;
    owns(&a, 1).await;
    world.produce(topic, 0, 20).await;
    commits(world, topic, 20).await;
    world.crashed(async {}).await;
    // The client has read under the new leader epoch.
    world.produce(topic, 0, 1).await;
    commits(world, topic, 21).await;
    a.call(Command::Forget).await;
    world.delete_topic(topic).await;
    world.create_topic(topic, 1).await;
    world.produce(topic, 0, 5).await;
    sees(&a, 0, 4).await;
    let report = a.report().await;
    log.push(format!("a sees {:?}, has given up {:?}", report.seen(0), report.revoked));
    commits(world, topic, 5).await;
    log.push(format!("lag {}", world.lag(topic).await));
    log
}

async fn frozen(world: &impl World) -> Vec<String> {
    let topic = "frozen";
    let mut log = Vec::new();
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    let b = world.join(topic, None).await;
    owns(&a, 1).await;
    owns(&b, 1).await;
    a.call(Command::Forget).await;
    a.freeze().await;
    owns(&b, 2).await;
    for partition in 0..2 {
        world.produce(topic, partition, 3).await;
    }
    until("b has read all", async || b.report().await.count() == 6).await;
    until("all is committed", async || world.lag(topic).await == 0).await;
    a.thaw().await;
    until("a has lost what it had", async || a.report().await.revoked == BTreeSet::from([1])).await;
    until("they share", async || a.report().await.owned == 1 && b.report().await.owned == 1).await;
    log.push(format!("b has given up {:?}, members {}", b.report().await.revoked, world.members(topic).await));
    for partition in 0..2 {
        world.produce(topic, partition, 1).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    log.push(format!("a sees {:?}, b sees {:?}", a.report().await.seen, b.report().await.seen));
    log
}

async fn idle_leaves(world: &impl World) -> Vec<String> {
    let topic = "idle_leaves";
    let mut log = Vec::new();
    world.create_topic(topic, 1).await;
    let a = world.join(topic, None).await;
    owns(&a, 1).await;
    let b = world.join(topic, None).await;
    until("both are members", async || world.group(topic).await == (2, true)).await;
    // A commit takes longer than the callback with nothing in it.
    world.produce(topic, 0, 1).await;
    until("it is committed", async || world.lag(topic).await == 0).await;
    b.call(Command::Leave).await;
    log.push(format!("members right after one without partitions has left: {}", world.members(topic).await));
    until("it is removed", async || world.members(topic).await == 1).await;
    a.call(Command::Leave).await;
    log.push(format!("members right after one with a partition has left: {}", world.members(topic).await));
    log
}

async fn does_not_poll(world: &impl World) -> Vec<String> {
    let topic = "does_not_poll";
    let mut log = Vec::new();
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    let b = world.join(topic, None).await;
    owns(&a, 1).await;
    owns(&b, 1).await;
    a.call(Command::Forget).await;
    let begun = Instant::now();
    a.call(Command::Poll(false)).await;
    owns(&b, 2).await;
    let took = begun.elapsed();
    log.push(format!("b inherits after max.poll.interval: {}", took > MAX_POLL - Duration::from_secs(1)));
    log.push(format!("revoked so far {:?}", a.report().await.revoked));
    a.call(Command::Poll(true)).await;
    until("they share again", async || a.report().await.owned == 1 && b.report().await.owned == 1).await;
    log.push(format!("a has lost {:?}, b has given up {:?}", a.report().await.revoked, b.report().await.revoked));
    log
}

async fn statistics(world: &impl World) -> Vec<String> {
    let topic = "statistics";
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    a.call(Command::Settle(false)).await;
    for partition in 0..2 {
        world.produce(topic, partition, 3).await;
    }
    until("a has read all", async || a.report().await.count() == 6).await;
    until("there are statistics", async || a.report().await.lag.is_some()).await;
    let log = format!("lag while nothing is stored: {:?}", a.report().await.lag);
    a.call(Command::Store(0, 1)).await;
    until("what is stored counts", async || a.report().await.lag == Some(5)).await;
    vec![log]
}

async fn broken(world: &impl World) -> Vec<String> {
    let topic = "broken";
    let mut log = Vec::new();
    world.create_topic(topic, 2).await;
    let a = world.join(topic, None).await;
    owns(&a, 2).await;
    let b = world.join(topic, None).await;
    let shared = async || a.report().await.owned == 1 && b.report().await.owned == 1;
    until("they share", shared).await;
    for partition in 0..2 {
        world.produce(topic, partition, 3).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    a.call(Command::Forget).await;
    b.call(Command::Forget).await;
    let lost = async || a.report().await.owned + b.report().await.owned == 0;
    world.frozen(until("both give up by themselves", lost)).await;
    log.push(format!("a has lost {:?}, b {:?}", a.report().await.revoked, b.report().await.revoked));
    until("they share again", shared).await;
    a.call(Command::Forget).await;
    b.call(Command::Forget).await;
    for partition in 0..2 {
        world.produce(topic, partition, 2).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    // After both have joined again, either may own either partition, and a commit may have been lost.
    let all = async || {
        let (a, b) = (a.report().await, b.report().await);
        let set = |partition| [a.seen(partition), b.seen(partition)].concat().into_iter().collect::<BTreeSet<i64>>();
        [0, 1].map(set)
    };
    log.push(format!("then they see {:?}", all().await));
    a.call(Command::Forget).await;
    b.call(Command::Forget).await;
    world.crashed(async {}).await;
    until("they share again", shared).await;
    for partition in 0..2 {
        world.produce(topic, partition, 2).await;
    }
    until("all is committed", async || world.lag(topic).await == 0).await;
    log.push(format!("then they see {:?}", all().await));
    log
}
