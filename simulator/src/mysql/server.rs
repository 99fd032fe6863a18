//! A server: its settings, its connections, and the switches of its faults.

use super::connection::{Link, Thread};
use super::engine::{Engine, Halt};
use super::error::{ServerError, lost, pool_timed_out};
use super::faults::{At, Away, Dice, Faults, Place, Sink, Strike};
use super::locks::Trx;
use super::rows::LostRow;
use super::session::ModelStore;
use super::table_locks::TableLock;
use super::{Flavor, Schema};
use dropgate_issuer::store::ports::StoreError;
use dropgate_shared::ids::CampaignId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How a server is set up. Times are virtual.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub flavor: Flavor,
    pub schema: Schema,
    /// From a statement to its answer. The first half passes before it is carried out.
    pub statement_ms: u64,
    /// `innodb_lock_wait_timeout`, as the issuer's sessions set it.
    pub lock_wait_ms: u64,
    pub max_connections: usize,
    /// How long the server does not notice that a client is gone: 0 for a process that ended, more for a host or a
    /// network that vanished. Until then a transaction stays open, with its locks.
    pub notice_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flavor: Flavor::MySql,
            schema: Schema::default(),
            statement_ms: 1,
            lock_wait_ms: 5_000,
            max_connections: 151,
            notice_ms: 0,
        }
    }
}

/// A server. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Server(pub(super) Rc<Inner>);

pub(super) struct Inner {
    pub(super) settings: Cell<Settings>,
    pub(super) engine: RefCell<Engine>,
    pub(super) faults: RefCell<Faults>,
    threads: RefCell<BTreeMap<u64, Rc<Thread>>>,
    connected: Cell<u64>,
    reachable: Notify,
    pub(super) statements: RefCell<BTreeMap<&'static str, u64>>,
    sink: Sink,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("settings", &self.settings.get())
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// How often the pool tries a server that refuses, in ms: sqlx doubles from 10 ms, up to a fifth of what is left.
const FIRST_RETRY_MS: u64 = 10;
const CAP_RETRY_MS: u64 = 1_000;
/// What a connection costs, in statements: the handshake and what the driver and the issuer set.
const STATEMENTS_TO_CONNECT: u64 = 4;
/// How long a connection may take.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

impl Server {
    /// An empty database, migrated. `sink` gets every fault that strikes.
    #[must_use]
    pub fn new(settings: Settings, sink: Sink) -> Self {
        Self(Rc::new(Inner {
            settings: Cell::new(settings),
            engine: RefCell::new(Engine::new(settings.schema, settings.flavor)),
            faults: RefCell::default(),
            threads: RefCell::default(),
            connected: Cell::new(0),
            reachable: Notify::new(),
            statements: RefCell::default(),
            sink,
        }))
    }

    /// A pool of at most `connections`, as each issuer has one.
    #[must_use]
    pub fn store(&self, connections: u32) -> ModelStore {
        ModelStore::new(self.clone(), connections)
    }

    /// Sets `statement_ms`.
    pub fn set_statement_ms(&self, statement_ms: u64) {
        self.change_settings(|settings| settings.statement_ms = statement_ms);
    }

    /// Sets `notice_ms`.
    pub fn set_notice_ms(&self, notice_ms: u64) {
        self.change_settings(|settings| settings.notice_ms = notice_ms);
    }

    /// Sets `max_connections`. Those that are open stay.
    pub fn set_max_connections(&self, max_connections: usize) {
        self.change_settings(|settings| settings.max_connections = max_connections);
    }

    fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.0.settings.get();
        change(&mut settings);
        self.0.settings.set(settings);
    }

    /// Makes the server unreachable, or reachable again.
    pub fn set_away(&self, away: Option<Away>) {
        self.0.faults.borrow_mut().away = away;
        match away {
            Some(Away::Refusing) => self.kill_sessions(),
            Some(Away::Hanging) => {}
            None => self.0.reachable.notify_waiters(),
        }
    }

    /// `super_read_only`: a failover whose new primary is elsewhere. Statements that write or lock rows fail with 1290,
    /// and so does the commit of a transaction that has written, which is rolled back (tried on 9.7.4).
    pub fn set_read_only(&self, is_read_only: bool) {
        self.0.faults.borrow_mut().is_read_only = is_read_only;
    }

    /// Every statement takes this much longer.
    pub fn set_slow_ms(&self, slow_ms: u64) {
        self.0.faults.borrow_mut().slow_ms = slow_ms;
    }

    /// The next `count` statements of this kind are struck.
    pub fn plan(&self, strike: Strike, at: At, count: usize) {
        self.0.faults.borrow_mut().plan(strike, at, count);
    }

    /// `dice` decides about every statement that no plan strikes.
    pub fn set_dice(&self, dice: Option<Dice>) {
        self.0.faults.borrow_mut().dice = dice;
    }

    /// Ends all plans, and the dice.
    pub fn clear_plans(&self) {
        self.0.faults.borrow_mut().clear();
    }

    /// Ends every connection, also those by which somebody else holds a lock; open transactions are rolled back.
    pub fn kill_sessions(&self) {
        let threads: Vec<_> = self.0.threads.borrow().values().cloned().collect();
        for thread in threads {
            self.report("session_killed", "");
            thread.kill(self);
        }
        let foreign: Vec<_> = self.0.engine.borrow().transactions().keys().copied().collect();
        for trx in foreign {
            self.0.engine.borrow_mut().rollback(trx, Err(ServerError::lock_wait_timeout()));
        }
        self.0.engine.borrow_mut().table_locks.release_all();
    }

