//! A connection whose statements end in time, at both ends. A statement that gets no answer within its limit is killed
//! in the server: otherwise each try would leave a thread there, until the server accepts no connection any more.

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::mysql::{MySql, MySqlConnectOptions, MySqlConnection, MySqlQueryResult, MySqlRow, MySqlStatement};
use sqlx::{AssertSqlSafe, Connection, Either, Error, Execute, Executor, SqlStr};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the server is given to kill a statement.
const KILL_WITHIN: Duration = Duration::from_secs(4);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A statement, by our clock.
    pub statement: Duration,
    /// A wait of a statement for a table, by the server's: `ALTER`, `LOCK TABLES`, a backup's global read lock.
    pub table_lock: Duration,
    /// After this time without a statement, the server ends the session and its transaction: a process that is frozen
    /// holds no lock for longer.
    pub silence: Duration,
}

impl Limits {
    /// Of the service. Its statements end before the 30 s of a transaction.
    pub const SERVICE: Self = Self {
        statement: Duration::from_secs(25),
        table_lock: Duration::from_secs(10),
        silence: Duration::from_secs(60),
    };
    /// Of an operator's command, which counts many rows, and between two statements talks to Redis or Kafka.
    pub const OPERATOR: Self = Self {
        statement: Duration::from_secs(120),
        table_lock: Duration::from_secs(10),
        silence: Duration::from_secs(600),
    };
}

/// A connection, with what is needed to end what it does.
pub(super) struct Tracked {
    pub(super) raw: MySqlConnection,
    id: u64,
    options: Arc<MySqlConnectOptions>,
    limits: Limits,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The server expects the next statement.
    Idle,
    /// A statement has begun, and the server's answer is not complete.
    Busy,
    /// The server was asked to end the session.
    Killed,
}

impl Tracked {
    /// Limits the session and notes its id in the server.
    pub(super) async fn new(
        mut raw: MySqlConnection,
        options: Arc<MySqlConnectOptions>,
        limits: Limits,
    ) -> Result<Self, Error> {
        let (reads, locks) = (limits.statement, limits.table_lock.as_secs().max(1));
        // Each server skips the other's comment. MySQL's limit is for SELECT only.
        let limit = format!(
            "SET SESSION /*!80000 max_execution_time = {}, */ /*M! max_statement_time = {}, */ \
             lock_wait_timeout = {locks}, wait_timeout = {}",
            reads.as_millis(),
            reads.as_secs_f64(),
            limits.silence.as_secs()
        );
        raw.execute(AssertSqlSafe(limit)).await?;
        let id = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)")
            .persistent(false)
            .fetch_one(&mut raw)
            .await?;
        Ok(Self { raw, id, options, limits, state: State::Idle })
    }

    /// For one statement.
    pub(super) fn timed(&mut self) -> Timed<'_> {
        Timed(self)
    }

    /// Whether it can be used for another statement.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Ends the session in the server, if it is within a statement. Waits for nothing.
    pub(super) fn abandon(self) {
        if self.state != State::Busy {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { kill(&self.options, self.id).await });
        }
    }
}

/// The same user may end its own sessions. If this fails, the limit for locks ends most statements.
async fn kill(options: &MySqlConnectOptions, id: u64) {
    let killed = timeout(KILL_WITHIN, async {
        let mut connection = MySqlConnection::connect_with(options).await?;
        connection.execute(AssertSqlSafe(format!("KILL {id}"))).await?;
        connection.close().await
    });
    match killed.await {
        Ok(Ok(())) => tracing::debug!(id, "a statement without an answer was killed"),
        Ok(Err(error)) => tracing::debug!(id, %error, "a statement without an answer could not be killed"),
        Err(_) => tracing::debug!(id, "the server did not kill a statement in time"),
    }
}

/// Executes one statement within the limit.
pub(super) struct Timed<'c>(&'c mut Tracked);

impl std::fmt::Debug for Timed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Timed").field(&self.0.id).finish()
    }
}

type Answer = Result<Either<MySqlQueryResult, MySqlRow>, Error>;

/// Where a stream of answers is.
enum At<'e> {
    Within(BoxStream<'e, Answer>, &'e mut State),
    End,
}

impl<'c> Executor<'c> for Timed<'c> {
    type Database = MySql;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Answer>
    where
        'c: 'e,
        E: 'q + Execute<'q, MySql>,
    {
        let Tracked { raw, id, options, limits, state } = self.0;
        let (id, until) = (*id, Instant::now() + limits.statement);
        let options: &'e MySqlConnectOptions = options;
        *state = State::Busy;
        let begin = At::Within(raw.fetch_many(query), state);
        stream::unfold(begin, move |at| async move {
            let At::Within(mut answers, state) = at else { return None };
            match timeout_at(until, answers.next()).await {
                Ok(Some(Ok(answer))) => Some((Ok(answer), At::Within(answers, state))),
                Ok(Some(Err(error))) => {
                    *state = after(&error);
                    Some((Err(error), At::End))
                }
                Ok(None) => {
                    *state = State::Idle;
                    None
                }
                Err(_) => {
                    *state = State::Killed;
                    kill(options, id).await;
                    Some((Err(timed_out()), At::End))
                }
            }
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<MySqlRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, MySql>,
    {
        let Tracked { raw, id, options, limits, state } = self.0;
        *state = State::Busy;
        Box::pin(async move {
            let Ok(answer) = timeout(limits.statement, raw.fetch_optional(query)).await else {
                *state = State::Killed;
                kill(options, *id).await;
                return Err(timed_out());
            };
            *state = answer.as_ref().map_or_else(after, |_| State::Idle);
            answer
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [sqlx::mysql::MySqlTypeInfo],
    ) -> BoxFuture<'e, Result<MySqlStatement, Error>>
    where
        'c: 'e,
    {
        self.0.raw.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<MySql>, Error>>
    where
        'c: 'e,
    {
        self.0.raw.describe(sql)
    }
}

/// After its own error the server expects the next statement. After any other nothing is known.
fn after(error: &Error) -> State {
    if matches!(error, Error::Database(_)) { State::Idle } else { State::Busy }
}

fn timed_out() -> Error {
    Error::Io(io::ErrorKind::TimedOut.into())
}
