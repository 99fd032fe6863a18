//! The Kafka model alone: cases that take too long on a real broker, random faults, and determinism.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_simulator::kafka::{
    AdapterRules, Availability, BrokerSettings, Kafka, MemberHandle, MemberSettings, NewRecord, SimRecordSource,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, sleep, timeout};

const TOPIC: &str = "t";
const GROUP: &str = "g";

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

fn kafka(partitions: i32) -> Kafka {
    let kafka = Kafka::start(BrokerSettings { initial_rebalance_delay: Duration::ZERO, ..BrokerSettings::default() });
    assert!(kafka.create_topic(TOPIC, partitions));
    kafka
}

fn produce(kafka: &Kafka, partition: i32, count: usize) {
    for n in 0..count {
        let value = format!("{n}").into_bytes();
        kafka.produce(TOPIC, NewRecord { partition: Some(partition), value, ..NewRecord::default() }).unwrap();
    }
}

/// A process that polls all the time and stores what it gets.
struct Member {
    source: Rc<SimRecordSource>,
    handle: MemberHandle,
    seen: Rc<RefCell<Vec<(i32, i64)>>>,
    /// The same, including revoked partitions.
    ever: Rc<RefCell<BTreeSet<(i32, i64)>>>,
    errors: Rc<RefCell<Vec<&'static str>>>,
    polls: Rc<Cell<bool>>,
    task: JoinHandle<()>,
    /// Number of its instance id.
    name: Option<u64>,
}

