//! The persist transaction against a real MySQL (or MariaDB), invariant by invariant.
// Clippy's own allowance covers `#[test]` functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "store/deadlines.rs"]
mod deadlines;
#[path = "store/grants.rs"]
mod grants;
#[path = "store/migrations.rs"]
mod migrations;
#[path = "store/others.rs"]
mod others;
#[path = "store/samples.rs"]
mod samples;
#[path = "store/scratch.rs"]
mod scratch;

use dropgate_issuer::consume::ports::{ClaimOutcome, CouponStore};
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::store::mysql::settings::DatabaseSettings;
use dropgate_issuer::store::ports::{Session, Store};
use dropgate_issuer::timestamp::{self, Clock};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::code::CodeSecret;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use scratch::{SECRET, admission, already, batch, decide, issued, persist, refused, rejected, rows, scratch};
use sqlx::{AssertSqlSafe, Executor};
use std::collections::HashSet;
use time::PrimitiveDateTime;

#[tokio::test]
async fn a_batch_becomes_rows_with_every_field() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        let outcomes = persist(&db.store(), &batch(&[("u2", 2), ("u1", 1)])).await;
        assert_eq!(outcomes, [issued(2), issued(1)], "in the order of the batch");
        assert_eq!(db.coupons("c").await, rows(&[(1, "u1"), (2, "u2")]));

        let (allotment, code, admitted_at, issued_at): (u32, String, PrimitiveDateTime, PrimitiveDateTime) =
            sqlx::query_as("SELECT allotment, code, admitted_at, issued_at FROM coupons WHERE slot = 1")
                .fetch_one(&db.pool)
                .await
                .unwrap();
        let secret = CodeSecret::parse(SECRET).unwrap();
        assert_eq!(allotment, 100);
        assert_eq!(code, secret.code(&CampaignId::parse("c").unwrap(), &UserId::parse("u1").unwrap()));
        assert_eq!(timestamp::to_ms(admitted_at), 1_763_700_000_123);
        assert!(
            timestamp::to_ms(Clock::system().now()).abs_diff(timestamp::to_ms(issued_at)) < 60_000,
            "{issued_at} is now, in UTC"
        );
    })
    .await;
}

#[tokio::test]
async fn i6_redelivery_changes_nothing() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        let store = db.store();
        persist(&store, &batch(&[("u1", 1), ("u2", 2)])).await;
        // The second and the third are new; the outcome of the others is what their rows say.
        let outcomes = persist(&store, &batch(&[("u1", 1), ("u3", 3), ("u4", 4), ("u2", 2)])).await;
        assert_eq!(outcomes, [already(1), issued(3), issued(4), already(2)]);
        assert_eq!(persist(&db.store(), &batch(&[("u1", 77)])).await, [already(1)], "the row's slot, not the record's");
        assert_eq!(db.coupons("c").await, rows(&[(1, "u1"), (2, "u2"), (3, "u3"), (4, "u4")]));
    })
    .await;
}

#[tokio::test]
async fn i6_a_look_finds_what_a_batch_would_find_and_writes_nothing() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        db.campaign("d", 2).await;
        let store = db.store();
        persist(&store, &batch(&[("u1", 1), ("u2", 2), ("late", 1)])).await;
        let mut records = batch(&[("new", 2), ("u2", 7), ("late", 1), ("u1", 1), ("u1", 1)]);
        records.extend([admission("d", "u1", 1), admission("nowhere", "u1", 1)]);
        let found = store.look_up(&records.iter().collect::<Vec<_>>()).await.unwrap();
        let expected = [None, Some(already(2)), Some(refused(1)), Some(already(1)), Some(already(1)), None, None];
        assert_eq!(found, expected);
        assert_eq!((db.coupons("c").await.len(), db.coupons("d").await.len()), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn i2_a_user_twice_in_a_batch_gets_one_coupon() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        let outcomes = persist(&db.store(), &batch(&[("u1", 1), ("u1", 1), ("u2", 2), ("u1", 9)])).await;
        assert_eq!(outcomes, [issued(1), already(1), issued(2), already(1)]);
        assert_eq!(db.coupons("c").await, rows(&[(1, "u1"), (2, "u2")]));
    })
    .await;
}