    /// A failover to an asynchronous replica that has not got the last `count` transactions: every connection ends, and
    /// they are undone. Returns the rows that are gone.
    pub fn lose_commits(&self, count: usize) -> Vec<LostRow> {
        self.kill_sessions();
        let lost: Vec<_> = self.0.engine.borrow_mut().lose_commits(count).iter().filter_map(LostRow::of).collect();
        if !lost.is_empty() {
            self.report("commits_lost", "");
        }
        lost
    }

    /// Somebody else's transaction locks a campaign's row for `time`. Spawn it; dropping it releases the lock.
    pub async fn hold_campaign(&self, id: &CampaignId, time: Duration) {
        let hold = Hold::new(self);
        loop {
            let step = self.0.engine.borrow_mut().lock_campaign(hold.trx, id.as_str());
            match step {
                Err(Halt::Wait(wake)) => match wake.await {
                    Ok(Ok(())) => {}
                    // It was killed.
                    _ => return,
                },
                Err(Halt::Error(_)) => return,
                Ok(_) => break,
            }
        }
        self.report("campaign_locked", "");
        sleep(time).await;
    }

    /// Somebody else locks a table, or everything, for `time`. Spawn it; dropping it releases the lock.
    pub async fn hold_table(&self, lock: TableLock, time: Duration) {
        let hold = HoldTable::new(self, lock);
        loop {
            let changed = {
                let mut engine = self.0.engine.borrow_mut();
                if engine.take_table_lock(hold.id) {
                    break;
                }
                engine.table_locks.change()
            };
            changed.notified().await;
        }
        self.report("table_locked", "");
        sleep(time).await;
    }

    pub(super) fn report(&self, kind: &'static str, place: &'static str) {
        (self.0.sink)(kind, place);
    }

    pub(super) fn strike(&self, place: &Place) -> Option<Strike> {
        let strike = self.0.faults.borrow_mut().strike(place);
        if let Some(strike) = strike {
            self.report(strike.kind(place), place.statement);
        }
        strike
    }

    /// Ends when the network delivers.
    pub(super) async fn reach(&self, place: &'static str) {
        let mut is_reported = false;
        while self.0.faults.borrow().away == Some(Away::Hanging) {
            if !is_reported {
                self.report("hanging", place);
                is_reported = true;
            }
            self.0.reachable.notified().await;
        }
    }

    /// A connection of its own: the first failure counts.
    pub(super) async fn connect(&self) -> Result<Link, StoreError> {
        let refused = || lost("error communicating with database: Connection refused (os error 111)");
        let connect = async { self.try_to_connect().await?.ok_or_else(refused) };
        timeout(CONNECT_DEADLINE, connect).await.unwrap_or_else(|_| Err(pool_timed_out()))
    }

    /// A connection of the pool: it tries again while the server refuses.
    pub(super) async fn connect_pooled(&self, deadline: Instant) -> Result<Link, StoreError> {
        let connect = async {
            let mut wait_ms = FIRST_RETRY_MS;
            loop {
                if let Some(link) = self.try_to_connect().await? {
                    return Ok(link);
                }
                sleep_ms(wait_ms).await;
                wait_ms = (wait_ms * 2).min(CAP_RETRY_MS);
            }
        };
        timeout_at(deadline, connect).await.unwrap_or_else(|_| Err(pool_timed_out()))
    }

    /// `None`: the server refuses connections.
    async fn try_to_connect(&self) -> Result<Option<Link>, StoreError> {
        self.reach("connect").await;
        sleep_ms(self.0.settings.get().statement_ms * STATEMENTS_TO_CONNECT).await;
        self.reach("connect").await;
        if self.0.faults.borrow().away == Some(Away::Refusing) {
            self.report("refusing", "connect");
            return Ok(None);
        }
        if self.connections() >= self.0.settings.get().max_connections {
            self.report("too_many_connections", "connect");
            return Err(ServerError::too_many_connections().into());
        }
        let id = self.0.connected.get() + 1;
        self.0.connected.set(id);
        let (link, thread) = Link::open(self.clone(), id);
        self.0.threads.borrow_mut().insert(id, thread);
        Ok(Some(link))
    }

    pub(super) fn forget(&self, id: u64) {
        self.0.threads.borrow_mut().remove(&id);
    }

    /// How many connections the server has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.threads.borrow().len()
    }
}

/// Sleeps, unless there is nothing to sleep.
pub(super) async fn sleep_ms(ms: u64) {
    if ms > 0 {
        sleep(Duration::from_millis(ms)).await;
    }
}

struct Hold<'a> {
    server: &'a Server,
    trx: Trx,
}

impl<'a> Hold<'a> {
    fn new(server: &'a Server) -> Self {
        Self { server, trx: server.0.engine.borrow_mut().begin() }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.server.0.engine.borrow_mut().rollback(self.trx, Ok(()));
    }
}

struct HoldTable<'a> {
    server: &'a Server,
    id: u64,
}

impl<'a> HoldTable<'a> {
    fn new(server: &'a Server, lock: TableLock) -> Self {
        Self { server, id: server.0.engine.borrow_mut().table_locks.ask(lock) }
    }
}

impl Drop for HoldTable<'_> {
    fn drop(&mut self) {
        self.server.0.engine.borrow_mut().table_locks.release(self.id);
    }
}
