//! The REST gateways as a process: `dropgate-gateway redis` and `dropgate-gateway kafka`.

use anyhow::Context;
use axum::Router;
use clap::{Args, Parser, Subcommand};
use dropgate_local::gateway::{GatewayError, TOKEN_ENV, Token, kafka_rest, listen, redis_rest, serve, stop_signal};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// REST gateways in front of a plain Redis and a plain Kafka.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    gateway: Gateway,
}

#[derive(Subcommand)]
enum Gateway {
    /// The Upstash Redis REST API over a Redis.
    Redis {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8079")]
        listen: SocketAddr,
        /// The Redis: `redis://[[user]:password@]host:port[/db]`.
        #[arg(long, env = redis_rest::REDIS_URL_ENV, default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
        redis_url: String,
        #[command(flatten)]
        common: Common,
    },
    /// The portable part of the Kafka REST v2 API over a Kafka.
    Kafka {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8082")]
        listen: SocketAddr,
        /// The brokers: host:port, comma-separated.
        #[arg(long, env = kafka_rest::KAFKA_BOOTSTRAP_ENV, default_value = "127.0.0.1:9092")]
        bootstrap: String,
        /// After how many ms an unacknowledged record is reported as failed.
        #[arg(long, default_value_t = 10_000)]
        message_timeout_ms: u32,
        /// How many ms a record waits for company in a batch.
        #[arg(long, default_value_t = 2)]
        linger_ms: u32,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// The token that callers show.
    #[arg(long, env = TOKEN_ENV, hide_env_values = true, default_value = "")]
    token: String,
    /// The largest request body, in bytes.
    #[arg(long, default_value_t = redis_rest::DEFAULT_BODY_LIMIT_BYTES)]
    body_limit_bytes: usize,
    /// How many seconds to wait for the upstream at start.
    #[arg(long, default_value_t = 15)]
    start_wait_s: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match gateway().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line that says what to do; a backtrace helps nobody who mistyped a setting.
            eprintln!("dropgate-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn gateway() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    match Cli::parse().gateway {
        Gateway::Redis { listen, redis_url, common } => {
            let (token, wait) = common.check()?;
            let upstream = redis_rest::Upstream::connect(&redis_url, wait).await?;
            run("redis", listen, redis_rest::router(upstream, token, common.body_limit_bytes)).await
        }
        Gateway::Kafka { listen, bootstrap, message_timeout_ms, linger_ms, common } => {
            let (token, wait) = common.check()?;
            let settings = kafka_rest::ProducerSettings { bootstrap, message_timeout_ms, linger_ms };
            let upstream = kafka_rest::Upstream::connect(settings, wait).await?;
            run("kafka", listen, kafka_rest::router(upstream.clone(), token, common.body_limit_bytes)).await?;
            upstream.flush().await;
            Ok(())
        }
    }
}

impl Common {
    /// What can be refused without waiting for the upstream.
    fn check(&self) -> Result<(Token, Duration), GatewayError> {
        Ok((Token::new(&self.token)?, Duration::from_secs(self.start_wait_s)))
    }
}

async fn run(gateway: &'static str, addr: SocketAddr, router: Router) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot listen for SIGTERM and SIGINT")?;
    let listener = listen(addr).await?;
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        tracing::warn!(%addr, "not a loopback address, and this gateway speaks no TLS: put something in front that does");
    }
    tracing::info!(gateway, %addr, "ready");
    serve(listener, router, stop).await?;
    tracing::info!(gateway, "stopped");
    Ok(())
}