#[tokio::test]
async fn i3_who_has_no_slot_waits_and_then_gets_the_highest_free_one() {
    scratch(async |db| {
        db.campaign("c", 6).await;
        let store = db.store();
        persist(&store, &batch(&[("a", 1), ("b", 5)])).await;
        // Redis lost its data and hands out 1 and 2 again, the latter to two users.
        let late = batch(&[("x", 1), ("y", 2), ("z", 2)]);
        let waiting = ClaimOutcome::Waiting;
        assert_eq!(persist(&store, &late).await, [waiting.clone(), issued(2), waiting.clone()]);
        assert_eq!(persist(&db.store(), &late).await, [waiting.clone(), already(2), waiting], "again (I6)");
        assert_eq!(decide(&store, &["x", "z"], &[]).await, ["x 6:1763700000123:i", "z 4:1763700000123:i"]);
        assert_eq!(decide(&store, &["x", "z"], &[]).await, [] as [&str; 0], "decided once");
        assert_eq!(db.coupons("c").await, rows(&[(1, "a"), (2, "y"), (4, "z"), (5, "b"), (6, "x")]));
    })
    .await;
}

#[tokio::test]
async fn i3_i10_no_slot_left_is_a_refusal_and_stays_one() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        let store = db.store();
        persist(&store, &batch(&[("a", 1)])).await;
        let late = batch(&[("x", 1), ("y", 1), ("z", 1)]);
        assert_eq!(persist(&store, &late).await, [const { ClaimOutcome::Waiting }; 3]);
        assert_eq!(decide(&store, &["x", "y", "z"], &[]).await, ["x 2:1763700000123:i"]);
        assert_eq!(decide(&store, &[], &[]).await, ["y 1:1763700000123:r", "z 1:1763700000123:r"], "all is taken");
        assert_eq!(persist(&store, &late).await, [already(2), refused(1), refused(1)]);

        // More room later does not undo a refusal: the user has seen it.
        db.raise("c", 3).await;
        assert_eq!(persist(&store, &late[1..]).await, [refused(1), refused(1)]);
        let reason = "capacity_exhausted".to_owned();
        assert_eq!(db.refusals("c").await, [("y".to_owned(), 1, reason.clone()), ("z".to_owned(), 1, reason)]);
        assert_eq!(db.coupons("c").await, rows(&[(1, "a"), (2, "x")]));
    })
    .await;
}

#[tokio::test]
async fn i1_a_slot_above_the_capacity_is_brought_below_it() {
    scratch(async |db| {
        db.campaign("c", 3).await;
        let store = db.store();
        let outcomes = persist(&store, &batch(&[("a", 4), ("b", 3), ("c", 4_294_967_295), ("d", 9), ("e", 1)])).await;
        let waiting = ClaimOutcome::Waiting;
        assert_eq!(outcomes, [waiting.clone(), issued(3), waiting.clone(), waiting, issued(1)]);
        assert_eq!(decide(&store, &["a", "c", "d"], &[]).await, ["a 2:1763700000123:i"]);
        // Two of the five find no slot, and it is those who had none of their own.
        assert_eq!(decide(&store, &[], &[]).await, ["c 4294967295:1763700000123:r", "d 9:1763700000123:r"]);
        assert_eq!(db.coupons("c").await, rows(&[(1, "e"), (2, "a"), (3, "b")]));
    })
    .await;
}

