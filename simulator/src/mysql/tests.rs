//! What the real server is not asked about in `tests/mysql_contract`: faults, the pool, and that a run repeats itself.

use super::*;
use crate::random::Random;
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::decode::decode;
use dropgate_issuer::consume::ports::{Admission, ClaimOutcome, CouponStore};
use dropgate_issuer::store::approvals::Approval;
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::store::ports::{Session, Store, StoreError};
use dropgate_issuer::store::rows::{Campaign, NewCoupon, NewRefusal, Tally};
use dropgate_issuer::timestamp::{Clock, from_ms};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use time::PrimitiveDateTime;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

type Struck = Rc<RefCell<Vec<(&'static str, &'static str)>>>;

/// Runs `test` on a server with campaign `c` of 3 coupons.
fn with_server(settings: Settings, test: impl AsyncFnOnce(Server, Struck)) {
    in_virtual_time(async || {
        let (server, struck) = server(settings).await;
        test(server, struck).await;
    });
}

fn in_virtual_time<T>(test: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test())
}

async fn server(settings: Settings) -> (Server, Struck) {
    let struck = Struck::default();
    let sink = struck.clone();
    let server = Server::new(settings, Box::new(move |kind, place| sink.borrow_mut().push((kind, place))));
    let mut session = server.store(1).connect().await.unwrap();
    let campaign = Campaign { state: CampaignState::Open, capacity: 3, opens_at: at(0), closes_at: None, version: 1 };
    session.insert_campaign(&c(), &campaign, at(0)).await.unwrap();
    session.insert_allotment(&c(), 3, at(0)).await.unwrap();
    drop(session);
    sleep(Duration::from_millis(1)).await;
    (server, struck)
}

fn at(ms: u64) -> PrimitiveDateTime {
    from_ms(1_763_700_000_000 + ms).unwrap()
}

fn c() -> CampaignId {
    CampaignId::parse("c").unwrap()
}

async fn insert(session: &mut impl Session, slot: u32, user: &str) -> Result<(), StoreError> {
    insert_under(session, slot, 3, user).await
}

async fn insert_under(session: &mut impl Session, slot: u32, allotment: u32, user: &str) -> Result<(), StoreError> {
    let (campaign, user) = (c(), UserId::parse(user).unwrap());
    let (admitted_at, issued_at) = (at(1), at(2));
    let coupon = NewCoupon { campaign: &campaign, slot, allotment, user: &user, code: "CODE", admitted_at, issued_at };
    session.insert_coupons(&[coupon], false).await
}

fn label<T: Debug>(result: Result<T, StoreError>) -> &'static str {
    match result.unwrap_err() {
        StoreError::Away(fault) => fault.label,
        StoreError::Contention => "contention",
        other => panic!("{other:?}"),
    }
}

fn users(server: &Server) -> Vec<(u32, String)> {
    server.coupons(&c()).into_iter().map(|coupon| (coupon.slot, coupon.user)).collect()
}

fn rows(pairs: &[(u32, &str)]) -> Vec<(u32, String)> {
    pairs.iter().map(|(slot, user)| (*slot, (*user).to_owned())).collect()
}

#[test]
fn a_server_that_is_down_ends_connections_and_refuses_new_ones() {
    with_server(Settings::default(), async |server, struck| {
        let store = server.store(2);
        let mut session = store.session().await.unwrap();
        session.begin().await.unwrap();
        insert(&mut session, 1, "a").await.unwrap();
        server.set_away(Some(Away::Refusing));
        assert_eq!(server.connections(), 0);
        assert_eq!(label(insert(&mut session, 2, "b").await), "unreachable");
        drop(session);
        // The pool tries for 5 s, an operator's verb fails at once.
        let before = Instant::now();
        assert_eq!(label(store.session().await), "unreachable");
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        let before = Instant::now();
        assert_eq!(label(store.connect().await), "unreachable");
        assert!(before.elapsed() < Duration::from_millis(10));
        // A server that comes back in time is not noticed.
        let returns = spawn_local({
            let server = server.clone();
            async move {
                sleep(Duration::from_secs(3)).await;
                server.set_away(None);
            }
        });
        assert!(store.session().await.is_ok());
        returns.await.unwrap();
        assert_eq!(users(&server), rows(&[]), "the open transaction was rolled back");
        assert!(struck.borrow().contains(&("refusing", "connect")));
    });
}

