//! A database of its own for each test, on the server that `make test` starts.

use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::decode::decode;
use dropgate_issuer::consume::ports::{Admission, ClaimOutcome, CouponStore};
use dropgate_issuer::operator::campaign::create::create;
use dropgate_issuer::store::approvals::Approval;
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::store::mysql::settings::DatabaseSettings;
use dropgate_issuer::timestamp::{self, Clock};
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use std::str::FromStr;

const SERVER: &str = "DROPGATE_TEST_DATABASE_URL";
pub const SECRET: &str = "a secret for tests only";

/// The database of one test.
#[derive(Clone)]
pub struct Scratch {
    pub options: MySqlConnectOptions,
    /// A pool beside the one under test.
    pub pool: MySqlPool,
}

/// Runs `test` on a migrated database of its own, and drops that afterwards, however the test ends.
pub async fn scratch<F>(test: impl FnOnce(Scratch) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let server = std::env::var(SERVER).unwrap_or_else(|_| {
        panic!("{SERVER} names no MySQL server; `make test` starts one and provides it (mysql://root@127.0.0.1:PORT)")
    });
    let server = MySqlConnectOptions::from_str(&server).unwrap();
    let mut admin = MySqlConnection::connect_with(&server).await.unwrap();
    let name = format!("dropgate_test_{:016x}", Jitter::system().next());
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();

    let options = server.database(&name);
    let pool = MySqlPoolOptions::new().max_connections(4).connect_lazy_with(options.clone());
    let scratch = Scratch { options, pool: pool.clone() };
    assert_eq!(
        scratch.database().migrate().await.unwrap(),
        ["0001 coupons", "0002 dead letter replays", "0003 campaign versions", "0004 waiting claims"]
    );
    let result = tokio::spawn(test(scratch)).await;
    pool.close().await;
    admin.execute(AssertSqlSafe(format!("DROP DATABASE {name}"))).await.unwrap();
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Scratch {
    pub fn database(&self) -> MySqlStore {
        MySqlStore::new(&DatabaseSettings { options: self.options.clone(), shown: String::new() }, 2)
    }

    /// A store as an issuer of its own would have it.
    pub fn store(&self) -> CouponWriter<MySqlStore> {
        let secret = CodeSecrets::new(CodeSecret::parse(SECRET).unwrap(), None);
        CouponWriter::new(self.database(), secret, 500, Clock::system(), Jitter::system())
    }

    pub async fn campaign(&self, id: &str, capacity: u32) {
        let opens_at = timestamp::from_ms(0).unwrap();
        let id = CampaignId::parse(id).unwrap();
        let created = create(&self.database(), opens_at, &id, capacity, Some(opens_at), None).await.unwrap();
        assert!(created.contains("created"), "{created}");
    }

    pub async fn raise(&self, id: &str, capacity: u32) {
        sqlx::query("INSERT INTO allotments (campaign_id, capacity, granted_at) VALUES (?, ?, ?)")
            .bind(id)
            .bind(capacity)
            .bind(Clock::system().now())
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// The coupons of a campaign: slot and user, in the order of the slots.
    pub async fn coupons(&self, id: &str) -> Vec<(u32, String)> {
        sqlx::query_as("SELECT slot, user_id FROM coupons WHERE campaign_id = ? ORDER BY slot")
            .bind(id)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// The refusals of a campaign: user, proposed slot and reason, in the order of the users.
    pub async fn refusals(&self, id: &str) -> Vec<(String, u32, String)> {
        sqlx::query_as("SELECT user_id, proposed_slot, reason FROM refusals WHERE campaign_id = ? ORDER BY user_id")
            .bind(id)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

/// An admission as it comes out of Kafka.
pub fn admission(campaign: &str, user: &str, slot: u32) -> Admission {
    let record = AdmissionRecord {
        campaign: CampaignId::parse(campaign).unwrap(),
        user: UserId::parse(user).unwrap(),
        slot: Slot::new(slot).unwrap(),
        admitted_at: 1_763_700_000_123,
        trace: None,
        code_key: None,
    };
    decode(record.encode().as_bytes()).unwrap()
}

/// Admissions of campaign `c`.
pub fn batch(pairs: &[(&str, u32)]) -> Vec<Admission> {
    pairs.iter().map(|(user, slot)| admission("c", user, *slot)).collect()
}

pub async fn persist(store: &CouponWriter<MySqlStore>, admissions: &[Admission]) -> Vec<ClaimOutcome> {
    store.persist(&admissions.iter().collect::<Vec<_>>()).await.unwrap()
}

/// Decides the claims of campaign `c` that wait, of `users`, with these claims of others under way. Returns user and
/// entry of those that were decided, sorted.
pub async fn decide(store: &CouponWriter<MySqlStore>, users: &[&str], under_way: &[(&str, &str)]) -> Vec<String> {
    let users = users.iter().map(|user| (*user).to_owned()).collect();
    let under_way = under_way.iter().map(|(user, entry)| ((*user).to_owned(), entry.parse().unwrap())).collect();
    store.approve(CampaignId::parse("c").unwrap(), Approval { users, under_way });
    assert!(store.can_decide());
    let decided = store.decide(100).await.unwrap();
    let mut shown: Vec<_> = decided.iter().map(|claim| format!("{} {}", claim.user.as_str(), claim.entry)).collect();
    shown.sort();
    shown
}

pub fn issued(slot: u32) -> ClaimOutcome {
    ClaimOutcome::Issued { slot: Slot::new(slot).unwrap() }
}

pub fn already(slot: u32) -> ClaimOutcome {
    ClaimOutcome::Already { slot: Slot::new(slot).unwrap() }
}

pub fn refused(slot: u32) -> ClaimOutcome {
    ClaimOutcome::Refused { slot: Slot::new(slot).unwrap() }
}

pub fn rejected(outcome: &ClaimOutcome) -> &'static str {
    match outcome {
        ClaimOutcome::Rejected(reason) => reason.label,
        other => panic!("{other:?} is not rejected"),
    }
}

pub fn rows(pairs: &[(u32, &str)]) -> Vec<(u32, String)> {
    pairs.iter().map(|(slot, user)| (*slot, (*user).to_owned())).collect()
}