#[tokio::test]
async fn a_raised_capacity_is_seen_at_once() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        let store = db.store();
        persist(&store, &batch(&[("a", 1), ("b", 2)])).await;
        assert_eq!(persist(&store, &batch(&[("x", 1)])).await, [refused(1)]);
        db.raise("c", 4).await;
        assert_eq!(persist(&store, &batch(&[("c", 3)])).await, [issued(3)], "a slot beyond what was known");
        assert_eq!(persist(&store, &batch(&[("d", 1)])).await, [ClaimOutcome::Waiting], "a conflict");
        assert_eq!(decide(&store, &["d"], &[]).await, ["d 4:1763700000123:i"], "under the new allotment");
        let allotments: Vec<u32> =
            sqlx::query_scalar("SELECT allotment FROM coupons ORDER BY slot").fetch_all(&db.pool).await.unwrap();
        assert_eq!(allotments, [2, 2, 4, 4]);
    })
    .await;
}

#[tokio::test]
async fn every_change_of_a_campaign_gets_the_next_version() {
    scratch(async |db| {
        db.campaign("c", 2).await;
        let id = CampaignId::parse("c").unwrap();
        let mut session = db.database().connect().await.unwrap();
        assert_eq!(session.campaign(&id).await.unwrap().unwrap().version, 1);
        let (open, paused) = (CampaignState::Open, CampaignState::Paused);
        assert!(session.set_state(&id, &[open], paused).await.unwrap());
        assert!(!session.set_state(&id, &[open], paused).await.unwrap(), "not open");
        let now = session.campaign(&id).await.unwrap().unwrap();
        assert_eq!((now.state, now.version), (paused, 2));
        for (known, version) in [(0, 3), (7, 8), (5, 9)] {
            session.next_version(&id, known).await.unwrap();
            assert_eq!(session.campaign(&id).await.unwrap().unwrap().version, version);
        }
        session.begin().await.unwrap();
        session.next_version(&id, 0).await.unwrap();
        session.rollback().await.unwrap();
        assert_eq!(session.campaigns().await.unwrap()[0].campaign.version, 9);
        let at = |ms| timestamp::from_ms(ms).unwrap();
        session.set_window(&id, at(5_000), Some(at(6_001))).await.unwrap();
        let now = session.campaign(&id).await.unwrap().unwrap();
        assert_eq!((now.opens_at, now.closes_at, now.version), (at(5_000), Some(at(6_001)), 10));
        assert!(session.set_window(&id, at(5_000), Some(at(5_000))).await.is_err(), "the schema rejects it");
    })
    .await;
}

#[tokio::test]
async fn i1_coupon_101_is_refused_by_the_schema_whoever_writes() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        let hundred: Vec<_> = (1..=100).map(|n| admission("c", &format!("u{n}"), n)).collect();
        assert!(
            persist(&db.store(), &hundred).await.iter().all(|outcome| matches!(outcome, ClaimOutcome::Issued { .. }))
        );
        for (slot, allotment, numbers) in [(101, 100, [3819, 4025]), (101, 101, [1452, 1452]), (100, 100, [1062, 1062])]
        {
            let error = sqlx::query("INSERT INTO coupons VALUES ('c', ?, ?, 'mallory', 'CODE', NOW(3), NOW(3))")
                .bind(slot)
                .bind(allotment)
                .execute(&db.pool)
                .await
                .unwrap_err();
            let number = error.as_database_error().unwrap().downcast_ref::<sqlx::mysql::MySqlDatabaseError>().number();
            assert!(numbers.contains(&number), "{error}");
        }
        assert_eq!(db.coupons("c").await.len(), 100);
    })
    .await;
}