#[test]
fn i8_what_hangs_in_the_network_may_have_been_carried_out() {
    with_server(Settings::default(), async |server, _| {
        let store = server.store(2);
        let mut session = store.session().await.unwrap();
        server.set_away(Some(Away::Hanging));
        assert!(timeout(Duration::from_secs(30), insert(&mut session, 1, "a")).await.is_err());
        session.discard();
        let before = Instant::now();
        assert_eq!(label(store.session().await), "unreachable");
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert_eq!(users(&server), rows(&[]));
        server.set_away(None);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(users(&server), rows(&[(1, "a")]));
        assert_eq!(server.connections(), 0, "the server has noticed that the client is gone");
    });
}

#[test]
fn an_injected_deadlock_rolls_the_whole_transaction_back() {
    with_server(Settings::default(), async |server, struck| {
        let mut session = server.store(1).connect().await.unwrap();
        session.begin().await.unwrap();
        insert(&mut session, 1, "a").await.unwrap();
        server.plan(Strike::Deadlock, At::Writes, 1);
        assert_eq!(session.tally(&c()).await.unwrap().issued, 1, "no deadlock strikes a read");
        assert_eq!(label(insert(&mut session, 2, "b").await), "contention");
        session.rollback().await.unwrap();
        assert_eq!((users(&server), server.open_transactions()), (rows(&[]), 0));
        // At the commit, as a cluster does that certifies there.
        session.begin().await.unwrap();
        insert(&mut session, 3, "c").await.unwrap();
        server.plan(Strike::Deadlock, At::Commits, 1);
        assert_eq!(label(session.commit().await), "contention");
        session.rollback().await.unwrap();
        assert_eq!(users(&server), rows(&[]));
        assert_eq!(*struck.borrow(), [("injected_deadlock", "insert_coupons"), ("injected_deadlock", "commit")]);
    });
}

#[test]
fn i8_a_cut_at_the_commit_comes_before_it_or_after_it() {
    for (strike, kind, written) in [(Strike::CutBefore, "commit_lost", 0), (Strike::CutAfter, "commit_answer_lost", 1)]
    {
        with_server(Settings::default(), async |server, struck| {
            let store = server.store(1);
            let mut session = store.connect().await.unwrap();
            session.begin().await.unwrap();
            insert(&mut session, 1, "a").await.unwrap();
            server.plan(strike, At::Commits, 2);
            assert_eq!(label(session.commit().await), "unreachable");
            assert_eq!(label(session.rollback().await), "unreachable", "the connection is gone");
            assert_eq!((users(&server).len(), server.connections(), server.open_transactions()), (written, 0, 0));
            // A statement outside a transaction commits too.
            assert_eq!(label(insert(&mut store.connect().await.unwrap(), 2, "b").await), "unreachable");
            assert_eq!(users(&server).len(), 2 * written);
            assert_eq!(*struck.borrow(), [(kind, "commit"), (kind, "insert_coupons")]);
        });
    }
}

#[test]
fn a_cut_within_a_transaction_rolls_it_back() {
    for strike in [Strike::CutBefore, Strike::CutAfter] {
        with_server(Settings::default(), async |server, _| {
            let mut session = server.store(1).connect().await.unwrap();
            session.begin().await.unwrap();
            server.set_dice(Some(Box::new(move |place| (place.statement == "insert_coupons").then_some(strike))));
            assert_eq!(label(insert(&mut session, 1, "a").await), "unreachable");
            assert_eq!((users(&server), server.open_transactions()), (rows(&[]), 0));
        });
    }
}

