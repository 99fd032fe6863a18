//! The Redis behind the REST API: connecting, staying connected, running commands.

use super::super::{GatewayError, redact};
use super::reply::error_text;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

/// The environment variable that holds the address of the Redis.
pub const REDIS_URL_ENV: &str = "REDIS_URL";

/// A caller gives up long before; this only frees what a dead peer holds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A Redis, over one multiplexed connection that restores itself.
#[derive(Clone)]
pub struct Upstream {
    connection: ConnectionManager,
    _heartbeat: Arc<Heartbeat>,
}

struct Heartbeat(AbortHandle);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upstream {
    /// Connects to the Redis at `url`, trying for `wait` at most.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for an address or a password that Redis refuses,
    /// [`GatewayError::Unreachable`] when the wait is over.
    pub async fn connect(url: &str, wait: Duration) -> Result<Self, GatewayError> {
        let setting = |cause: String| GatewayError::Setting { setting: REDIS_URL_ENV, cause };
        // The crate's message may repeat the address, password included: say only what is expected.
        let unreadable = |_| setting("expected redis://[[user]:password@]host:port[/db]".to_owned());
        let info = url.into_connection_info().map_err(unreadable)?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(unreadable)?;
        let config = ConnectionManagerConfig::new()
            // A request during an outage learns so at once; the heartbeat is what tries again.
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let deadline = Instant::now() + wait;
        let mut last = "no answer".to_owned();
        let connection = loop {
            match timeout_at(deadline, attempt(&client, &config)).await {
                Ok(Ok(connection)) => break connection,
                Ok(Err(Failed::Refused)) => {
                    return Err(setting(format!("{} refuses its user or password", redact(url))));
                }
                Ok(Err(Failed::Absent(cause))) => last = cause,
                Err(_) => {
                    let (url, waited_s) = (redact(url), wait.as_secs());
                    return Err(GatewayError::Unreachable { url, env: REDIS_URL_ENV, waited_s, cause: last });
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        };
        let heartbeat = tokio::spawn(heartbeat(connection.clone())).abort_handle();
        Ok(Self { connection, _heartbeat: Arc::new(Heartbeat(heartbeat)) })
    }

    /// Runs one command. An error is one of the connection; Redis's own is a value.
    pub(super) async fn run(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.connection.clone().send_packed_command(cmd).await
    }

    /// Runs commands written as one piece; `count` answers after the first `skip`.
    pub(super) async fn run_all(
        &self,
        pipeline: &Pipeline,
        skip: usize,
        count: usize,
    ) -> Result<Vec<Value>, RedisError> {
        self.connection.clone().send_packed_commands(pipeline, skip, count).await
    }

    pub(super) async fn ping(&self) -> bool {
        matches!(self.run(&redis::cmd("PING")).await, Ok(Value::SimpleString(_)))
    }
}

enum Failed {
    /// It is there and does not let us in: trying again changes nothing.
    Refused,
    /// It is not there, or not yet serving.
    Absent(String),
}

/// Connects and has one command answered: a server that wants a password accepts a connection without.
async fn attempt(client: &Client, config: &ConnectionManagerConfig) -> Result<ConnectionManager, Failed> {
    let failed = |error: RedisError| match error.kind() {
        ErrorKind::AuthenticationFailed => Failed::Refused,
        _ => Failed::Absent(error.to_string()),
    };
    let mut connection = ConnectionManager::new_with_config(client.clone(), config.clone()).await.map_err(failed)?;
    match connection.send_packed_command(&redis::cmd("PING")).await.map_err(failed)? {
        Value::ServerError(error) if matches!(error.code(), "NOAUTH" | "WRONGPASS" | "NOPERM") => Err(Failed::Refused),
        Value::ServerError(error) => Err(Failed::Absent(error_text(&error))),
        _ => Ok(connection),
    }
}

/// The connection notices its loss only when it is used, and answers the first use after an outage
/// with the stale failure. So it is used.
async fn heartbeat(mut connection: ConnectionManager) {
    let ping = redis::cmd("PING");
    let mut alive = true;
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match connection.send_packed_command(&ping).await {
            Ok(_) if !alive => {
                alive = true;
                tracing::info!("Redis answers again");
            }
            Err(error) if alive => {
                alive = false;
                tracing::warn!(%error, "Redis does not answer; trying again every {} ms", HEARTBEAT.as_millis());
            }
            _ => {}
        }
    }
}