#[tokio::test]
async fn i2_i6_i10_two_issuers_with_the_same_thousand_records_write_each_once() {
    scratch(async |db| {
        db.campaign("c", 900).await;
        let records: Vec<_> = (1..=1_000).map(|n| admission("c", &format!("u{n}"), n)).collect();
        let backwards: Vec<_> = records.iter().rev().cloned().collect();
        let (one, other) = (db.store(), db.store());
        let (first, second) = tokio::join!(
            async {
                let mut outcomes = Vec::new();
                for some in records.chunks(100) {
                    outcomes.extend(persist(&one, some).await);
                }
                outcomes
            },
            async {
                let mut outcomes = Vec::new();
                for some in backwards.chunks(70) {
                    outcomes.extend(persist(&other, some).await);
                }
                outcomes
            }
        );
        let count = |wanted: fn(&ClaimOutcome) -> bool| first.iter().chain(&second).filter(|o| wanted(o)).count();
        assert_eq!(count(|outcome| matches!(outcome, ClaimOutcome::Issued { .. })), 900);
        assert_eq!(count(|outcome| matches!(outcome, ClaimOutcome::Already { .. })), 900);
        assert_eq!(
            count(|outcome| matches!(outcome, ClaimOutcome::Refused { .. } | ClaimOutcome::Waiting)),
            200,
            "a hundred users, each twice"
        );
        decide(&one, &[], &[]).await;
        let coupons = db.coupons("c").await;
        assert_eq!(coupons.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), (1..=900).collect::<Vec<_>>());
        assert_eq!(coupons.iter().map(|(_, user)| user).collect::<HashSet<_>>().len(), 900);
        assert_eq!(db.refusals("c").await.len(), 100);
        // Both report the slot of the user's row.
        for (outcome, record) in first.iter().zip(&records).chain(second.iter().zip(&backwards)) {
            if let ClaimOutcome::Issued { slot } | ClaimOutcome::Already { slot } = outcome {
                assert_eq!(coupons[slot.get() as usize - 1].1, record.record.user.as_str());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn i10_after_redis_lost_everything_exactly_the_capacity_is_issued() {
    scratch(async |db| {
        db.campaign("c", 300).await;
        let store = db.store();
        let before: Vec<_> = (1..=120).map(|n| admission("c", &format!("old{n}"), n)).collect();
        persist(&store, &before).await;
        let after: Vec<_> = (1..=300).map(|n| admission("c", &format!("new{n}"), n)).collect();
        let mut waiting = 0;
        for some in after.chunks(50) {
            let outcomes = persist(&store, some).await;
            waiting += outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Waiting)).count();
        }
        assert_eq!((db.coupons("c").await.len(), waiting, db.refusals("c").await.len()), (300, 120, 0));
        assert_eq!((decide(&store, &[], &[]).await.len(), decide(&store, &[], &[]).await.len()), (100, 20));
        assert_eq!((db.coupons("c").await.len(), db.refusals("c").await.len()), (300, 120));
    })
    .await;
}

#[tokio::test]
async fn a_record_of_an_unknown_campaign_is_rejected_until_it_exists() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let store = db.store();
        let mixed = [admission("nowhere", "u1", 1), admission("c", "u1", 1), admission("nowhere", "u2", 2)];
        let outcomes = persist(&store, &mixed).await;
        assert_eq!(
            (rejected(&outcomes[0]), &outcomes[1], rejected(&outcomes[2])),
            ("unknown_campaign", &issued(1), "unknown_campaign")
        );
        db.campaign("nowhere", 5).await;
        assert_eq!(persist(&store, &mixed).await, [issued(1), already(1), issued(2)], "as a replay would find it");
    })
    .await;
}

