//! Is a part ready? A probe asks it something that only a working one answers.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer as _};
use sqlx::Connection as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What to ask.
#[derive(Debug, Clone)]
pub enum Probe {
    /// A Redis at this address answers PING.
    Redis(String),
    /// A Kafka at these bootstrap servers tells its metadata.
    Kafka(String),
    /// A database at this URL takes a connection.
    Database(String),
    /// GET on this URL answers 200.
    Http(String),
    /// GET on this URL answers whatever it likes.
    Answer(String),
    /// This text stands in the part's output.
    Output(&'static str),
}

impl Probe {
    /// Asks once. `output` is what the part has printed so far.
    pub async fn content(&self, output: &str) -> bool {
        match self {
            Self::Output(text) => output.contains(text),
            Self::Redis(address) => timeout(ANSWER_WITHIN, ping(address)).await.is_ok_and(|r| r.is_ok()),
            Self::Database(url) => timeout(ANSWER_WITHIN, connect(url)).await.is_ok_and(|r| r.is_ok()),
            Self::Http(url) => timeout(ANSWER_WITHIN, get(url)).await.is_ok_and(|r| r.is_ok()),
            Self::Answer(url) => {
                timeout(ANSWER_WITHIN, crate::http_client().get(url).send()).await.is_ok_and(|r| r.is_ok())
            }
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
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    if &answer == b"+PONG" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

async fn connect(url: &str) -> sqlx::Result<()> {
    // Not closed in form: over a socket that reports an error where the server was quicker.
    sqlx::MySqlConnection::connect(url).await?.ping().await
}

async fn get(url: &str) -> reqwest::Result<()> {
    crate::http_client().get(url).send().await?.error_for_status().map(drop)
}

fn metadata(bootstrap: &str) -> bool {
    let producer: Result<BaseProducer, _> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "0").create();
    producer
        .and_then(|p| p.client().fetch_metadata(None, Duration::from_millis(500)))
        .is_ok_and(|metadata| !metadata.brokers().is_empty())
}
