//! The loop over ports in memory: what it does, and in which order.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::ports::{
    Admission, ClaimOutcome, Confirmation, Confirmations, CouponStore, DeadLetters, Delivery, Hold, Partitions,
    RecordSource, RejectReason,
};
use dropgate_issuer::consume::service::{Limits, Service, Step};
use dropgate_issuer::consume::traces::Traces;
use dropgate_issuer::health::Health;
use dropgate_issuer::metrics::Metrics;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The systems around the loop. Every event that matters is logged in order.
#[derive(Default)]
struct World {
    records: VecDeque<Delivery>,
    revoked: Vec<i32>,
    paused: bool,
    /// How often the store, or the dead-letter topic, is away before it answers.
    away: u32,
    dead_letters_away: u32,
    holders_away: bool,
    /// What the next decision about waiting claims is.
    decided: Vec<Confirmation>,
    log: Vec<String>,
    stop_when_away: Option<watch::Sender<bool>>,
    /// The store never answers; once it is called, a stop is requested.
    stop_when_stuck: Option<watch::Sender<bool>>,
    /// What the source reports once, while it is paused.
    fatal: Option<Fault>,
    campaign_exists: bool,
    /// The process lacks a secret.
    is_held: bool,
    /// How long a write takes, and a look.
    write_ms: u64,
    look_ms: u64,
    lags: Vec<(i32, Option<u64>)>,
    /// Kafka is silent since then.
    heard: Option<tokio::time::Instant>,
    /// Why records do not arrive.
    unread: Option<String>,
}

#[derive(Clone, Default)]
struct Ports(Rc<RefCell<World>>);

impl Ports {
    fn log(&self, line: String) {
        self.0.borrow_mut().log.push(line);
    }

    fn deliver(&self, partition: i32, offset: i64, payload: &str) {
        let payload = payload.as_bytes().to_vec();
        let delivery = Delivery { partition, offset, key: None, payload, replayed: false };
        self.0.borrow_mut().records.push_back(delivery);
    }
}

impl RecordSource for Ports {
    async fn recv(&self) -> Result<Delivery, Fault> {
        let next = {
            let mut world = self.0.borrow_mut();
            if world.paused {
                if let Some(fault) = world.fatal.take() {
                    return Err(fault);
                }
                None
            } else {
                world.records.pop_front()
            }
        };
        match next {
            Some(delivery) => Ok(delivery),
            None => std::future::pending().await,
        }
    }

    fn revoked(&self) -> Vec<i32> {
        std::mem::take(&mut self.0.borrow_mut().revoked)
    }

    fn pause(&self) {
        self.0.borrow_mut().paused = true;
    }

    fn resume(&self) {
        self.0.borrow_mut().paused = false;
    }

    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault> {
        self.log(format!("store {next:?}"));
        Ok(())
    }

    fn lags(&self) -> Vec<(i32, Option<u64>)> {
        self.0.borrow().lags.clone()
    }

    fn silent_for(&self) -> Duration {
        self.0.borrow().heard.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn unread(&self) -> Option<String> {
        self.0.borrow().unread.clone()
    }

    fn partitions(&self) -> Partitions {
        Partitions { owned: 2, all: 2 }
    }
}

impl CouponStore for Ports {
    fn must_hold(&self, admissions: &[&Admission]) -> Option<Hold> {
        let held = self.0.borrow().is_held && !admissions.is_empty();
        held.then(|| Hold { label: "other_code_key", text: "the secret is another one".to_owned() })
    }