#[test]
fn a_failover_takes_back_the_last_commits() {
    with_server(Settings::default(), async |server, struck| {
        let store = server.store(2);
        let mut session = store.connect().await.unwrap();
        insert(&mut session, 1, "a").await.unwrap();
        session.insert_allotment(&c(), 5, at(3)).await.unwrap();
        session.begin().await.unwrap();
        insert_under(&mut session, 4, 5, "b").await.unwrap();
        insert_under(&mut session, 5, 5, "d").await.unwrap();
        session.set_state(&c(), &[CampaignState::Open], CampaignState::Paused).await.unwrap();
        session.set_state(&c(), &[CampaignState::Paused], CampaignState::Closed).await.unwrap();
        session.commit().await.unwrap();
        let mut open = store.connect().await.unwrap();
        open.begin().await.unwrap();
        insert(&mut open, 2, "e").await.unwrap();

        let lost = server.lose_commits(1);
        let coupon = |user: &str, slot| LostRow::Coupon { campaign: "c".to_owned(), user: user.to_owned(), slot };
        assert_eq!(lost, [coupon("d", 5), coupon("b", 4)]);
        assert_eq!((users(&server), server.campaigns()[0].state), (rows(&[(1, "a")]), CampaignState::Open));
        assert_eq!(label(open.commit().await), "unreachable");
        assert!(matches!(
            &server.lose_commits(2)[..],
            [LostRow::Allotment { capacity: 5, .. }, LostRow::Coupon { .. }]
        ));
        let mut session = store.connect().await.unwrap();
        assert_eq!(insert_under(&mut session, 4, 5, "b").await, Err(StoreError::Constraint), "no such allotment");
        insert(&mut session, 1, "b").await.unwrap();
        assert!(struck.borrow().contains(&("commits_lost", "")));
    });
}

#[test]
fn a_lock_on_a_campaign_is_waited_for_as_long_as_it_lasts_or_5_s() {
    with_server(Settings { statement_ms: 0, ..Settings::default() }, async |server, struck| {
        let mut session = server.store(1).connect().await.unwrap();
        let hold = |seconds| {
            let server = server.clone();
            spawn_local(async move { server.hold_campaign(&c(), Duration::from_secs(seconds)).await })
        };
        let first = hold(3);
        sleep(Duration::from_millis(1)).await;
        let before = Instant::now();
        assert!(session.lock_campaign(&c()).await.unwrap());
        assert_eq!(before.elapsed(), Duration::from_millis(2_999));
        first.await.unwrap();
        let second = hold(60);
        sleep(Duration::from_millis(1)).await;
        let before = Instant::now();
        assert_eq!(label(session.lock_campaign(&c()).await), "contention");
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        // Coupons do not touch the campaign's row.
        insert(&mut session, 1, "a").await.unwrap();
        second.abort();
        let _ = second.await;
        assert!(session.lock_campaign(&c()).await.unwrap());
        assert!(struck.borrow().contains(&("lock_wait_timeout", "lock_campaign")));
    });
}

#[test]
fn statements_that_wait_for_a_locked_table_use_up_the_connections() {
    let without_limit = Settings { max_connections: 3, table_lock_ms: 3_600_000, ..Settings::default() };
    with_server(without_limit, async |server, struck| {
        let lock = {
            let server = server.clone();
            let lock = TableLock::Writing(Table::Coupons);
            spawn_local(async move { server.hold_table(lock, Duration::from_secs(600)).await })
        };
        sleep(Duration::from_millis(1)).await;
        let store = server.store(2);
        for user in ["a", "b", "d"] {
            let mut session = store.session().await.unwrap();
            assert!(timeout(Duration::from_secs(30), insert(&mut session, 1, user)).await.is_err());
            session.discard();
        }
        assert_eq!(server.connections(), 3, "the server has not noticed that the clients are gone");
        assert_eq!(label(store.session().await), "too_many_connections");
        lock.abort();
        let _ = lock.await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!((users(&server), server.connections()), (rows(&[(1, "a")]), 0), "all three were carried out");
        assert!(struck.borrow().contains(&("table_lock_wait", "insert_coupons")));
    });
}

