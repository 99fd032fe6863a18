//! The issuer's own rules above the store, on the model and on the real server.

use crate::operations::{Draw, Rows, at, campaign};
use crate::real::Real;
use crate::sides::CAMPAIGNS;
use crate::{flavor, on_model, on_real, operations, turn};
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::decode::decode;
use dropgate_issuer::consume::ports::{Admission, ClaimOutcome, CouponStore};
use dropgate_issuer::store::approvals::Approval;
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::store::ports::{Session, Store};
use dropgate_issuer::store::rows::Campaign;
use dropgate_issuer::timestamp::{Clock, to_ms};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use dropgate_simulator::mysql::{Schema, Server, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A writer whose clock and jitter count.
fn writer<S: Store>(store: &S) -> CouponWriter<S> {
    let (now, jitter) = (Arc::new(AtomicU64::new(to_ms(at(0)))), Arc::new(AtomicU64::new(0)));
    let clock = Clock::new(move || now.fetch_add(1, Ordering::Relaxed));
    let jitter = Jitter::new(move || jitter.fetch_add(7, Ordering::Relaxed));
    let secrets = CodeSecrets::new(CodeSecret::parse("a secret for tests only").unwrap(), None);
    CouponWriter::new(store.clone(), secrets, 5, clock, jitter)
}

fn admission(draw: &mut Draw) -> Admission {
    let record = AdmissionRecord {
        campaign: campaign(draw.pick(&["c1", "c1", "c1", "c2", "nowhere"])),
        user: UserId::parse(&format!("{}{}", draw.pick(&["u", "Ü", "a-long-user-"]), draw.below(24))).unwrap(),
        slot: Slot::new(1 + draw.below(14) as u32).unwrap(),
        admitted_at: to_ms(at(draw.below(5_000) as u64)),
        trace: None,
        code_key: None,
    };
    decode(record.encode().as_bytes()).unwrap()
}

async fn grant(store: &impl Store, id: &CampaignId, capacity: u32) -> String {
    operations::shown(store.connect().await.unwrap().insert_allotment(id, capacity, at(3)).await)
}

/// Two writers take turns, each with its own memory of the campaigns; now and then an operator raises the capacity.
async fn write<S: Store>(store: S, seed: u64, batches: usize) -> Vec<String> {
    let mut draw = Draw::new(seed);
    let mut log = Vec::new();
    for id in ["c1", "c2"] {
        let open = Campaign { state: CampaignState::Open, capacity: 0, opens_at: at(0), closes_at: None, version: 1 };
        store.connect().await.unwrap().insert_campaign(&campaign(id), &open, at(2)).await.unwrap();
        log.push(grant(&store, &campaign(id), 6).await);
    }
    let writers = [writer(&store), writer(&store)];
    for _ in 0..batches {
        if draw.chance(10) {
            log.push(grant(&store, &campaign(draw.pick(&["c1", "c2"])), draw.pick(&[8, 10, 12])).await);
        }
        let batch: Vec<_> = (0..=draw.below(9)).map(|_| admission(&mut draw)).collect();
        let batch: Vec<_> = batch.iter().collect();
        let writer = draw.pick(&[&writers[0], &writers[1]]);
        let outcomes = writer.persist(&batch).await;
        let shown = |outcome: ClaimOutcome| match outcome {
            ClaimOutcome::Rejected(reason) => format!("rejected {}", reason.label),
            other => format!("{other:?}"),
        };
        log.push(format!("{:?}", outcomes.unwrap().into_iter().map(shown).collect::<Vec<_>>()));
        if draw.chance(30) {
            for (campaign, claims) in writer.waiting().await.unwrap() {
                log.push(format!("{claims:?}"));
                let users = claims.into_iter().map(|claim| claim.user_id).filter(|_| draw.chance(80)).collect();
                writer.approve(campaign, Approval { users, under_way: BTreeMap::new() });
            }
            while writer.can_decide() {
                log.push(format!("decided {:?}", writer.decide(3).await.unwrap()));
            }
        }
    }
    log
}

fn compare(seed: u64, user_chars: usize) -> (Vec<String>, Rows) {
    let flavor = flavor();
    let expected = on_model(async || {
        let schema = Schema { user_chars, ..Schema::default() };
        let server = Server::new(Settings { flavor, schema, ..Settings::default() }, Box::new(|_, _| {}));
        (write(server.store(2), seed, 60).await, operations::rows_of(&server, &CAMPAIGNS))
    });
    on_real(async || {
        let mut real = Real::new().await;
        if user_chars < 128 {
            real.execute("ALTER TABLE coupons MODIFY user_id VARCHAR(12) COLLATE utf8mb4_bin NOT NULL").await;
            real.execute("ALTER TABLE waiting_claims MODIFY user_id VARCHAR(12) COLLATE utf8mb4_bin NOT NULL").await;
        }
        let log = write(real.store.clone(), seed, 60).await;
        assert_eq!(log, expected.0, "seed {seed}");
        assert_eq!(real.rows().await, expected.1, "seed {seed}");
        real.drop_database().await;
    });
    expected
}

#[test]
fn i1_i2_i3_the_issuers_rules_write_the_same_rows() {
    let _turn = turn();
    for seed in 1..=10 {
        let (log, rows) = compare(seed, 128);
        for kind in ["Issued", "Already", "Refused", "Waiting", "decided [Confirmation", "unknown_campaign"] {
            assert!(log.iter().any(|line| line.contains(kind)), "seed {seed}: nothing was {kind}");
        }
        assert!(rows.iter().filter(|row| row.starts_with("coupon")).count() > 12, "{rows:#?}");
    }
}

#[test]
fn one_value_that_the_database_rejects_is_found_by_halving() {
    let _turn = turn();
    let (log, _) = compare(11, 12);
    assert!(log.iter().any(|line| line.contains("rejected data")), "{log:#?}");
}
