//! The REST proxies as a process: `dropgate-rest-proxy redis` and `dropgate-rest-proxy kafka`.

use anyhow::Context;
use axum::Router;
use clap::{Args, Parser, Subcommand};
use dropgate_rest_proxy::{EmptyToken, TOKEN_ENV, Token, kafka_rest, listen, redis_rest, serve, stop_signal};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Both proxies serve GET /healthz and GET /statz without a token, and log to stderr (RUST_LOG=debug for more).
SIGTERM and SIGINT stop them: requests in flight have 20 s to finish.

Examples:
  export DROPGATE_REST_PROXY_TOKEN=secret
  dropgate-rest-proxy redis --redis-url redis://127.0.0.1:6379
  dropgate-rest-proxy kafka --bootstrap 127.0.0.1:9092
  curl -H \"Authorization: Bearer secret\" http://127.0.0.1:8079/ping
  curl -H \"Authorization: Bearer secret\" http://127.0.0.1:8082/topics";

/// REST proxies over a plain Redis (the Upstash Redis REST API) and a plain Kafka (the Kafka REST v2 API).
///
/// Neither supports TLS: they listen on loopback, or behind a server that terminates TLS.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    proxy: Proxy,
}

#[derive(Subcommand)]
enum Proxy {
    /// Serve the Upstash Redis REST API over a Redis.
    Redis {
        /// Address and port to listen on.
        #[arg(long, default_value = "127.0.0.1:8079")]
        listen: SocketAddr,
        /// Address of the Redis: `redis://[[user]:password@]host:port[/db]`.
        #[arg(long, env = redis_rest::REDIS_URL_ENV, default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
        redis_url: String,
        #[command(flatten)]
        common: Common,
    },
    /// Serve the portable part of the Kafka REST v2 API over a Kafka.
    Kafka {
        /// Address and port to listen on.
        #[arg(long, default_value = "127.0.0.1:8082")]
        listen: SocketAddr,
        /// Addresses of the brokers: host:port, comma-separated.
        #[arg(long, env = kafka_rest::KAFKA_BOOTSTRAP_ENV, default_value = "127.0.0.1:9092")]
        bootstrap: String,
        /// Time in ms after which an unacknowledged record is reported as failed.
        #[arg(long, default_value_t = 10_000)]
        message_timeout_ms: u32,
        /// Time in ms that a record waits for others to form a batch.
        #[arg(long, default_value_t = 2)]
        linger_ms: u32,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// The token that callers must send (better in the environment: arguments are visible to all users).
    #[arg(long, env = TOKEN_ENV, hide_env_values = true, default_value = "", hide_default_value = true)]
    token: String,
    /// The largest request body, in bytes.
    #[arg(long, default_value_t = redis_rest::DEFAULT_BODY_LIMIT_BYTES)]
    body_limit_bytes: usize,
    /// Time in s to wait for the upstream at start.
    #[arg(long, default_value_t = 15)]
    start_wait_s: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match start(Cli::parse().proxy).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line with the remedy; a backtrace does not help with a mistyped setting.
            eprintln!("dropgate-rest-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(proxy: Proxy) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    match proxy {
        Proxy::Redis { listen, redis_url, common } => {
            let (token, wait) = common.check()?;
            let upstream = redis_rest::Upstream::connect(&redis_url, wait).await?;
            run("redis", listen, redis_rest::router(upstream, token, common.body_limit_bytes)).await
        }
        Proxy::Kafka { listen, bootstrap, message_timeout_ms, linger_ms, common } => {
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
    /// The settings that can be checked before the wait for the upstream.
    fn check(&self) -> Result<(Token, Duration), EmptyToken> {
        Ok((Token::new(&self.token)?, Duration::from_secs(self.start_wait_s)))
    }
}

async fn run(proxy: &'static str, addr: SocketAddr, router: Router) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot handle SIGTERM and SIGINT")?;
    let listener = listen(addr).await?;
    let addr = listener.local_addr()?;
    if !addr.ip().is_loopback() {
        tracing::warn!(%addr, "the address is not loopback and this proxy has no TLS: put a server with TLS in front");
    }
    tracing::info!(proxy, %addr, "ready");
    serve(listener, router, stop).await?;
    tracing::info!(proxy, "stopped");
    Ok(())
}