#[test]
fn a_wait_for_a_table_ends_by_itself() {
    with_server(Settings { statement_ms: 0, ..Settings::default() }, async |server, struck| {
        let lock = {
            let server = server.clone();
            let lock = TableLock::Writing(Table::Coupons);
            spawn_local(async move { server.hold_table(lock, Duration::from_secs(600)).await })
        };
        sleep(Duration::from_millis(1)).await;
        let mut session = server.store(1).session().await.unwrap();
        let before = Instant::now();
        assert_eq!(insert(&mut session, 1, "a").await, Err(StoreError::Contention));
        assert_eq!(before.elapsed(), Duration::from_secs(10));
        assert!(struck.borrow().contains(&("table_lock_timeout", "insert_coupons")));
        lock.abort();
    });
}

#[test]
fn a_dropped_transaction_is_rolled_back_when_the_server_notices() {
    with_server(Settings { statement_ms: 0, notice_ms: 2_000, ..Settings::default() }, async |server, _| {
        let store = server.store(1);
        let mut gone = store.session().await.unwrap();
        gone.begin().await.unwrap();
        insert(&mut gone, 1, "a").await.unwrap();
        drop(gone);
        let mut session = store.session().await.unwrap();
        let before = Instant::now();
        insert(&mut session, 1, "b").await.unwrap();
        assert_eq!((before.elapsed(), users(&server)), (Duration::from_secs(2), rows(&[(1, "b")])));
    });
}

#[test]
fn the_pool_keeps_its_bounds_and_hands_out_what_died_while_idle() {
    with_server(Settings::default(), async |server, _| {
        let store = server.store(2);
        let (one, two) = (store.session().await.unwrap(), store.session().await.unwrap());
        let before = Instant::now();
        assert_eq!(label(store.session().await), "unreachable");
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        drop((one, two));
        assert_eq!(server.connections(), 2, "kept");
        server.kill_sessions();
        let mut session = store.session().await.unwrap();
        assert_eq!(label(insert(&mut session, 1, "a").await), "unreachable", "costs a retry");
        session.discard();
        drop(store);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(server.connections(), 0, "what is left of the pool ends with it");
    });
}

#[test]
fn a_slow_server_takes_longer_and_a_statement_its_time() {
    with_server(Settings { statement_ms: 5, ..Settings::default() }, async |server, struck| {
        let mut session = server.store(1).connect().await.unwrap();
        let before = Instant::now();
        insert(&mut session, 1, "a").await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_millis(5));
        server.set_slow_ms(700);
        let before = Instant::now();
        insert(&mut session, 2, "b").await.unwrap();
        assert_eq!(before.elapsed(), Duration::from_millis(705));
        assert_eq!(*struck.borrow(), [("slow", "insert_coupons")]);
        assert_eq!(server.statements()["insert_coupons"], 2);
    });
}

#[test]
fn each_constraint_can_be_switched_off() {
    let all = Schema::default();
    let attempts = [(1, 3, "b"), (2, 3, "a"), (4, 3, "d"), (2, 9, "e")];
    let schemas = [
        (all, [false; 4]),
        (Schema { is_slot_unique: false, ..all }, [true, false, false, false]),
        (Schema { is_user_unique: false, ..all }, [false, true, false, false]),
        (Schema { is_slot_checked: false, ..all }, [false, false, true, false]),
        (Schema { is_allotment_foreign_key: false, ..all }, [false, false, false, true]),
    ];
    for (schema, expected) in schemas {
        with_server(Settings { schema, ..Settings::default() }, async |server, _| {
            let mut session = server.store(1).connect().await.unwrap();
            insert(&mut session, 1, "a").await.unwrap();
            let mut written = Vec::new();
            for (slot, allotment, user) in attempts {
                session.begin().await.unwrap();
                written.push(insert_under(&mut session, slot, allotment, user).await.is_ok());
                session.rollback().await.unwrap();
            }
            assert_eq!((written, users(&server)), (expected.to_vec(), rows(&[(1, "a")])), "{schema:?}");
            // What is written twice is counted twice.
            if !schema.is_user_unique {
                insert(&mut session, 2, "a").await.unwrap();
                let counts = session.counts(&c()).await.unwrap();
                assert_eq!((counts.coupons, counts.users), (2, 1));
                assert_eq!(session.coupon_slots_of(&c(), &["a"]).await.unwrap().len(), 2);
            }
        });
    }
}