    async fn persist(&self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, Fault> {
        let stuck = self.0.borrow_mut().stop_when_stuck.take();
        if let Some(stop) = stuck {
            self.log("stuck".to_owned());
            stop.send(true).unwrap();
            return std::future::pending().await;
        }
        let write_ms = self.0.borrow().write_ms;
        tokio::time::sleep(Duration::from_millis(write_ms)).await;
        let mut world = self.0.borrow_mut();
        if world.away > 0 {
            world.away -= 1;
            world.log.push("away".to_owned());
            if let Some(stop) = &world.stop_when_away {
                stop.send(true).unwrap();
            }
            return Err(Fault::unknown(Source::MySql, "unreachable", "away"));
        }
        world.log.push(format!("persist {}", admissions.len()));
        let outcome = |admission: &&Admission| match admission.record.user.as_str() {
            "unknown" if !world.campaign_exists => {
                ClaimOutcome::Rejected(RejectReason { label: "unknown_campaign", text: String::new() })
            }
            "homeless" => ClaimOutcome::Waiting,
            user if user.starts_with("late") => ClaimOutcome::Refused { slot: admission.record.slot },
            user if user.starts_with("again") => ClaimOutcome::Already { slot: Slot::new(77).unwrap() },
            "spoiled" => ClaimOutcome::Rejected(RejectReason { label: "data", text: String::new() }),
            _ => ClaimOutcome::Issued { slot: admission.record.slot },
        };
        Ok(admissions.iter().map(outcome).collect())
    }

    async fn look_up(&self, admissions: &[&Admission]) -> Result<Vec<Option<ClaimOutcome>>, Fault> {
        self.answer_look(admissions).await
    }

    async fn holders(&self, slots: &BTreeSet<(&CampaignId, Slot)>) -> Result<Vec<Confirmation>, Fault> {
        if self.0.borrow().holders_away {
            return Err(Fault::unknown(Source::MySql, "unreachable", "away"));
        }
        Ok(slots.iter().map(|(_, slot)| confirmation("holder", &format!("{slot}:3:i"))).collect())
    }

    fn can_decide(&self) -> bool {
        !self.0.borrow().decided.is_empty()
    }

    async fn decide(&self, limit: usize) -> Result<Vec<Confirmation>, Fault> {
        self.log(format!("decide {limit}"));
        Ok(std::mem::take(&mut self.0.borrow_mut().decided))
    }
}

fn confirmation(user: &str, entry: &str) -> Confirmation {
    let (campaign, user) = (CampaignId::parse("c").unwrap(), UserId::parse(user).unwrap());
    Confirmation { campaign, user, entry: entry.parse().unwrap() }
}

impl Ports {
    async fn answer_look(&self, admissions: &[&Admission]) -> Result<Vec<Option<ClaimOutcome>>, Fault> {
        let look_ms = self.0.borrow().look_ms;
        tokio::time::sleep(Duration::from_millis(look_ms)).await;
        let mut world = self.0.borrow_mut();
        if world.away > 0 {
            world.away -= 1;
            world.log.push("away".to_owned());
            return Err(Fault::unknown(Source::MySql, "unreachable", "away"));
        }
        world.log.push(format!("look {}", admissions.len()));
        let row = |admission: &&Admission| match admission.record.user.as_str() {
            user if user.starts_with("late") => Some(ClaimOutcome::Refused { slot: admission.record.slot }),
            user if user.starts_with("again") => Some(ClaimOutcome::Already { slot: Slot::new(77).unwrap() }),
            _ => None,
        };
        Ok(admissions.iter().map(row).collect())
    }
}

impl DeadLetters for Ports {
    async fn publish(&self, letters: &[(&Delivery, &RejectReason)]) -> Vec<Result<(), Fault>> {
        let mut world = self.0.borrow_mut();
        let away = world.dead_letters_away > 0;
        world.dead_letters_away = world.dead_letters_away.saturating_sub(1);
        let mut results = Vec::new();
        for (nth, (delivery, cause)) in letters.iter().enumerate() {
            // While it is away, the first of each call gets through.
            if away && nth > 0 {
                results.push(Err(Fault::unknown(Source::Kafka, "dead_letter", "away")));
            } else {
                world.log.push(format!("publish {} {}", delivery.offset, cause.label));
                results.push(Ok(()));
            }
        }
        results
    }
}

impl Confirmations for Ports {
    fn offer(&self, settled: Vec<Confirmation>) {
        let entries = settled.iter().map(|c| format!("{} {}", c.user.as_str(), c.entry));
        self.log(format!("confirm {}", entries.collect::<Vec<_>>().join(", ")));
    }
}

fn record(user: &str, slot: u32) -> String {
    format!(r#"{{"v":1,"campaign":"c","user":"{user}","slot":{slot},"admitted_at":5}}"#)
}

type TestService = Service<Ports, Ports, Ports, Ports>;

fn service(ports: &Ports, size: usize) -> (TestService, watch::Sender<bool>) {
    service_at(ports, size, Duration::from_millis(1), "unlimited")
}

fn service_at(ports: &Ports, size: usize, linger: Duration, budget: &str) -> (TestService, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let all = (ports.clone(), ports.clone(), ports.clone(), ports.clone());
    let limits = Limits { batch_records: size, linger, budget: budget.parse().unwrap(), dead_letter_limit: 4 };
    let metrics = Arc::new(Metrics::default());
    let shown = (Arc::new(Health::new(Arc::clone(&metrics))), metrics, Traces::default());
    (Service::new(all, limits, shown, Jitter::system(), stopped), stop)
}

fn log(ports: &Ports) -> Vec<String> {
    std::mem::take(&mut ports.0.borrow_mut().log)
}

#[tokio::test]
async fn i7_rows_then_dead_letters_then_offsets_then_redis() {
    let ports = Ports::default();
    ports.deliver(0, 10, &record("u1", 1));
    ports.deliver(0, 11, "garbage");
    ports.deliver(1, 5, &record("again", 2));
    ports.deliver(0, 12, &record("spoiled", 3));
    ports.deliver(0, 13, &record("late", 4));
    let (mut service, _stop) = service(&ports, 5);
    assert_eq!(service.step().await.unwrap(), Step::Again);
    assert_eq!(
        log(&ports),
        [
            "persist 4",
            "publish 11 malformed",
            "publish 12 data",
            "store [(0, 14), (1, 6)]",
            "confirm holder 4:3:i, u1 1:5:i, again 77:5:i, spoiled 3:5:d, late 4:5:r",
        ]
    );
    let counts = service.counts();
    assert_eq!((counts.records, counts.issued, counts.already), (5, 1, 1));
    assert_eq!((counts.refused, counts.dead_letters), (1, 2));
}

#[tokio::test]
async fn i5_i7_a_claim_without_its_slot_moves_the_offset_and_the_holder_is_confirmed_again() {
    for holders_away in [false, true] {
        let ports = Ports::default();
        ports.0.borrow_mut().holders_away = holders_away;
        ports.deliver(0, 1, &record("homeless", 7));
        ports.deliver(0, 2, &record("u2", 2));
        let (mut service, _stop) = service(&ports, 2);
        service.step().await.unwrap();
        let confirmed = if holders_away { "confirm u2 2:5:i" } else { "confirm holder 7:3:i, u2 2:5:i" };
        assert_eq!(log(&ports), ["persist 2", "store [(0, 3)]", confirmed]);
        assert_eq!((service.counts().waiting, service.counts().issued), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_claims_take_the_turn_of_a_batch_within_the_budget() {
    let ports = Ports::default();
    let (mut service, _stop) = service_at(&ports, 10, Duration::from_millis(1), "2/s");
    let begun = tokio::time::Instant::now();
    ports.0.borrow_mut().decided = vec![confirmation("x", "9:5:i"), confirmation("y", "7:5:r")];
    ports.deliver(0, 1, &record("u1", 1));
    while ports.0.borrow().log.len() < 5 {
        service.step().await.unwrap();
    }
    assert_eq!(
        log(&ports),
        ["decide 1", "confirm x 9:5:i, y 7:5:r", "persist 1", "store [(0, 2)]", "confirm u1 1:5:i"]
    );
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "two rows at 2/s, then one: {:?}", begun.elapsed());
    assert_eq!((service.counts().issued, service.counts().refused), (2, 1));
}

#[tokio::test]
async fn i9_a_database_that_is_away_is_waited_for_and_nothing_is_dead_lettered() {
    let ports = Ports::default();
    ports.0.borrow_mut().away = 3;
    ports.deliver(0, 1, &record("u1", 1));
    ports.deliver(0, 2, &record("u2", 2));
    let (mut service, _stop) = service(&ports, 1);
    service.step().await.unwrap();
    assert_eq!(log(&ports), ["away", "away", "away", "persist 1", "store [(0, 2)]", "confirm u1 1:5:i"]);
    service.step().await.unwrap();
    assert!(!ports.0.borrow().paused, "records flow again");
    assert_eq!(log(&ports), ["persist 1", "store [(0, 3)]", "confirm u2 2:5:i"]);
}

#[tokio::test]
async fn i7_an_offset_waits_for_its_dead_letter() {
    let ports = Ports::default();
    ports.0.borrow_mut().dead_letters_away = 2;
    for offset in [1, 2, 3] {
        ports.deliver(0, offset, "garbage");
    }
    let (mut service, _stop) = service(&ports, 3);
    service.step().await.unwrap();
    // Those that were acknowledged are not sent again.
    assert_eq!(log(&ports), ["publish 1 malformed", "publish 2 malformed", "publish 3 malformed", "store [(0, 4)]"]);
}

#[tokio::test]
async fn i7_a_stop_while_the_database_is_away_stores_nothing() {
    let ports = Ports::default();
    ports.deliver(0, 1, &record("u1", 1));
    let (mut service, stop) = service(&ports, 1);
    ports.0.borrow_mut().away = 1;
    ports.0.borrow_mut().stop_when_away = Some(stop);
    assert_eq!(service.step().await.unwrap(), Step::Stopped);
    assert_eq!(log(&ports), ["away"]);
}

#[tokio::test(start_paused = true)]
async fn i7_a_stop_while_a_write_hangs_ends_in_time_and_stores_nothing() {
    let ports = Ports::default();
    ports.deliver(0, 1, &record("u1", 1));
    let (mut service, stop) = service(&ports, 1);
    ports.0.borrow_mut().stop_when_stuck = Some(stop);
    let begun = tokio::time::Instant::now();
    assert_eq!(service.step().await.unwrap(), Step::Stopped);
    let took = begun.elapsed();
    assert!((14..=20).contains(&took.as_secs()), "{took:?}");
    assert_eq!(log(&ports), ["stuck"]);
}

/// librdkafka reports it once, and it may do so while something else is waited for.
#[tokio::test(start_paused = true)]
async fn a_source_that_fails_for_good_during_an_outage_ends_the_service() {
    let ports = Ports::default();
    ports.deliver(0, 1, &record("u1", 1));
    ports.0.borrow_mut().away = u32::MAX;
    ports.0.borrow_mut().fatal = Some(Fault::none(Source::Kafka, "fatal", false, "fenced"));
    let (mut service, _stop) = service(&ports, 1);
    let error = service.step().await.unwrap_err();
    assert_eq!(error.label, "fatal", "{error}");
}

#[tokio::test]
async fn a_stop_finishes_the_batch_in_hand() {
    let ports = Ports::default();
    ports.deliver(0, 1, &record("u1", 1));
    // A linger that never ends: only the stop ends the batch.
    let (mut service, stop) = service_at(&ports, 100, Duration::from_secs(3600), "unlimited");
    let (step, ()) = tokio::join!(service.step(), async {
        while !ports.0.borrow().records.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.send(true).unwrap();
    });
    assert_eq!(step.unwrap(), Step::Stopped);
    assert_eq!(log(&ports), ["persist 1", "store [(0, 2)]", "confirm u1 1:5:i"]);
}

#[tokio::test]
async fn i7_a_partition_that_was_taken_away_moves_no_offset() {
    let ports = Ports::default();
    ports.deliver(0, 1, &record("u1", 1));
    ports.deliver(1, 7, &record("u2", 2));
    ports.0.borrow_mut().away = 1;
    let (mut service, _stop) = service(&ports, 2);
    let taken_away = async {
        // While the database is waited for, the group moves partition 1 elsewhere.
        while !ports.0.borrow().paused {
            tokio::task::yield_now().await;
        }
        ports.0.borrow_mut().revoked = vec![1];
    };
    let (step, ()) = tokio::join!(service.step(), taken_away);
    step.unwrap();
    assert_eq!(log(&ports)[..3], ["away", "persist 2", "store [(0, 2)]"]);
}

#[tokio::test(start_paused = true)]
async fn many_dead_letters_in_a_row_hold_the_service_and_move_nothing() {
    let ports = Ports::default();
    ports.deliver(0, 0, &record("good", 9));
    for offset in 1..=5 {
        ports.deliver(0, offset, "garbage");
    }
    let (mut service, stop) = service(&ports, 6);
    let look = async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(ports.0.borrow().paused);
        stop.send(true).unwrap();
    };
    let (step, ()) = tokio::join!(service.step(), look);
    assert_eq!(step.unwrap(), Step::Stopped, "it ends only when a stop is requested");
    let log = log(&ports);
    assert!(log.len() > 8 && log.iter().all(|line| line == "persist 1"), "no letter, no offset: {log:?}");
}

#[tokio::test(start_paused = true)]
async fn i9_the_service_continues_by_itself_when_the_campaign_exists() {
    let ports = Ports::default();
    for offset in 0..6 {
        ports.deliver(0, offset, &record("unknown", 1));
    }
    let (mut service, _stop) = service(&ports, 6);
    let created = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(service_is_held(&ports));
        ports.0.borrow_mut().campaign_exists = true;
    };
    let (step, ()) = tokio::join!(service.step(), created);
    assert_eq!(step.unwrap(), Step::Again);
    assert_eq!((service.counts().issued, service.counts().dead_letters), (6, 0));
    assert!(log(&ports).contains(&"store [(0, 6)]".to_owned()));
}

/// A record of a gate with another code secret becomes neither a row nor a refusal nor a dead letter.
#[tokio::test(start_paused = true)]
async fn i12_records_that_need_another_secret_are_held_and_named() {
    let ports = Ports::default();
    ports.0.borrow_mut().is_held = true;
    for offset in 0..3 {
        ports.deliver(0, offset, &record("u", 1));
    }
    let (stop, stopped) = watch::channel(false);
    let all = (ports.clone(), ports.clone(), ports.clone(), ports.clone());
    let linger = Duration::from_millis(1);
    let limits = Limits { batch_records: 3, linger, budget: "unlimited".parse().unwrap(), dead_letter_limit: 4 };
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(Arc::clone(&metrics)));
    let shown = (Arc::clone(&health), Arc::clone(&metrics), Traces::default());
    let mut service = Service::new(all, limits, shown, Jitter::system(), stopped);
    let corrected = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(ports.0.borrow().paused && log(&ports).is_empty(), "nothing is written, sent or moved");
        assert!(health.unready().contains(&"the service holds: the secret is another one".to_owned()));
        assert!(metrics.encode().contains("dropgate_issuer_held_reason{reason=\"other_code_key\"} 1\n"));
        ports.0.borrow_mut().is_held = false;
    };
    let (step, ()) = tokio::join!(service.step(), corrected);
    assert_eq!((step.unwrap(), service.counts().issued), (Step::Again, 3));
    assert!(health.unready().iter().all(|reason| !reason.contains("holds")));
    drop(stop);
}

#[tokio::test(start_paused = true)]
async fn records_that_are_held_and_revoked_are_dropped() {
    let ports = Ports::default();
    for offset in 0..6 {
        ports.deliver(0, offset, &record("unknown", 1));
    }
    let (mut service, _stop) = service(&ports, 6);
    let taken_away = async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(service_is_held(&ports));
        ports.0.borrow_mut().revoked = vec![0];
    };
    let (step, ()) = tokio::join!(service.step(), taken_away);
    assert_eq!(step.unwrap(), Step::Again);
    assert_eq!(service.counts().records, 0);
    assert!(log(&ports).iter().all(|line| line == "persist 6"), "no letter, no offset");
}

