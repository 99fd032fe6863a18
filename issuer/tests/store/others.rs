//! Constraints and triggers of the database that are not dropgate's.

use super::scratch::{Scratch, already, batch, issued, persist, refused, rejected, rows, scratch};
use dropgate_issuer::consume::ports::{ClaimOutcome, CouponStore};
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_shared::fault::Fault;
use sqlx::{AssertSqlSafe, Executor};

const BATCH: [(&str, u32); 5] = [("u1", 1), ("u2", 2), ("u3", 3), ("u4", 4), ("u5", 5)];

/// One user's row is rejected: it alone is set aside, with the name of what rejects it, and the others get their rows.
async fn only_u3_is_set_aside(ddl: &'static str, label: &str, name: &str) {
    let (label, name) = (label.to_owned(), name.to_owned());
    scratch(async move |db| {
        db.campaign("c", 9).await;
        (&db.pool).execute(AssertSqlSafe(ddl)).await.unwrap();
        let store = db.store();
        let outcomes = persist(&store, &batch(&BATCH)).await;
        assert_eq!(
            [&outcomes[0], &outcomes[1], &outcomes[3], &outcomes[4]],
            [&issued(1), &issued(2), &issued(4), &issued(5)]
        );
        assert_eq!(rejected(&outcomes[2]), label);
        assert!(matches!(&outcomes[2], ClaimOutcome::Rejected(reason) if reason.text.contains(&name)), "{outcomes:?}");
        assert_eq!(db.coupons("c").await, rows(&[(1, "u1"), (2, "u2"), (4, "u4"), (5, "u5")]));
        // Also where a constraint of ours makes the batch look at the rows first (I6).
        let again = persist(&store, &batch(&BATCH)).await;
        assert_eq!(rejected(&again[2]), label);
    })
    .await;
}

#[tokio::test]
async fn i3_a_check_of_the_shop_blames_one_row() {
    let ddl = "ALTER TABLE coupons ADD CONSTRAINT shop_rule CHECK (user_id <> 'u3')";
    only_u3_is_set_aside(ddl, "others_constraint", "shop_rule").await;
}

#[tokio::test]
async fn i3_a_unique_key_of_the_shop_blames_one_row() {
    let ddl = "ALTER TABLE coupons ADD COLUMN shop_key INT AS (IF(user_id IN ('u2', 'u3'), 1, NULL)) STORED, \
               ADD UNIQUE KEY shop_household (shop_key)";
    only_u3_is_set_aside(ddl, "others_constraint", "shop_household").await;
}

#[tokio::test]
async fn i3_a_trigger_of_the_shop_blames_one_row() {
    let ddl = "CREATE TRIGGER shop_trigger BEFORE INSERT ON coupons FOR EACH ROW IF NEW.user_id = 'u3' THEN \
               SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'shop_trigger: this customer is blocked'; END IF";
    only_u3_is_set_aside(ddl, "others_constraint", "this customer is blocked").await;
}

/// `condition` is the server's or a row's, in SQL. The number is one that dropgate does not know.
async fn unknown_error(db: &Scratch, table: &str, condition: &str) {
    let ddl = format!(
        "CREATE TRIGGER shop_{table} BEFORE INSERT ON {table} FOR EACH ROW IF {condition} THEN \
         SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 5999, MESSAGE_TEXT = 'u3 owes 5 EUR'; END IF"
    );
    db.pool.execute(AssertSqlSafe(ddl)).await.unwrap();
}

async fn fault(store: &CouponWriter<MySqlStore>, pairs: &[(&str, u32)]) -> Fault {
    store.persist(&batch(pairs).iter().collect::<Vec<_>>()).await.unwrap_err()
}

#[tokio::test]
async fn i3_an_unknown_error_blames_one_row_if_the_server_takes_another() {
    scratch(async move |db| {
        db.campaign("c", 5).await;
        unknown_error(&db, "coupons", "NEW.user_id = 'u3'").await;
        let store = db.store();
        let outcomes = persist(&store, &batch(&BATCH)).await;
        assert_eq!(rejected(&outcomes[2]), "row_refused");
        let others = rows(&[(1, "u1"), (2, "u2"), (4, "u4"), (5, "u5")]);
        assert_eq!(db.coupons("c").await, others);
        // Delivered again, beside users who have their rows, and alone: a trial row of another user shows that the
        // server takes rows. It is rolled back.
        let again = persist(&store, &batch(&BATCH)).await;
        assert_eq!((&again[0], rejected(&again[2])), (&already(1), "row_refused"));
        assert_eq!(rejected(&persist(&db.store(), &batch(&[("u3", 3)])).await[0]), "row_refused");
        assert_eq!(db.coupons("c").await, others);
        assert_eq!(db.refusals("c").await, []);
    })
    .await;
}