#[tokio::test]
async fn i2_ids_compare_as_bytes() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        let users =
            ["Alice", "alice", "ALICE", "älice", "a\u{308}lice", "鬼", "👩‍👩‍👧", "ﬀ", "ff", "a b", "straße", "strasse"];
        let longest = "é".repeat(64);
        let users: Vec<_> = users.into_iter().chain([longest.as_str()]).zip(1..).collect();
        let store = db.store();
        let outcomes = persist(&store, &batch(&users)).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, ClaimOutcome::Issued { .. })), "{outcomes:?}");
        let again = persist(&store, &batch(&users)).await;
        assert_eq!(again, users.iter().map(|(_, slot)| already(*slot)).collect::<Vec<_>>());
        let stored: Vec<_> = db.coupons("c").await.into_iter().map(|(_, user)| user).collect();
        assert_eq!(stored, users.iter().map(|(user, _)| *user).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn one_value_that_the_database_will_not_take_spoils_no_other() {
    scratch(async |db| {
        db.campaign("c", 100).await;
        db.pool.execute("ALTER TABLE coupons MODIFY user_id VARCHAR(8) COLLATE utf8mb4_bin NOT NULL").await.unwrap();
        let users: Vec<_> =
            (1..=40).map(|n| if n % 17 == 0 { format!("too-long-{n}") } else { format!("u{n}") }).collect();
        let pairs: Vec<_> = users.iter().map(String::as_str).zip(1..).collect();
        let outcomes = persist(&db.store(), &batch(&pairs)).await;
        for ((_, slot), outcome) in pairs.iter().zip(&outcomes) {
            if slot % 17 == 0 { assert_eq!(rejected(outcome), "data") } else { assert_eq!(*outcome, issued(*slot)) }
        }
        assert_eq!(db.coupons("c").await.len(), 38);
    })
    .await;
}

#[tokio::test]
async fn a_batch_of_more_rows_than_a_statement_has_binds_is_one_transaction() {
    scratch(async |db| {
        db.campaign("c", 10_000).await;
        let store = db.store();
        persist(&store, &batch(&[("early", 9_000)])).await;
        let records: Vec<_> = (1..=10_000).map(|n| admission("c", &format!("u{n}"), n)).collect();
        let outcomes = persist(&store, &records).await;
        assert_eq!(outcomes[8_999], refused(9_000), "the one whose slot was taken, and there is no other");
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Issued { .. })).count(), 9_999);
        assert_eq!(db.coupons("c").await.len(), 10_000);
    })
    .await;
}

#[tokio::test]
async fn i7_a_database_that_refuses_writes_blames_no_record() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let store = db.store();
        // The server's own errors, raised by a trigger: read-only, full, and one without a meaning of its own.
        for (number, label) in
            [(1290, "read_only"), (1114, "out_of_space"), (1040, "too_many_connections"), (4321, "refused")]
        {
            let trigger = format!(
                "CREATE TRIGGER away BEFORE INSERT ON coupons FOR EACH ROW \
                 SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'not now'"
            );
            db.pool.execute(AssertSqlSafe(trigger)).await.unwrap();
            let fault = store.persist(&batch(&[("u1", 1), ("u2", 2)]).iter().collect::<Vec<_>>()).await.unwrap_err();
            assert_eq!((fault.label, fault.retry), (label, true), "{fault}");
            db.pool.execute("DROP TRIGGER away").await.unwrap();
        }
        assert_eq!(persist(&store, &batch(&[("u1", 1), ("u2", 2)])).await, [issued(1), issued(2)]);
    })
    .await;
}

#[tokio::test]
async fn migrating_again_changes_nothing_and_a_bare_database_says_so() {
    scratch(async |db| {
        assert!(db.database().is_migrated().await.unwrap());
        assert_eq!(db.database().migrate().await.unwrap(), Vec::<String>::new());
        db.pool
            .execute("DROP TABLE waiting_claims, coupons, refusals, allotments, campaigns, dropgate_migrations")
            .await
            .unwrap();
        assert!(!db.database().is_migrated().await.unwrap());
        let fault = db.store().persist(&batch(&[("u1", 1)]).iter().collect::<Vec<_>>()).await.unwrap_err();
        assert_eq!(fault.label, "no_schema");
        assert!(fault.detail.contains("issuer migrate"), "{fault}");
    })
    .await;
}

