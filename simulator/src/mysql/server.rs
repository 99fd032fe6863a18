//! A server: its settings, its connections, and the switches of its faults.

use super::engine::{Engine, Halt};
use super::error::ServerError;
use super::faults::{At, Away, Dice, Faults, Place, Sink, Strike};
use super::locks::Trx;
use super::schema::{Flavor, Schema};
use super::table_locks::TableLock;
use super::thread::Thread;
use dropgate_shared::ids::CampaignId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How a server is set up. Times are virtual.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub flavor: Flavor,
    pub schema: Schema,
    /// From a statement to its answer. The first half passes before it is carried out.
    pub statement_ms: u64,
    /// `innodb_lock_wait_timeout`, as the issuer's sessions set it.
    pub lock_wait_ms: u64,
    /// `lock_wait_timeout`: of a wait for a table.
    pub table_lock_ms: u64,
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
            table_lock_ms: 10_000,
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
    pub(super) connected: Cell<u64>,
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
            self.end(&thread);
            thread.killed.notify_one();
        }
        let foreign: Vec<_> = self.0.engine.borrow().transactions().keys().copied().collect();
        for trx in foreign {
            self.0.engine.borrow_mut().rollback(trx, Err(ServerError::lock_wait_timeout()));
        }
        self.0.engine.borrow_mut().table_locks.release_all();
    }

    /// The replica has caught up: nothing that is committed by now can be lost.
    pub fn replicate(&self) {
        self.0.engine.borrow_mut().replicate();
    }

    /// Somebody else's transaction locks a campaign's row for `time`. Spawn it; dropping it releases the lock.
    pub async fn hold_campaign(&self, id: &CampaignId, time: Duration) {
        let hold = Hold::new(self);
        loop {
            // Granted and killed at one moment, it is killed: locks of a transaction that is gone would stay for ever.
            if !self.0.engine.borrow().transactions().contains_key(&hold.trx) {
                return;
            }
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

    pub(super) fn add(&self, thread: Rc<Thread>) {
        self.0.threads.borrow_mut().insert(thread.id, thread);
    }

    /// Rolls back and takes the connection away. The thread itself ends when it is polled next.
    pub(super) fn end(&self, thread: &Thread) {
        thread.is_dead.set(true);
        let trx = thread.trx.replace(Trx::NONE);
        self.0.engine.borrow_mut().rollback(trx, Ok(()));
        self.0.threads.borrow_mut().remove(&thread.id);
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