#[tokio::test]
async fn i3_an_unknown_error_of_a_refusal_or_a_waiting_claim_blames_its_row() {
    scratch(async move |db| {
        db.campaign("c", 2).await;
        unknown_error(&db, "waiting_claims", "NEW.user_id = 'u3'").await;
        unknown_error(&db, "refusals", "NEW.user_id = 'u3'").await;
        let store = db.store();
        persist(&store, &batch(&[("u1", 1)])).await;
        assert_eq!(rejected(&persist(&store, &batch(&[("u3", 1)])).await[0]), "row_refused");
        assert_eq!(store.waiting().await.unwrap().len(), 0);
        persist(&store, &batch(&[("u2", 2)])).await;
        assert_eq!(rejected(&persist(&store, &batch(&[("u3", 1)])).await[0]), "row_refused");
        assert_eq!(db.refusals("c").await, []);
        assert_eq!(persist(&store, &batch(&[("u4", 1)])).await, [refused(1)]);
    })
    .await;
}

/// The shop takes no row of a user whom it does not know, so no trial row is ever taken.
#[tokio::test]
async fn i3_where_no_trial_row_is_taken_another_row_of_the_batch_shows_that_the_server_takes_rows() {
    scratch(async move |db| {
        db.campaign("c", 9).await;
        let unknown = "CREATE TRIGGER shop_customers BEFORE INSERT ON coupons FOR EACH ROW IF NEW.user_id NOT LIKE 'u%' \
                       THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no such customer'; END IF";
        (&db.pool).execute(unknown).await.unwrap();
        unknown_error(&db, "coupons", "NEW.user_id = 'u3'").await;
        let store = db.store();
        assert_eq!(rejected(&persist(&store, &batch(&BATCH)).await[2]), "row_refused");
        // Alone, it may be the server: nobody is blamed. The number goes into the log; the words may name a user.
        let fault = fault(&store, &[("u3", 3)]).await;
        assert!(fault.label == "refused" && fault.detail.contains("error 5999 (SQLSTATE HY000)"), "{fault}");
        assert!(!fault.detail.contains("EUR"), "{fault}");
    })
    .await;
}

/// The first rows are rejected, whosever they are. No rollback takes a number of AUTO_INCREMENT back.
#[tokio::test]
async fn i7_an_unknown_error_that_ends_by_itself_rejects_nobody() {
    scratch(async move |db| {
        db.campaign("c", 9).await;
        (&db.pool).execute("CREATE TABLE shop_calls (n INT AUTO_INCREMENT PRIMARY KEY)").await.unwrap();
        (&db.pool).execute("CREATE TABLE shop_down (calls INT)").await.unwrap();
        (&db.pool).execute("INSERT INTO shop_down VALUES (0)").await.unwrap();
        let ddl = "CREATE TRIGGER away BEFORE INSERT ON coupons FOR EACH ROW BEGIN INSERT INTO shop_calls VALUES (NULL); \
                   IF LAST_INSERT_ID() <= (SELECT calls FROM shop_down) THEN \
                   SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 5999, MESSAGE_TEXT = 'not now'; END IF; END";
        (&db.pool).execute(ddl).await.unwrap();
        let records = batch(&BATCH);
        let records: Vec<_> = records.iter().collect();
        for failures in 1..=12 {
            (&db.pool).execute("TRUNCATE shop_calls").await.unwrap();
            sqlx::query("UPDATE shop_down SET calls = ?").bind(failures).execute(&db.pool).await.unwrap();
            let store = db.store();
            // As the loop does: until there is an outcome.
            let mut outcomes = store.persist(&records).await;
            for _ in 0..failures {
                if let Err(fault) = &outcomes {
                    assert!(fault.label == "refused" && fault.detail.contains("error 5999"), "{fault}");
                    outcomes = store.persist(&records).await;
                }
            }
            let outcomes = outcomes.unwrap();
            let has_row =
                |outcome: &ClaimOutcome| matches!(outcome, ClaimOutcome::Issued { .. } | ClaimOutcome::Already { .. });
            assert!(outcomes.iter().all(has_row), "{failures}: {outcomes:?}");
            assert_eq!(db.coupons("c").await.len(), BATCH.len());
            (&db.pool).execute("DELETE FROM coupons").await.unwrap();
        }
    })
    .await;
}
