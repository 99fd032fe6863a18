//! The Redis behind the REST API: connecting, staying connected, running commands.

use super::response::error_text;
use crate::error::StartError;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

/// The environment variable that holds the address of the Redis.
pub const REDIS_URL_ENV: &str = "REDIS_URL";

/// Callers give up long before; this only frees what waits for a dead peer.
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
    /// [`StartError::Setting`] for an invalid address or credentials that Redis rejects,
    /// [`StartError::Unreachable`] when the wait is over.
    pub async fn connect(url: &str, wait: Duration) -> Result<Self, StartError> {
        let setting = |cause: String| StartError::Setting { setting: REDIS_URL_ENV, cause };
        // The crate's message may contain the password: report only what is expected.
        let invalid = |_| setting("expected redis://[[user]:password@]host:port[/db]".to_owned());
        let info = url.into_connection_info().map_err(invalid)?;
        // Host and port: an address of the crate holds no credentials.
        let upstream = format!("Redis at {}", info.addr());
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(invalid)?;
        let config = ConnectionManagerConfig::new()
            // A request during an outage fails at once; the heartbeat reconnects.
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let deadline = Instant::now() + wait;
        let mut last = "no response".to_owned();
        let connection = loop {
            match timeout_at(deadline, attempt(&client, &config)).await {
                Ok(Ok(connection)) => break connection,
                Ok(Err(ConnectError::Rejected)) => {
                    return Err(setting(format!("{upstream} rejects the user or password")));
                }
                Ok(Err(ConnectError::Unavailable(cause))) => last = cause,
                Err(_) => {
                    let waited_s = wait.as_secs();
                    return Err(StartError::Unreachable { upstream, env: REDIS_URL_ENV, waited_s, cause: last });
                }
            }
            tokio::time::sleep(HEARTBEAT).await;
        };
        let heartbeat = tokio::spawn(heartbeat(connection.clone())).abort_handle();
        Ok(Self { connection, _heartbeat: Arc::new(Heartbeat(heartbeat)) })
    }

    /// Runs one command. An `Err` is a failure of the connection; an error of Redis is a value.
    pub(super) async fn run(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.connection.clone().send_packed_command(cmd).await
    }

    /// Runs commands written as one piece; returns `count` replies after the first `skip`.
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

enum ConnectError {
    /// The server rejects the credentials: trying again does not help.
    Rejected,
    /// The server cannot be reached or does not serve yet.
    Unavailable(String),
}

/// Connects and runs one command: a server that requires a password accepts a connection without one.
async fn attempt(client: &Client, config: &ConnectionManagerConfig) -> Result<ConnectionManager, ConnectError> {
    let classify = |error: RedisError| match error.kind() {
        ErrorKind::AuthenticationFailed => ConnectError::Rejected,
        _ => ConnectError::Unavailable(error.to_string()),
    };
    let mut connection = ConnectionManager::new_with_config(client.clone(), config.clone()).await.map_err(classify)?;
    match connection.send_packed_command(&redis::cmd("PING")).await.map_err(classify)? {
        Value::ServerError(error) if matches!(error.code(), "NOAUTH" | "WRONGPASS" | "NOPERM") => {
            Err(ConnectError::Rejected)
        }
        Value::ServerError(error) => Err(ConnectError::Unavailable(error_text(&error))),
        _ => Ok(connection),
    }
}

/// Uses the connection all the time: it notices its loss only when it is used, and reports the old failure
/// at the first use after an outage.
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
                tracing::info!("Redis responds again");
            }
            Err(error) if alive => {
                alive = false;
                tracing::warn!(%error, "Redis does not respond; trying again every {} ms", HEARTBEAT.as_millis());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_names_the_address_and_never_the_credentials() {
        for (url, named) in [
            ("redis://db:6379", "Redis at db:6379"),
            ("redis://:pa@ss@db:6379/0", "Redis at db:6379"),
            ("redis://user:pa@ss@db:6380/0?password=pa@ss", "Redis at db:6380"),
            // TLS is not compiled in.
            ("rediss://user:pa@ss@db:6380?password=pa@ss", "expected redis://"),
            ("db:pa@ss:6379", "expected redis://"),
        ] {
            let message = Upstream::connect(url, Duration::ZERO).await.err().unwrap().to_string();
            assert!(message.contains(named) && message.contains(REDIS_URL_ENV), "{message}");
            assert!(!message.contains("pa@") && !message.contains("@ss"), "{message}");
        }
    }
}