fn service_is_held(ports: &Ports) -> bool {
    let world = ports.0.borrow();
    world.paused && world.log.iter().all(|line| line == "persist 6")
}

#[tokio::test]
async fn a_replay_that_fails_again_is_no_reason_to_end() {
    let ports = Ports::default();
    for offset in 0..20 {
        ports.deliver(0, offset, "garbage");
        ports.0.borrow_mut().records.back_mut().unwrap().replayed = true;
    }
    let (mut service, _stop) = service(&ports, 20);
    service.step().await.unwrap();
    assert_eq!(service.counts().dead_letters, 20);
}

#[tokio::test]
async fn a_good_record_in_between_ends_the_row_of_dead_letters() {
    let ports = Ports::default();
    for n in 0..20 {
        let payload = if n % 4 == 3 { record(&format!("u{n}"), 9) } else { "garbage".to_owned() };
        ports.deliver(0, n, &payload);
    }
    let (mut service, _stop) = service(&ports, 5);
    while service.counts().records < 20 {
        service.step().await.unwrap();
    }
    assert_eq!((service.counts().dead_letters, service.counts().issued), (15, 5));
}

#[tokio::test]
async fn a_budget_holds_records_back_and_the_group_is_still_served() {
    let ports = Ports::default();
    for n in 0..4 {
        ports.deliver(0, n, &record(&format!("u{n}"), 1));
    }
    ports.deliver(1, 0, &record("elsewhere", 1));
    // Five records fill the inbox; the second of them may be written only in an hour.
    let (mut service, stop) = service_at(&ports, 5, Duration::ZERO, "1/h");
    let watch = async {
        while !ports.0.borrow().paused {
            tokio::task::yield_now().await;
        }
        assert!(log(&ports).is_empty(), "nothing is written before its time");
        // Paused and still polled: the group takes a partition away, and what was in hand of it is dropped.
        ports.0.borrow_mut().revoked = vec![0];
        ports.0.borrow_mut().paused = false;
        ports.deliver(1, 1, &record("polled", 1));
        while !ports.0.borrow().records.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(ports.0.borrow().revoked.is_empty(), "the rebalance was served during the wait");
        stop.send(true).unwrap();
    };
    let run = async { while service.step().await.unwrap() == Step::Again {} };
    tokio::join!(run, watch);
    assert!(log(&ports).is_empty(), "a stop writes nothing that the budget forbids");
}

