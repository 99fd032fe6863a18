//! Probes: requests to which only a working process responds.

use crate::http::http_client;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer as _};
use sqlx::Connection as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// When a process is ready.
#[derive(Debug, Clone)]
pub enum Probe {
    /// A Redis at this address responds to PING.
    Redis(String),
    /// A Kafka at these bootstrap servers returns its metadata.
    Kafka(String),
    /// A database at this URL accepts a connection.
    Database(String),
    /// GET of this URL returns 200.
    Http(String),
    /// GET of this URL returns any response.
    AnyHttp(String),
    /// The output of the process contains this text.
    Output(&'static str),
}

impl Probe {
    /// Probes once. `output` is what the process has printed so far.
    pub async fn is_ready(&self, output: &str) -> bool {
        match self {
            Self::Output(text) => output.contains(text),
            Self::Redis(address) => timeout(TIMEOUT, ping(address)).await.is_ok_and(|r| r.is_ok()),
            Self::Database(url) => timeout(TIMEOUT, connect(url)).await.is_ok_and(|r| r.is_ok()),
            Self::Http(url) => timeout(TIMEOUT, get(url)).await.is_ok_and(|r| r.is_ok()),
            Self::AnyHttp(url) => timeout(TIMEOUT, http_client().get(url).send()).await.is_ok_and(|r| r.is_ok()),
            Self::Kafka(bootstrap) => {
                let bootstrap = bootstrap.clone();
                tokio::task::spawn_blocking(move || metadata(&bootstrap)).await.unwrap_or(false)
            }
        }
    }
}

async fn ping(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await?;
    if &reply == b"+PONG" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

async fn connect(url: &str) -> sqlx::Result<()> {
    // Dropped instead of closed: to close a socket that the server has closed first is an error.
    sqlx::MySqlConnection::connect(url).await?.ping().await
}

async fn get(url: &str) -> reqwest::Result<()> {
    http_client().get(url).send().await?.error_for_status().map(drop)
}

fn metadata(bootstrap: &str) -> bool {
    let producer: Result<BaseProducer, _> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "0").create();
    producer
        .and_then(|p| p.client().fetch_metadata(None, Duration::from_millis(500)))
        .is_ok_and(|metadata| !metadata.brokers().is_empty())
}
