//! Statements, sessions and connections that get no answer.

use super::scratch::{SECRET, Scratch, batch, issued, persist, scratch};
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::ports::CouponStore;
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::store::mysql::connection::Limits;
use dropgate_issuer::store::mysql::database::MySqlStore;
use dropgate_issuer::store::mysql::settings::DatabaseSettings;
use dropgate_issuer::store::ports::{Session, Store, StoreError};
use dropgate_issuer::timestamp::Clock;
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::ids::CampaignId;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{Connection, Executor};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const NEVER: Duration = Duration::from_secs(3_600);

/// Waits until this many threads of the server wait for a table in this database.
async fn until_waiting(db: &Scratch, expected: i64) {
    let began = Instant::now();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state LIKE 'Waiting for%'",
        )
        .fetch_one(&db.pool)
        .await
        .unwrap();
        if waiting == expected {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{waiting} threads wait, expected {expected}");
        tokio::task::yield_now().await;
    }
}

/// A session that keeps `table` to itself.
async fn lock(db: &Scratch, sql: &'static str) -> MySqlConnection {
    let mut session = MySqlConnection::connect_with(&db.options).await.unwrap();
    session.execute(sql).await.unwrap();
    session
}

/// The server does not even learn that the client is gone: something between them has forgotten the connection.
#[tokio::test]
async fn statements_without_an_answer_leave_no_thread() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let (nat, through) = Nat::before(&db).await;
        let limits = Limits { statement: Duration::from_secs(2), table_lock: NEVER, silence: NEVER };
        let _locker = lock(&db, "LOCK TABLES campaigns WRITE").await;
        let id = CampaignId::parse("c").unwrap();
        let forgotten = async || {
            until_waiting(&db, 1).await;
            nat.forget_all();
        };
        for _ in 0..3 {
            let mut session = through.clone().with_limits(limits, NEVER).session().await.unwrap();
            let (answer, ()) = tokio::join!(session.lock_campaign(&id), forgotten());
            assert!(matches!(&answer, Err(StoreError::Away(fault)) if fault.label == "timeout"), "{answer:?}");
            drop(session);
            until_waiting(&db, 0).await;
        }
        // Its future is dropped while it waits, as the deadline of a batch does it.
        let limits = Limits { statement: NEVER, ..limits };
        for _ in 0..2 {
            let mut session = through.clone().with_limits(limits, NEVER).session().await.unwrap();
            tokio::select! {
                answer = session.lock_campaign(&id) => panic!("{answer:?}"),
                () = forgotten() => {}
            }
            session.discard();
            until_waiting(&db, 0).await;
        }
    })
    .await;
}

/// Where the server cannot be asked to kill (no connection is left), it ends the wait by itself.
#[tokio::test]
async fn the_server_ends_a_wait_for_a_table_by_itself() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let limits = Limits { statement: NEVER, table_lock: Duration::from_secs(1), silence: Duration::from_secs(60) };
        let store = db.database().with_limits(limits, NEVER);
        let _locker = lock(&db, "LOCK TABLES campaigns WRITE").await;
        let mut session = store.session().await.unwrap();
        let error = session.lock_campaign(&CampaignId::parse("c").unwrap()).await.unwrap_err();
        assert_eq!(error, StoreError::Contention);
        until_waiting(&db, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_frozen_process_holds_no_lock_for_long() {
    scratch(async |db| {
        // A frozen process: the server ends its session, and with that its transaction and locks.
        let limits = Limits { silence: Duration::from_secs(1), ..Limits::SERVICE };
        let frozen = db.database().with_limits(limits, NEVER);
        db.campaign("c", 5).await;
        let id = CampaignId::parse("c").unwrap();
        let mut holder = frozen.session().await.unwrap();
        holder.begin().await.unwrap();
        assert!(holder.lock_campaign(&id).await.unwrap());
        let mut other = db.database().session().await.unwrap();
        other.begin().await.unwrap();
        assert!(other.lock_campaign(&id).await.unwrap(), "the lock of a silent session ends");
        other.rollback().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_locked_record_of_migrations_is_no_endless_wait() {
    scratch(async |db| {
        let mut locker = lock(&db, "LOCK TABLES dropgate_migrations WRITE").await;
        let database = db.database();
        let (migrated, ()) = tokio::join!(database.is_migrated(), until_waiting(&db, 1));
        assert!(migrated.unwrap_err().retry);
        locker.execute("UNLOCK TABLES").await.unwrap();
        assert!(db.database().is_migrated().await.unwrap());
    })
    .await;
}

/// Passes bytes on, until it is told to forget its connections: then it swallows what comes, as a NAT does.
struct Nat {
    opened: Arc<AtomicUsize>,
    forgotten: watch::Sender<usize>,
}

impl Nat {
    /// Between the server of `db` and a store.
    async fn before(db: &Scratch) -> (Self, MySqlStore) {
        let (host, port) = (db.options.get_host().to_owned(), db.options.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (opened, (forgotten, forget)) = (Arc::new(AtomicUsize::new(0)), watch::channel(0));
        let count = Arc::clone(&opened);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let nth = count.fetch_add(1, Ordering::SeqCst) + 1;
                let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, nth, forget.clone()));
                tokio::spawn(pass(from_server, to_client, nth, forget.clone()));
            }
        });
        // Without the socket: bytes must pass.
        let url = std::env::var("DROPGATE_TEST_DATABASE_URL").unwrap();
        let options = MySqlConnectOptions::from_str(url.split('?').next().unwrap()).unwrap();
        let options = options.host("127.0.0.1").port(own).database(db.options.get_database().unwrap());
        let store = MySqlStore::new(&DatabaseSettings { options, shown: String::new() }, 2);
        (Self { opened, forgotten }, store)
    }

    fn forget_all(&self) {
        self.forgotten.send_replace(self.opened());
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    nth: usize,
    forget: watch::Receiver<usize>,
) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if nth > *forget.borrow() && to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
    if nth <= *forget.borrow() {
        // Nor does it pass on that one side has closed.
        std::future::pending::<()>().await;
    }
}

fn writer(store: MySqlStore) -> CouponWriter<MySqlStore> {
    let secret = CodeSecrets::new(CodeSecret::parse(SECRET).unwrap(), None);
    CouponWriter::new(store, secret, 500, Clock::system(), Jitter::system())
}

#[tokio::test]
async fn a_connection_that_a_nat_forgot_costs_no_batch() {
    scratch(async |db| {
        db.campaign("c", 5).await;
        let (nat, store) = Nat::before(&db).await;
        // Every session counts as idle for long.
        let writer = writer(store.with_limits(Limits::SERVICE, Duration::ZERO));
        assert_eq!(persist(&writer, &batch(&[("a", 1)])).await, [issued(1)]);
        assert_eq!(persist(&writer, &batch(&[("b", 2)])).await, [issued(2)]);
        assert_eq!(nat.opened(), 1, "one connection serves until it is lost");
        nat.forget_all();
        let written = writer.persist(&batch(&[("c", 3)]).iter().collect::<Vec<_>>()).await;
        assert_eq!(written, Ok(vec![issued(3)]), "at the first try");
        assert_eq!(nat.opened(), 2);
    })
    .await;
}