/// As many steps as it takes until all records are settled. Returns how long that took, by the paused clock.
async fn until_settled(service: &mut TestService, records: u64) -> Duration {
    let begun = tokio::time::Instant::now();
    while service.counts().records < records {
        service.step().await.unwrap();
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn copies_are_looked_up_together_and_hold_up_no_new_claim() {
    for (budget, user) in [("auto", "again"), ("auto", "late"), ("100/min", "again")] {
        let ports = Ports::default();
        (ports.0.borrow_mut().write_ms, ports.0.borrow_mut().look_ms) = (7, 5);
        for n in 0..3_000 {
            ports.deliver(i32::from(n % 2 == 0), i64::from(n), &record(&format!("{user}-{n}"), 1));
        }
        let (mut service, _stop) = service_at(&ports, 500, Duration::from_millis(20), budget);
        let took = until_settled(&mut service, 3_000).await;
        assert!(took < Duration::from_secs(3), "{budget}: 3,000 copies took {took:?}");
        let copies = service.counts().already + service.counts().refused;
        assert_eq!((copies, service.counts().issued), (3_000, 0));
        let log = log(&ports);
        assert!(log.iter().filter(|line| line.starts_with("look")).count() >= 6, "{log:?}");
        let stores = log.iter().filter(|line| line.starts_with("store")).cloned().collect::<String>();
        assert!(stores.contains("(0, 3000)") && stores.contains("(1, 2999)"), "{stores}");

        // New claims are not read first for long.
        for n in 3_000..3_003 {
            ports.deliver(0, n, &record(&format!("new-{n}"), u32::try_from(n).unwrap()));
        }
        until_settled(&mut service, 3_003).await;
        let looks = self::log(&ports).iter().filter(|line| line.starts_with("look")).count();
        assert!(looks <= 1, "{looks} looks");
    }
}

#[tokio::test(start_paused = true)]
async fn new_claims_among_copies_keep_their_order_and_their_budget() {
    let ports = Ports::default();
    (ports.0.borrow_mut().write_ms, ports.0.borrow_mut().look_ms) = (7, 5);
    for n in 0..40 {
        let user = if n % 4 == 3 { format!("new-{n}") } else { format!("again-{n}") };
        ports.deliver(0, n, &record(&user, u32::try_from(n + 1).unwrap()));
    }
    ports.deliver(0, 40, "garbage");
    let (mut service, _stop) = service_at(&ports, 500, Duration::from_millis(20), "100/min");
    // The first one waits for the budget, and shows that there are copies.
    let took = until_settled(&mut service, 41).await;
    assert!(took > Duration::from_secs(10 * 6 / 10), "ten rows at 100 a minute: {took:?}");
    let confirmed: Vec<String> = log(&ports).iter().flat_map(|line| line.split(", ").map(str::to_owned)).collect();
    let new: Vec<_> = confirmed.iter().filter_map(|entry| entry.split_once("new-")).map(|(_, entry)| entry).collect();
    let order: Vec<u32> = new.iter().map(|entry| entry.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(order, (0..10).map(|n| 4 * n + 3).collect::<Vec<_>>());
    assert_eq!((service.counts().already, service.counts().dead_letters), (30, 1));
}

#[tokio::test(start_paused = true)]
async fn i7_a_look_that_fails_loses_nothing() {
    let ports = Ports::default();
    for n in 0..20 {
        ports.deliver(0, n, &record(&format!("again-{n}"), 1));
    }
    let (mut service, _stop) = service_at(&ports, 500, Duration::from_millis(20), "auto");
    service.step().await.unwrap();
    ports.0.borrow_mut().away = 1;
    until_settled(&mut service, 20).await;
    let log = log(&ports);
    assert!(log.contains(&"away".to_owned()), "{log:?}");
    assert_eq!(log.iter().rfind(|line| line.starts_with("store")), Some(&"store [(0, 20)]".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_small_campaign_does_not_wait_behind_a_large_one() {
    let ports = Ports::default();
    for offset in 1..=40 {
        ports.deliver(0, offset, &record(&format!("u{offset}"), 1));
    }
    ports.deliver(0, 41, &record("small", 1).replace("\"c\"", "\"d\""));
    let (mut service, _stop) = service_at(&ports, 100, Duration::from_millis(20), "60/min");
    let begun = tokio::time::Instant::now();
    while !log(&ports).iter().any(|line| line.contains("small")) {
        service.step().await.unwrap();
    }
    let (took, records) = (begun.elapsed(), service.counts().records);
    assert!(records < 20 && took < Duration::from_secs(15), "after {records} records, {took:?}");
    while service.counts().records < 41 {
        service.step().await.unwrap();
    }
    let stored: Vec<String> = log(&ports).into_iter().filter(|line| line.starts_with("store")).collect();
    assert_eq!(stored.last().unwrap(), "store [(0, 42)]", "I7: it moves with the records before it");
}

/// I9: consumption does not stop in silence.
#[tokio::test(start_paused = true)]
async fn a_source_that_delivers_nothing_makes_the_service_unready_with_the_cause() {
    let ports = Ports::default();
    let (_stop, stopped) = watch::channel(false);
    let all = (ports.clone(), ports.clone(), ports.clone(), ports.clone());
    let (linger, budget) = (Duration::from_millis(1), "unlimited".parse().unwrap());
    let limits = Limits { batch_records: 9, linger, budget, dead_letter_limit: 4 };
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(Arc::clone(&metrics)));
    let shown = (Arc::clone(&health), metrics, Traces::default());
    let mut service = Service::new(all, limits, shown, Jitter::system(), stopped);
    let mut unready = async |seconds: u64| {
        let run = async {
            loop {
                service.step().await.unwrap();
            }
        };
        let ended: Result<(), _> = tokio::time::timeout(Duration::from_secs(seconds), run).await;
        assert!(ended.is_err());
        health.unready()
    };
    ports.0.borrow_mut().heard = Some(tokio::time::Instant::now());
    assert_eq!(unready(20).await, Vec::<String>::new());
    assert!(unready(25).await[0].contains("Kafka has not answered for 4"), "frozen for 45 s");
    ports.0.borrow_mut().heard = None;
    ports.0.borrow_mut().unread = Some("partition 3 is silent".to_owned());
    assert_eq!(unready(5).await, ["records do not arrive: partition 3 is silent"]);
    ports.0.borrow_mut().unread = None;
    assert_eq!(unready(5).await, Vec::<String>::new());
}