#[test]
fn refusals_and_coupons_count_apart() {
    with_server(Settings::default(), async |server, _| {
        let mut session = server.store(1).connect().await.unwrap();
        let (campaign, user) = (c(), UserId::parse("a").unwrap());
        let (admitted_at, refused_at) = (at(1), at(2));
        let refusal =
            NewRefusal { campaign: &campaign, user: &user, proposed_slot: 9, reason: "full", admitted_at, refused_at };
        session.insert_refusals(&[refusal]).await.unwrap();
        insert(&mut session, 1, "a").await.unwrap();
        assert_eq!(session.tally(&c()).await.unwrap(), Tally { issued: 1, refused: 1 });
        assert_eq!(session.counts(&c()).await.unwrap().both, 1);
        assert_eq!(server.refusals(&c())[0].proposed_slot, 9);
    });
}

/// Three issuers that read the same records in their own order, while the server meets every fault. Returns
/// the kinds of faults that struck, and everything that happened.
fn storm(seed: u64) -> (BTreeSet<&'static str>, Vec<String>) {
    in_virtual_time(async || {
        let started = Instant::now();
        let random = Random::new(seed);
        let mut draw = random.split("records");
        let settings = Settings { statement_ms: draw.below(4), ..Settings::default() };
        let (server, struck) = server(settings).await;
        server.store(1).connect().await.unwrap().insert_allotment(&c(), 12, at(0)).await.unwrap();
        let record = |_| admission(&format!("u{}", draw.below(20)), 1 + draw.below(14) as u32);
        let records: Vec<Admission> = (0..60).map(record).collect();

        let mut dice = random.split("dice");
        let strikes = [Strike::Deadlock, Strike::CutBefore, Strike::CutAfter];
        let roll = move |_: &Place| if dice.chance(0.05) { dice.pick(&strikes).copied() } else { None };
        server.set_dice(Some(Box::new(roll)));
        let faults = spawn_local({
            let (server, mut draw) = (server.clone(), random.split("faults"));
            async move {
                for _ in 0..6 {
                    sleep(Duration::from_millis(draw.below(300))).await;
                    match draw.below(6) {
                        0 => server.kill_sessions(),
                        1 => server.set_read_only(true),
                        2 => server.set_away(draw.pick(&[Away::Refusing, Away::Hanging]).copied()),
                        3 => server.set_slow_ms(draw.below(2_000)),
                        4 => server.hold_campaign(&c(), Duration::from_millis(draw.below(7_000))).await,
                        _ => {
                            let lock = draw.pick(&[TableLock::Everything, TableLock::Writing(Table::Coupons)]);
                            server.hold_table(*lock.unwrap(), Duration::from_millis(draw.below(40_000))).await;
                        }
                    }
                    sleep(Duration::from_millis(draw.below(3_000))).await;
                    server.set_away(None);
                    server.set_read_only(false);
                    server.set_slow_ms(0);
                }
                server.clear_plans();
            }
        });
        let issuers: Vec<_> = (0..3)
            .map(|index| {
                let (server, mut records) = (server.clone(), records.clone());
                let mut draw = random.split(&format!("issuer {index}"));
                spawn_local(async move {
                    draw.shuffle(&mut records);
                    let now = Arc::new(AtomicU64::new(1_763_700_000_000));
                    let jitter = Arc::new(AtomicU64::new(index));
                    let clock = Clock::new(move || now.fetch_add(1, Ordering::Relaxed));
                    let jitter = Jitter::new(move || jitter.fetch_add(7, Ordering::Relaxed));
                    let secret = CodeSecrets::new(CodeSecret::parse("a secret for tests only").unwrap(), None);
                    let writer = CouponWriter::new(server.store(2), secret, 5, clock, jitter);
                    let mut outcomes = Vec::new();
                    for batch in records.chunks(5) {
                        let batch: Vec<_> = batch.iter().collect();
                        let of = loop {
                            match writer.persist(&batch).await {
                                Ok(of) => break of,
                                Err(_) => sleep(Duration::from_millis(50 + draw.below(500))).await,
                            }
                        };
                        let user = |admission: &&Admission| admission.record.user.as_str().to_owned();
                        outcomes.extend(batch.iter().map(user).zip(of));
                    }
                    outcomes
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for issuer in issuers {
            outcomes.extend(issuer.await.unwrap());
        }
        faults.await.unwrap();
        let secret = CodeSecrets::new(CodeSecret::parse("a secret for tests only").unwrap(), None);
        let clock = Clock::new(|| 1_763_700_000_000);
        let writer = CouponWriter::new(server.store(2), secret, 5, clock, Jitter::new(|| 0));
        while let Some((campaign, claims)) = writer.waiting().await.unwrap().pop_first() {
            let users = claims.into_iter().map(|claim| claim.user_id).collect();
            writer.approve(campaign, Approval { users, under_way: BTreeMap::new() });
            assert!(!writer.decide(5).await.unwrap().is_empty(), "seed {seed}: nothing is under way");
        }

        // I1, I2, I3, I6, I10: the capacity is issued, no user has two coupons, every outcome agrees with the rows.
        let issued = users(&server);
        let holders: BTreeMap<&str, u32> = issued.iter().map(|(slot, user)| (user.as_str(), *slot)).collect();
        let slots: BTreeSet<u32> = issued.iter().map(|(slot, _)| *slot).collect();
        assert_eq!((issued.len(), holders.len(), slots.len()), (12, 12, 12), "seed {seed}");
        let refused: BTreeSet<String> = server.refusals(&c()).into_iter().map(|row| row.user).collect();
        for (user, outcome) in &outcomes {
            match outcome {
                ClaimOutcome::Issued { slot } | ClaimOutcome::Already { slot } => {
                    assert_eq!(holders.get(user.as_str()), Some(&slot.get()), "seed {seed}: {user}");
                }
                ClaimOutcome::Refused { .. } => assert!(refused.contains(user), "seed {seed}: {user}"),
                ClaimOutcome::Waiting => {
                    let is_decided = holders.contains_key(user.as_str()) != refused.contains(user);
                    assert!(is_decided, "seed {seed}: {user}");
                }
                ClaimOutcome::Rejected(reason) => panic!("seed {seed}: {reason:?}"),
            }
        }
        let mut log: Vec<String> = struck.borrow().iter().map(|strike| format!("{strike:?}")).collect();
        log.extend(outcomes.iter().map(|outcome| format!("{outcome:?}")));
        log.extend(server.coupons(&c()).iter().map(|row| format!("{row:?}")));
        log.push(format!("{:?} in {:?}", server.statements(), started.elapsed()));
        (struck.borrow().iter().map(|(kind, _)| *kind).collect(), log)
    })
}

fn admission(user: &str, slot: u32) -> Admission {
    let record = AdmissionRecord {
        campaign: c(),
        user: UserId::parse(user).unwrap(),
        slot: Slot::new(slot).unwrap(),
        admitted_at: 1_763_700_000_123,
        trace: None,
        code_key: None,
    };
    decode(record.encode().as_bytes()).unwrap()
}

#[test]
fn i1_i2_i3_i6_i10_the_issuers_rules_hold_in_a_storm_of_faults() {
    let mut kinds = BTreeSet::new();
    for seed in 1..=60 {
        kinds.extend(storm(seed).0);
    }
    for kind in [
        "injected_deadlock",
        "deadlock",
        "cut_before",
        "cut_after",
        "commit_lost",
        "commit_answer_lost",
        "session_killed",
        "read_only",
        "refusing",
        "hanging",
        "slow",
        "lock_wait",
        "lock_wait_timeout",
        "campaign_locked",
        "table_locked",
        "table_lock_wait",
    ] {
        assert!(kinds.contains(kind), "{kind} never struck: {kinds:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1..=5 {
        assert_eq!(storm(seed), storm(seed));
    }
}
