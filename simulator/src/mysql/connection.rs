//! A connection, with its thread in the server.
//!
//! The thread carries out one statement after the other, whether anybody waits for the answer or not: a client that
//! drops the future of a statement has no way to take it back, and the server notices that a client is gone only when
//! it next reads from it. So a statement that waits for a lock goes on waiting, holds its connection, and may commit.

use super::engine::{Engine, Halt};
use super::error::{ServerError, lost, pool_timed_out};
use super::faults::{Away, Place, Strike};
use super::locks::{Trx, Wake};
use super::server::{CONNECT_DEADLINE, Server, sleep_ms};
use super::table_locks::{Access, Turn};
use super::thread::Thread;
use dropgate_issuer::store::ports::StoreError;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// How often the pool tries a server that refuses, in ms: sqlx doubles from 10 ms, up to a fifth of what is left.
const FIRST_RETRY_MS: u64 = 10;
const CAP_RETRY_MS: u64 = 1_000;
/// What a connection costs, in statements: the handshake and what the driver and the issuer set.
const STATEMENTS_TO_CONNECT: u64 = 4;

type Job = Pin<Box<dyn Future<Output = ()>>>;

/// The client's end of a connection. Dropping it ends the connection.
#[derive(Debug)]
pub(super) struct Link {
    jobs: mpsc::UnboundedSender<Job>,
    thread: Rc<Thread>,
    server: Server,
}

/// What kind of statement this is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) statement: &'static str,
    pub(super) access: Access,
    /// It writes rows.
    pub(super) writes: bool,
}

impl Kind {
    /// It writes or locks rows.
    fn locks(&self) -> bool {
        self.access.writes != 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Begin,
    Commit,
    Rollback,
}

impl Link {
    /// Opens a connection: spawns its thread.
    pub(super) fn open(server: Server, id: u64) -> (Self, Rc<Thread>) {
        let thread = Rc::new(Thread {
            id,
            trx: Cell::new(Trx::NONE),
            is_explicit: Cell::new(false),
            is_dead: Cell::new(false),
            killed: Notify::new(),
            busy: Cell::new(0),
        });
        let (jobs, queue) = mpsc::unbounded_channel();
        tokio::task::spawn_local(thread.clone().serve(server.clone(), queue));
        (Self { jobs, thread: thread.clone(), server }, thread)
    }

    /// Whether the client can use it for another statement, as far as it knows.
    pub(super) fn is_idle(&self) -> bool {
        self.thread.busy.get() == 0
    }

    /// Makes rows of what a statement will send, which the statement must own.
    pub(super) fn prepare<T>(&self, prepare: impl FnOnce(&mut Engine) -> T) -> T {
        prepare(&mut self.server.0.engine.borrow_mut())
    }

    /// Carries out a statement. `body` is called again after each wait for a lock.
    pub(super) async fn execute<T: 'static>(
        &self,
        kind: Kind,
        body: impl FnMut(&mut Engine, Trx) -> Result<T, Halt> + 'static,
    ) -> Result<T, StoreError> {
        let (server, thread) = (self.server.clone(), self.thread.clone());
        let place = move |thread: &Thread| {
            let commits = kind.writes && !thread.is_explicit.get();
            Place { statement: kind.statement, locks: kind.locks(), commits }
        };
        self.send(async move |strike| thread.statement(&server, kind, body, strike).await, place).await
    }

    pub(super) async fn control(&self, control: Control) -> Result<(), StoreError> {
        let (server, thread) = (self.server.clone(), self.thread.clone());
        let statement = match control {
            Control::Begin => "begin",
            Control::Commit => "commit",
            Control::Rollback => "rollback",
        };
        let commits = control == Control::Commit;
        let place = move |_: &Thread| Place { statement, locks: false, commits };
        self.send(async move |strike| thread.control(&server, control, strike).await, place).await
    }

    async fn send<T: 'static>(
        &self,
        body: impl AsyncFnOnce(Option<Strike>) -> Result<T, ServerError> + 'static,
        place: impl FnOnce(&Thread) -> Place + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let (server, thread) = (self.server.clone(), self.thread.clone());
        thread.busy.set(thread.busy.get() + 1);
        let job = async move {
            if let Some(result) = thread.carry_out(&server, body, place).await {
                let _ = answer.send(result);
            }
            thread.busy.set(thread.busy.get() - 1);
        };
        let gone = || lost("error communicating with database: the connection was lost");
        self.jobs.send(Box::pin(job)).map_err(|_| gone())?;
        Ok(answered.await.map_err(|_| gone())??)
    }
}

impl Thread {
    async fn serve(self: Rc<Self>, server: Server, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let serve = async {
            while let Some(job) = jobs.recv().await {
                job.await;
                if self.is_dead.get() {
                    return;
                }
            }
            // The client has gone.
            sleep_ms(server.0.settings.get().notice_ms).await;
        };
        tokio::select! {
            biased;
            () = self.killed.notified() => {}
            () = serve => {}
        }
        server.end(&self);
    }