#[tokio::test]
async fn i10_a_slot_that_an_operator_has_freed_is_given_before_anybody_is_refused() {
    scratch(async |db| {
        db.campaign("c", 3).await;
        let store = db.store();
        persist(&store, &batch(&[("a", 1), ("b", 2), ("c", 3)])).await;
        assert_eq!(persist(&store, &batch(&[("late", 1)])).await, [refused(1)], "now it remembers: all are taken");
        db.pool.execute("DELETE FROM coupons WHERE slot = 2").await.unwrap();
        assert_eq!(persist(&store, &batch(&[("x", 3), ("y", 3)])).await, [const { ClaimOutcome::Waiting }; 2]);
        assert_eq!(decide(&store, &["x", "y"], &[]).await, ["x 2:1763700000123:i"]);
        assert_eq!(decide(&store, &[], &[]).await, ["y 3:1763700000123:r"]);
        assert_eq!(db.coupons("c").await, rows(&[(1, "a"), (2, "x"), (3, "c")]));
    })
    .await;
}

#[tokio::test]
async fn i3_a_free_slot_goes_to_nobody_while_an_earlier_claim_is_under_way() {
    scratch(async |db| {
        db.campaign("c", 3).await;
        let store = db.store();
        // Redis lost `lost` and gave their slot away; `first` is under way with slot 1, which is free.
        persist(&store, &batch(&[("late", 2), ("later", 3)])).await;
        assert_eq!(persist(&store, &batch(&[("lost", 2)])).await, [ClaimOutcome::Waiting]);
        let none = [] as [&str; 0];
        assert_eq!(decide(&store, &["lost"], &[("first", "1:1763700000122:a")]).await, none, "admitted earlier");
        assert_eq!(decide(&store, &["lost"], &[("first", "1:1763700000124:a")]).await, none, "the slot is theirs");
        assert_eq!(decide(&store, &[], &[]).await, none, "something may be in Kafka");
        assert_eq!(persist(&store, &batch(&[("first", 1)])).await, [issued(1)]);
        assert_eq!(decide(&store, &[], &[]).await, ["lost 2:1763700000123:r"], "nobody can get a slot any more");
        let (campaign, slot) = (CampaignId::parse("c").unwrap(), Slot::new(2).unwrap());
        let holders = store.holders(&[(&campaign, slot)].into()).await.unwrap();
        let holders: Vec<_> = holders.iter().map(|one| format!("{} {}", one.user.as_str(), one.entry)).collect();
        assert_eq!(holders, ["late 2:1763700000123:i"]);
    })
    .await;
}

#[tokio::test]
async fn i5_who_was_admitted_again_gets_the_slot_that_redis_gave_them() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let store = db.store();
        persist(&store, &batch(&[("a", 1)])).await;
        persist(&store, &batch(&[("x", 1)])).await;
        let again = [("x", "3:1763700000200:a")];
        assert_eq!(decide(&store, &["x"], &again).await, ["x 3:1763700000123:i"]);
        assert_eq!(persist(&store, &batch(&[("x", 3)])).await, [already(3)]);
    })
    .await;
}

#[tokio::test]
async fn i3_a_refused_user_stays_refused_whatever_row_goes_away() {
    scratch(async |db| {
        db.campaign("c", 1).await;
        let (store, other) = (db.store(), db.store());
        persist(&other, &batch(&[("a", 1)])).await;
        assert_eq!(persist(&store, &batch(&[("x", 1)])).await, [refused(1)]);
        other.waiting().await.unwrap();
        db.pool.execute("DELETE FROM coupons").await.unwrap();
        for store in [store, other, db.store()] {
            assert_eq!(persist(&store, &batch(&[("x", 1)])).await, [refused(1)]);
        }
        // A slot of a later raise is beyond what is remembered, so refusals are looked at again.
        let third = db.store();
        db.raise("c", 2).await;
        assert_eq!(persist(&third, &batch(&[("x", 2)])).await, [refused(1)]);
        assert_eq!(db.coupons("c").await, []);
    })
    .await;
}

