//! Constraints and triggers of the database that are not dropgate's.

use super::scratch::{batch, issued, persist, rejected, rows, scratch};
use dropgate_issuer::consume::ports::{ClaimOutcome, CouponStore};
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

#[tokio::test]
async fn i3_an_unknown_error_blames_one_row_if_the_server_takes_another() {
    let ddl = "CREATE TRIGGER shop_trigger BEFORE INSERT ON coupons FOR EACH ROW IF NEW.user_id = 'u3' THEN \
               SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 5999, MESSAGE_TEXT = 'nobody knows this'; END IF";
    scratch(async move |db| {
        db.campaign("c", 9).await;
        (&db.pool).execute(ddl).await.unwrap();
        let store = db.store();
        let outcomes = persist(&store, &batch(&BATCH)).await;
        assert_eq!(rejected(&outcomes[2]), "row_refused");
        assert_eq!(db.coupons("c").await.len(), 4);
        // Alone, it may be the server: nobody is blamed, and the error is named.
        let alone = batch(&[("u3", 3)]);
        let fault = store.persist(&alone.iter().collect::<Vec<_>>()).await.unwrap_err();
        assert!(fault.label == "refused" && fault.detail.contains("nobody knows this"), "{fault}");
    })
    .await;
}