    /// From the client's send to the server's answer. `None`: the connection is cut.
    async fn carry_out<T>(
        &self,
        server: &Server,
        body: impl AsyncFnOnce(Option<Strike>) -> Result<T, ServerError>,
        place: impl FnOnce(&Self) -> Place,
    ) -> Option<Result<T, ServerError>> {
        let place = place(self);
        server.reach(place.statement).await;
        let statement_ms = server.0.settings.get().statement_ms;
        let slow_ms = server.0.faults.borrow().slow_ms;
        if slow_ms > 0 {
            server.report("slow", place.statement);
        }
        sleep_ms(statement_ms - statement_ms / 2 + slow_ms).await;
        *server.0.statements.borrow_mut().entry(place.statement).or_default() += 1;
        let strike = server.strike(&place);
        if strike == Some(Strike::CutBefore) {
            self.is_dead.set(true);
            return None;
        }
        let result = body(strike).await;
        if strike == Some(Strike::CutAfter) {
            self.is_dead.set(true);
            return None;
        }
        sleep_ms(statement_ms / 2).await;
        server.reach(place.statement).await;
        Some(result)
    }

    async fn statement<T>(
        &self,
        server: &Server,
        kind: Kind,
        mut body: impl FnMut(&mut Engine, Trx) -> Result<T, Halt>,
        strike: Option<Strike>,
    ) -> Result<T, ServerError> {
        if kind.locks() && server.0.faults.borrow().is_read_only {
            server.report("read_only", kind.statement);
            return Err(ServerError::read_only());
        }
        if kind.locks() && self.trx.get() == Trx::NONE {
            self.trx.set(server.0.engine.borrow_mut().begin());
        }
        if strike == Some(Strike::Deadlock) {
            self.roll_back(server);
            return Err(ServerError::deadlock());
        }
        let trx = self.trx.get();
        let before = server.0.engine.borrow().changes(trx);
        let result = async {
            table_turn(server, kind.statement, |engine| engine.use_tables(trx, kind.access)).await?;
            loop {
                let step = body(&mut server.0.engine.borrow_mut(), trx);
                match step {
                    Ok(value) => return Ok(value),
                    Err(Halt::Error(error)) => return Err(error),
                    Err(Halt::Wait(wake)) => self.wait(server, kind, wake).await?,
                }
            }
        };
        let result = result.await;
        match &result {
            Err(error) if error.is_deadlock() => {
                server.report("deadlock", kind.statement);
                // The engine has done it already if the deadlock is about rows.
                self.roll_back(server);
            }
            Err(_) if self.is_explicit.get() => server.0.engine.borrow_mut().roll_back_to(trx, before),
            Err(_) => self.roll_back(server),
            Ok(_) if self.is_explicit.get() => {}
            Ok(_) => {
                server.0.engine.borrow_mut().commit(trx);
                self.trx.set(Trx::NONE);
            }
        }
        result
    }

    /// Rolls the whole transaction back: what follows is outside one.
    fn roll_back(&self, server: &Server) {
        server.0.engine.borrow_mut().rollback(self.trx.replace(Trx::NONE), Ok(()));
        self.is_explicit.set(false);
    }

    /// Waits for a lock on a row.
    async fn wait(&self, server: &Server, kind: Kind, wake: Wake) -> Result<(), ServerError> {
        server.report("lock_wait", kind.statement);
        let limit = Duration::from_millis(server.0.settings.get().lock_wait_ms);
        match timeout(limit, wake).await {
            // The transaction was ended, and with it this thread.
            Ok(woken) => woken.unwrap_or_else(|_| Err(ServerError::deadlock())),
            Err(_) => {
                server.0.engine.borrow_mut().cancel_wait(self.trx.get());
                server.report("lock_wait_timeout", kind.statement);
                Err(ServerError::lock_wait_timeout())
            }
        }
    }

    async fn control(&self, server: &Server, control: Control, strike: Option<Strike>) -> Result<(), ServerError> {
        if strike == Some(Strike::Deadlock) {
            self.roll_back(server);
            return Err(ServerError::deadlock());
        }
        let trx = self.trx.get();
        if control == Control::Commit && server.0.engine.borrow().has_changed(trx) {
            if server.0.faults.borrow().is_read_only {
                server.report("read_only", "commit");
                self.roll_back(server);
                return Err(ServerError::read_only());
            }
            let turn = |engine: &mut Engine| engine.table_locks.check_commit();
            table_turn(server, "commit", turn).await?;
        }
        match control {
            Control::Rollback => self.roll_back(server),
            // To begin commits what is open.
            Control::Begin | Control::Commit => {
                server.0.engine.borrow_mut().commit(self.trx.replace(Trx::NONE));
                self.is_explicit.set(control == Control::Begin);
            }
        }
        if control == Control::Begin {
            self.trx.set(server.0.engine.borrow_mut().begin());
        }
        Ok(())
    }
}

impl Server {
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
        self.add(thread);
        Ok(Some(link))
    }
}

/// Waits for metadata locks.
async fn table_turn(
    server: &Server,
    statement: &'static str,
    mut check: impl FnMut(&mut Engine) -> Turn,
) -> Result<(), ServerError> {
    let mut is_reported = false;
    let until = Instant::now() + Duration::from_millis(server.0.settings.get().table_lock_ms);
    loop {
        let changed = {
            let mut engine = server.0.engine.borrow_mut();
            match check(&mut engine) {
                Turn::Granted => return Ok(()),
                Turn::Deadlock => return Err(ServerError::deadlock()),
                Turn::Wait => engine.table_locks.change(),
            }
        };
        if !is_reported {
            server.report("table_lock_wait", statement);
            is_reported = true;
        }
        if timeout_at(until, changed.notified()).await.is_err() {
            server.report("table_lock_timeout", statement);
            return Err(ServerError::lock_wait_timeout());
        }
    }
}