/// Who may drop or switch off a constraint is not the service; it must not start where that has happened.
#[tokio::test]
async fn i1_a_constraint_that_is_missing_is_found_by_its_name() {
    scratch(async |db| {
        let check = async || {
            let checked = db.database().check_constraints(timestamp::from_ms(5_000).unwrap(), 7).await;
            checked.err().map(|fault| (fault.label, fault.retry, fault.detail)).unwrap_or_default()
        };
        assert_eq!(check().await, ("", false, String::new()));
        let is_mariadb = db.database().server().await.unwrap().is_mariadb;
        let drop_check = if is_mariadb { "DROP CONSTRAINT" } else { "DROP CHECK" };
        // Each with what restores it.
        let cases = [
            (
                "coupon_slot",
                format!("{drop_check} coupon_slot"),
                "ADD CONSTRAINT coupon_slot CHECK (slot BETWEEN 1 AND allotment)",
            ),
            (
                "coupon_allotment",
                "DROP FOREIGN KEY coupon_allotment".to_owned(),
                "ADD CONSTRAINT coupon_allotment FOREIGN KEY (campaign_id, allotment) \
                 REFERENCES allotments (campaign_id, capacity)",
            ),
            (
                "coupon_user",
                "DROP INDEX coupon_user".to_owned(),
                "ADD CONSTRAINT coupon_user UNIQUE (campaign_id, user_id)",
            ),
        ];
        for (name, drop, restore) in cases {
            db.pool.execute(AssertSqlSafe(format!("ALTER TABLE coupons {drop}"))).await.unwrap();
            let (label, retry, detail) = check().await;
            assert_eq!((label, retry), ("no_constraints", false), "{detail}");
            assert!(detail.contains(name), "{name}: {detail}");
            db.pool.execute(AssertSqlSafe(format!("ALTER TABLE coupons {restore}"))).await.unwrap();
        }
        assert_eq!(check().await.0, "");
        let column = "MODIFY user_id VARCHAR(128) CHARACTER SET";
        for set in ["utf8mb3 COLLATE utf8mb3_bin", "utf8mb4 COLLATE utf8mb4_general_ci"] {
            db.pool.execute(AssertSqlSafe(format!("ALTER TABLE coupons {column} {set} NOT NULL"))).await.unwrap();
            let (label, _, detail) = check().await;
            assert!(["character_set", "data", "constraint_check"].contains(&label), "{set}: {label} {detail}");
        }
        assert!(db.coupons("check-config-0000000000000007").await.is_empty(), "nothing is left behind");
    })
    .await;
}

/// The address cannot ask for it; a proxy, or a server that overrides what the driver says, can.
#[tokio::test]
async fn i2_a_connection_that_changes_user_ids_is_found() {
    scratch(async |db| {
        for set in ["latin1", "utf8mb3"] {
            let settings = DatabaseSettings { options: db.options.clone().charset(set), shown: String::new() };
            let database = MySqlStore::new(&settings, 1);
            let fault = database.check_constraints(timestamp::from_ms(5_000).unwrap(), 9).await.unwrap_err();
            assert!(!fault.retry, "{set}: the service would wait for ever: {fault}");
            assert!(["character_set", "constraint_check", "data"].contains(&fault.label), "{set}: {fault}");
        }
    })
    .await;
}

/// The server says what is wrong with its settings, and not that it is away.
#[tokio::test]
async fn a_batch_that_no_statement_can_hold_is_found_at_the_start() {
    scratch(async |db| {
        let mut server = db.database().server().await.unwrap();
        server.check_packet(10_000).unwrap();
        server.max_allowed_packet = 64 * 1_024;
        let fault = server.check_packet(500).unwrap_err();
        assert_eq!((fault.label, fault.retry), ("packet_too_large", false));
        assert!(
            fault.detail.contains("max_allowed_packet is 65536") && fault.detail.contains("BATCH_RECORDS"),
            "{fault}"
        );
        server.check_packet(50).unwrap();
    })
    .await;
}