impl Member {
    fn start(kafka: &Kafka, settings: MemberSettings) -> Self {
        let source = Rc::new(SimRecordSource::join(kafka, TOPIC, 1, settings));
        let seen: Rc<RefCell<Vec<(i32, i64)>>> = Rc::default();
        let ever: Rc<RefCell<BTreeSet<(i32, i64)>>> = Rc::default();
        let (errors, polls): (Rc<RefCell<Vec<_>>>, _) = (Rc::default(), Rc::new(Cell::new(true)));
        let task = tokio::task::spawn_local({
            let (source, seen, ever) = (Rc::clone(&source), Rc::clone(&seen), Rc::clone(&ever));
            let (errors, polls) = (Rc::clone(&errors), Rc::clone(&polls));
            async move {
                loop {
                    if !polls.get() {
                        sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                    match timeout(Duration::from_secs(1), source.recv()).await {
                        Ok(Ok((partition, record))) => {
                            seen.borrow_mut().push((partition, record.offset));
                            ever.borrow_mut().insert((partition, record.offset));
                            source.store(&[(partition, record.offset + 1)]);
                        }
                        Ok(Err(error)) => errors.borrow_mut().push(error.label),
                        Err(_) => {}
                    }
                    let revoked = source.revoked();
                    seen.borrow_mut().retain(|(partition, _)| !revoked.contains(partition));
                }
            }
        });
        Self { handle: source.handle(), source, seen, ever, errors, polls, task, name: None }
    }

    fn seen(&self) -> BTreeSet<(i32, i64)> {
        self.seen.borrow().iter().copied().collect()
    }

    fn kill(self) {
        self.handle.kill();
        self.task.abort();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(700);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn two_members_share_and_the_second_inherits_when_the_first_is_killed() {
    run(async {
        let kafka = kafka(4);
        let a = Member::start(&kafka, MemberSettings::new(GROUP));
        until("a owns all", || a.source.owned().len() == 4).await;
        for partition in 0..4 {
            produce(&kafka, partition, 3);
        }
        until("a reads all", || a.seen().len() == 12).await;
        until("all is committed", || kafka.lag(GROUP, TOPIC) == Ok(0)).await;
        let b = Member::start(&kafka, MemberSettings::new(GROUP));
        until("they share", || a.source.owned().len() == 2 && b.source.owned().len() == 2).await;
        assert_eq!(b.source.owned(), BTreeSet::from([0, 1]));
        produce(&kafka, 0, 1);
        until("b reads what is new and nothing else", || b.seen() == BTreeSet::from([(0, 3)])).await;
        let begun = Instant::now();
        a.kill();
        until("b inherits", || b.source.owned().len() == 4).await;
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(13) && took < Duration::from_secs(20), "{took:?}");
        assert_eq!(kafka.members(GROUP), 1);
        assert!(kafka.faults().borrow().iter().any(|(kind, _)| *kind == "kafka: session ended"));
    });
}

#[test]
fn the_applications_pause_outlives_revoke_and_assign_unless_the_adapter_resumes() {
    for resume_on_assign in [false, true] {
        run(async {
            let kafka = kafka(2);
            let adapter = AdapterRules { resume_on_assign, replace_silent: false, ..AdapterRules::default() };
            let a = Member::start(&kafka, MemberSettings { adapter, ..MemberSettings::new(GROUP) });
            until("a owns both", || a.source.owned().len() == 2).await;
            a.source.set_paused(true);
            let b = Member::start(&kafka, MemberSettings::new(GROUP));
            until("they share", || b.source.owned().len() == 1).await;
            // Partition 0 is gone, so its flag is not taken away.
            a.source.set_paused(false);
            let moved = *b.source.owned().first().unwrap();
            b.kill();
            until("a owns both again", || a.source.owned().len() == 2).await;
            produce(&kafka, 0, 1);
            produce(&kafka, 1, 1);
            sleep(Duration::from_secs(60)).await;
            assert_eq!(a.seen().contains(&(moved, 0)), resume_on_assign);
            assert!(a.seen().contains(&(1 - moved, 0)));
            a.source.set_paused(false);
            until("all is read once resumed", || a.seen().len() == 2).await;
        });
    }
}

#[test]
fn an_offset_for_another_members_partition_is_not_stored() {
    run(async {
        let kafka = kafka(2);
        let a = Member::start(&kafka, MemberSettings::new(GROUP));
        until("a owns both", || a.source.owned().len() == 2).await;
        let b = Member::start(&kafka, MemberSettings::new(GROUP));
        until("they share", || b.source.owned() == BTreeSet::from([0])).await;
        produce(&kafka, 0, 3);
        until("b reads all", || kafka.committed(GROUP, TOPIC).get(&0) == Some(&3)).await;
        assert!(!a.source.store(&[(0, 1)]));
        assert!(a.source.store(&[(0, 1), (1, 0)]), "one of them is its own");
        b.kill();
        until("a owns both again", || a.source.owned().len() == 2).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(kafka.committed(GROUP, TOPIC).get(&0), Some(&3));
    });
}

#[test]
fn a_frozen_process_loses_everything_and_joins_again() {
    run(async {
        let kafka = kafka(2);
        let a = Member::start(&kafka, MemberSettings::new(GROUP));
        let b = Member::start(&kafka, MemberSettings::new(GROUP));
        until("they share", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        a.handle.freeze();
        until("b inherits", || b.source.owned().len() == 2).await;
        produce(&kafka, 0, 5);
        produce(&kafka, 1, 5);
        until("b reads all", || b.seen().len() == 10).await;
        a.handle.thaw();
        until("they share again", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        assert_eq!(kafka.lag(GROUP, TOPIC), Ok(0));
        assert_eq!(a.seen(), BTreeSet::new());
    });
}

#[test]
fn a_member_that_does_not_poll_leaves_after_five_minutes_and_joins_again_when_it_polls() {
    run(async {
        let kafka = kafka(2);
        let a = Member::start(&kafka, MemberSettings::new(GROUP));
        let b = Member::start(&kafka, MemberSettings::new(GROUP));
        until("they share", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        a.polls.set(false);
        let begun = Instant::now();
        until("b inherits", || b.source.owned().len() == 2).await;
        assert!(begun.elapsed() > Duration::from_secs(299), "{:?}", begun.elapsed());
        a.polls.set(true);
        until("they share again", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        assert!(a.errors.borrow().contains(&"MaxPollExceeded"));
    });
}

#[test]
fn a_static_member_that_restarts_moves_no_partition_and_a_second_one_ends_the_first() {
    run(async {
        let kafka = kafka(4);
        let named = |name: &str| MemberSettings { instance_id: Some(name.to_owned()), ..MemberSettings::new(GROUP) };
        let a = Member::start(&kafka, named("a"));
        let b = Member::start(&kafka, named("b"));
        until("they share", || a.source.owned().len() == 2 && b.source.owned().len() == 2).await;
        let (of_a, of_b) = (a.source.owned(), b.source.owned());
        let generation = kafka.generation(GROUP);
        a.kill();
        sleep(Duration::from_secs(5)).await;
        let a = Member::start(&kafka, named("a"));
        until("it has what it had", || a.source.owned() == of_a).await;
        assert_eq!((b.source.owned(), kafka.generation(GROUP)), (of_b, generation));
        let c = Member::start(&kafka, named("a"));
        until("the first is fenced", || a.errors.borrow().contains(&"FencedInstanceId")).await;
        until("the second has its part", || c.source.owned() == of_a).await;
    });
}

#[test]
fn a_broker_that_was_away_finds_its_members_again() {
    for (broken, seconds) in [(Availability::Down, 5), (Availability::Down, 60), (Availability::Hangs, 60)] {
        run(async {
            let kafka = kafka(3);
            let a = Member::start(&kafka, MemberSettings::new(GROUP));
            let b = Member::start(&kafka, MemberSettings::new(GROUP));
            until("they share", || a.source.owned().len() + b.source.owned().len() == 3).await;
            kafka.set_availability(broken);
            sleep(Duration::from_secs(seconds)).await;
            kafka.set_availability(Availability::Up);
            for partition in 0..3 {
                produce(&kafka, partition, 10);
            }
            let all = || a.seen().union(&b.seen()).count() == 30;
            until("all is read", || all() && kafka.lag(GROUP, TOPIC) == Ok(0)).await;
            until("and shared", || a.source.owned().len().abs_diff(b.source.owned().len()) == 1).await;
            assert!(!kafka.faults().borrow().is_empty());
        });
    }
}

#[test]
fn i9_a_topic_created_anew_is_committed_only_when_longer_than_the_old_one_unless_the_adapter_commits_back() {
    for commit_back in [false, true] {
        run(async {
            let kafka = kafka(1);
            let adapter = AdapterRules { commit_back, ..AdapterRules::default() };
            let a = Member::start(&kafka, MemberSettings { adapter, ..MemberSettings::new(GROUP) });
            until("a owns it", || a.source.owned().len() == 1).await;
            produce(&kafka, 0, 20);
            until("all is committed", || kafka.committed(GROUP, TOPIC).get(&0) == Some(&20)).await;
            kafka.delete_topic(TOPIC);
            kafka.create_topic(TOPIC, 1);
            a.seen.borrow_mut().clear();
            produce(&kafka, 0, 5);
            until("it is read from its beginning", || a.seen().len() == 5).await;
            sleep(Duration::from_secs(30)).await;
            let (committed, lag) = if commit_back { (Some(5), 0) } else { (None, 5) };
            assert_eq!(kafka.committed(GROUP, TOPIC).get(&0).copied(), committed);
            assert_eq!(kafka.lag(GROUP, TOPIC), Ok(lag));
            produce(&kafka, 0, 16);
            until("all of it is", || kafka.committed(GROUP, TOPIC).get(&0) == Some(&21)).await;
        });
    }
}

/// The leader epochs of a new topic begin at 0 again, and the client knows a higher one.
#[test]
fn i9_a_topic_created_anew_after_a_restart_is_read_only_by_a_new_client() {
    for replace_silent in [false, true] {
        run(async {
            let kafka = kafka(2);
            let adapter = AdapterRules { replace_silent, ..AdapterRules::default() };
            let a = Member::start(&kafka, MemberSettings { adapter, ..MemberSettings::new(GROUP) });
            let b = Member::start(&kafka, MemberSettings { adapter, ..MemberSettings::new(GROUP) });
            until("they share", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
            kafka.set_availability(Availability::Down);
            sleep(Duration::from_secs(5)).await;
            kafka.set_availability(Availability::Up);
            let produce = |count: usize| (0..2).for_each(|partition| produce(&kafka, partition, count));
            produce(20);
            until("all is committed", || kafka.lag(GROUP, TOPIC) == Ok(0)).await;
            kafka.delete_topic(TOPIC);
            kafka.create_topic(TOPIC, 2);
            [&a, &b].iter().for_each(|member| member.seen.borrow_mut().clear());
            produce(5);
            let read = || a.seen().union(&b.seen()).count();
            sleep(Duration::from_secs(45)).await;
            if !replace_silent {
                sleep(Duration::from_secs(3_600)).await;
                assert_eq!(read(), 0, "the model's client reads the new topic");
                return;
            }
            assert_eq!(read(), 10, "it is not read from its beginning");
            until("all is committed", || kafka.lag(GROUP, TOPIC) == Ok(0)).await;
            until("nothing is wrong", || a.source.unread().is_none() && b.source.unread().is_none()).await;
            let replaced = kafka.faults().borrow().iter().filter(|(kind, _)| *kind == "client: replaced").count();
            sleep(Duration::from_secs(600)).await;
            produce(1);
            until("they go on", || read() == 12).await;
            let after = kafka.faults().borrow().iter().filter(|(kind, _)| *kind == "client: replaced").count();
            assert_eq!((replaced, after), (2, 2), "each once");
        });
    }
}

#[test]
fn a_link_that_was_cut_costs_the_member_its_partitions_and_nobody_a_record() {
    run(async {
        let kafka = kafka(2);
        let a = Member::start(&kafka, MemberSettings::new(GROUP));
        let b = Member::start(&kafka, MemberSettings::new(GROUP));
        until("they share", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        a.handle.cut_link();
        until("b inherits", || b.source.owned().len() == 2).await;
        until("a gives up by itself", || a.source.owned().is_empty()).await;
        a.handle.restore_link();
        until("they share again", || a.source.owned().len() == 1 && b.source.owned().len() == 1).await;
        produce(&kafka, 0, 3);
        produce(&kafka, 1, 3);
        until("all is read", || a.seen().union(&b.seen()).count() == 6).await;
    });
}

#[test]
fn one_seed_gives_one_run() {
    fn story(mut seed: u64) -> Vec<String> {
        run(async move {
            let kafka = kafka(5);
            kafka.set_latency(move || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Duration::from_millis(seed >> 58)
            });
            let a = Member::start(&kafka, MemberSettings::new(GROUP));
            let b = Member::start(&kafka, MemberSettings::new(GROUP));
            for round in 0..40 {
                produce(&kafka, round % 5, 3);
                sleep(Duration::from_millis(700)).await;
                if round == 20 {
                    b.handle.freeze();
                }
            }
            let seen = (a.seen.borrow(), b.seen.borrow());
            vec![format!("{seen:?}"), format!("{:?}", kafka.faults().borrow()), format!("{:?}", Instant::now())]
                .into_iter()
                .take(2)
                .collect()
        })
    }
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

/// Numbers for a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Random faults for some minutes, then none: the group must become stable, with every record read.
fn random_faults(seed: u64) {
    const PARTITIONS: i32 = 6;
    run(async move {
        let kafka = kafka(PARTITIONS);
        let mut latency = Random(seed ^ 0xabcd);
        kafka.set_latency(move || Duration::from_millis(latency.below(30)));
        let mut random = Random(seed);
        let settings = |name: Option<u64>| MemberSettings {
            instance_id: name.map(|name| format!("i{name}")),
            adapter: AdapterRules { resume_on_assign: true, ..AdapterRules::default() },
            ..MemberSettings::new(GROUP)
        };
        let read: Rc<RefCell<BTreeSet<(i32, i64)>>> = Rc::default();
        let mut members: Vec<Member> = Vec::new();
        let mut produced = 0;
        for _ in 0..60 {
            match random.below(14) {
                0 | 1 if members.len() < 5 => {
                    let name = Some(random.below(1000)).filter(|name| name % 2 == 0);
                    members.push(Member::start(&kafka, settings(name)));
                    members.last_mut().unwrap().name = name;
                }
                2 if !members.is_empty() => {
                    let member = members.swap_remove(usize::try_from(random.below(members.len() as u64)).unwrap());
                    read.borrow_mut().extend(member.ever.borrow().iter());
                    member.kill();
                }
                what @ 3..=9 if !members.is_empty() => {
                    let member = &members[usize::try_from(random.below(members.len() as u64)).unwrap()];
                    match what {
                        3 => member.handle.freeze(),
                        4 => member.handle.thaw(),
                        5 => member.handle.cut_link(),
                        6 => member.handle.restore_link(),
                        7 => member.source.set_paused(true),
                        8 => member.source.set_paused(false),
                        _ => member.polls.set(!member.polls.get()),
                    }
                }
                10 => kafka.set_availability(Availability::Down),
                11 => kafka.set_availability(Availability::Hangs),
                12 | 13 => kafka.set_availability(Availability::Up),
                _ => {}
            }
            produce(&kafka, i32::try_from(random.below(6)).unwrap(), 2);
            produced += 2;
            sleep(Duration::from_millis(random.below(9_000))).await;
        }
        kafka.set_availability(Availability::Up);
        if members.is_empty() {
            members.push(Member::start(&kafka, settings(None)));
        }
        for member in &members {
            member.handle.restore_link();
            member.handle.thaw();
            member.polls.set(true);
            member.source.set_paused(false);
        }
        let deadline = Instant::now() + Duration::from_secs(700);
        let settled = |members: &[Member]| {
            let owned: Vec<i32> = members.iter().flat_map(|member| member.source.owned()).collect();
            owned.len() == 6 && owned.iter().collect::<BTreeSet<_>>().len() == 6 && kafka.lag(GROUP, TOPIC) == Ok(0)
        };
        while !settled(&members) {
            assert!(Instant::now() < deadline, "seed {seed}: the group does not become stable");
            sleep(Duration::from_millis(100)).await;
            // A fenced process ends, and its supervisor restarts it.
            let fenced = |member: &Member| member.errors.borrow().contains(&"FencedInstanceId");
            if let Some(index) = members.iter().position(fenced) {
                let member = members.swap_remove(index);
                read.borrow_mut().extend(member.ever.borrow().iter());
                let name = member.name;
                member.kill();
                members.push(Member::start(&kafka, settings(name)));
                members.last_mut().unwrap().name = name;
            }
        }
        for member in &members {
            read.borrow_mut().extend(member.ever.borrow().iter());
        }
        assert_eq!(read.borrow().len(), produced, "seed {seed}: what was committed was read");
    });
}

#[test]
fn i9_a_group_becomes_stable_after_random_faults() {
    (0..60).for_each(random_faults);
}
