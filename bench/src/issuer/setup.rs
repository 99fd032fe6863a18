//! The servers, a campaign with its records in Kafka, and the writers of its rows.

use crate::machine::rss_mb;
use crate::topics;
use anyhow::{Context as _, Result, bail};
use dropgate_devstack::{Paths, Process, Stack};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::names::{TOPIC, record_key};
use dropgate_shared::record::AdmissionRecord;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

pub const CAMPAIGN: &str = "bench";
/// Coupons of the campaign: more than any scenario writes.
pub const CAPACITY: u32 = 20_000_000;
/// Between two counts of the rows.
const POLL_EVERY: Duration = Duration::from_millis(10);
/// After this time without progress the run is given up.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that writes the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// `issuer run` with this write budget.
    Issuer(&'static str),
    /// A plain consumer with one row per transaction.
    PerMessage,
}

impl Writer {
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Issuer(budget) => format!("issuer, budget {budget}"),
            Self::PerMessage => "a consumer with one row per transaction".to_owned(),
        }
    }
}

/// The servers of the comparison.
pub struct IssuerSetup {
    pub mysql: MySqlPool,
    stack: Stack,
    groups: u32,
}

pub struct RunningWriter {
    pub process: Process,
    begun: Instant,
    http: String,
}

#[derive(Debug, Clone, Copy)]
pub struct WriteSpeed {
    /// From the start of the process to the first row, in seconds.
    pub first_s: f64,
    /// Rows a second, from the first observed row to the last.
    pub rate: f64,
}

impl IssuerSetup {
    /// Starts the servers and creates the campaign.
    pub async fn start(paths: Paths) -> Result<Self> {
        let stack = Stack::start_servers(paths, true, &mut |line| println!("  {line}")).await?;
        let pool = MySqlPoolOptions::new().max_connections(64).test_before_acquire(false);
        let mysql = pool.connect(&stack.endpoints.database_url).await?;
        stack.run_issuer(&["campaign", "create", CAMPAIGN, "--capacity", &CAPACITY.to_string()])?;
        Ok(Self { mysql, stack, groups: 0 })
    }

    pub async fn stop(self) -> Result<()> {
        self.mysql.close().await;
        self.stack.stop().await
    }

    /// Fills a new topic with the admissions of slots 1 to `records`.
    pub async fn preload(&self, records: u32, partitions: i32) -> Result<()> {
        let bootstrap = &self.stack.endpoints.kafka_bootstrap;
        topics::recreate(bootstrap, TOPIC, partitions).await?;
        topics::recreate(bootstrap, dropgate_shared::names::DEAD_LETTER_TOPIC, 1).await?;
        self.append(1..=records)
    }

    /// Adds the admissions of these slots.
    pub fn append(&self, slots: std::ops::RangeInclusive<u32>) -> Result<()> {
        let producer = self.producer()?;
        for slot in slots {
            send(&producer, slot)?;
        }
        producer.flush(PROGRESS_TIMEOUT).context("Kafka did not acknowledge the records")
    }

    pub fn producer(&self) -> Result<BaseProducer> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.stack.endpoints.kafka_bootstrap)
            .set("linger.ms", "2")
            .set("acks", "all")
            .create()
            .context("cannot create a Kafka producer")
    }

    #[must_use]
    pub fn database_url(&self) -> String {
        self.stack.endpoints.database_url.clone()
    }

    /// Deletes every coupon.
    pub async fn clear(&self) -> Result<()> {
        sqlx::query("TRUNCATE TABLE coupons").execute(&self.mysql).await?;
        Ok(())
    }

    /// The number of coupons.
    pub async fn rows(&self) -> Result<u32> {
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM coupons").fetch_one(&self.mysql).await?;
        Ok(u32::try_from(rows)?)
    }

    /// The number of rows that the server has inserted since its start, into any table. A cheap query.
    pub async fn inserted(&self) -> Result<u64> {
        let (_, value): (String, String) = sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Innodb_rows_inserted'")
            .fetch_one(&self.mysql)
            .await
            .context("this database has no counter of inserted rows; use MySQL")?;
        Ok(value.parse()?)
    }

    /// Starts a writer in a new consumer group.
    pub fn writer(&mut self, writer: Writer) -> Result<RunningWriter> {
        self.groups += 1;
        self.member(writer)
    }

    /// Starts one more writer in the same group.
    pub fn member(&self, writer: Writer) -> Result<RunningWriter> {
        let group = format!("bench-{}", self.groups);
        let (name, budget) = match writer {
            Writer::Issuer(budget) => ("issuer", budget),
            Writer::PerMessage => ("per-message", ""),
        };
        let (mut spec, http) = self.stack.issuer_spec(name, &[("KAFKA_GROUP", &group), ("WRITE_BUDGET", budget)])?;
        if writer == Writer::PerMessage {
            (spec.program, spec.args) = (std::env::current_exe()?, vec!["per-message".into()]);
        }
        let begun = Instant::now();
        Ok(RunningWriter { process: spec.start(&self.stack.paths.logs())?, begun, http })
    }

    /// Waits until the writers have inserted `rows` rows, or until `limit` after the first row. No other
    /// program may insert meanwhile.
    ///
    /// # Errors
    /// If a writer ends, or without progress for a minute.
    pub async fn write_speed(&self, writers: &mut [RunningWriter], rows: u64, limit: Duration) -> Result<WriteSpeed> {
        let begun = writers.first().map_or_else(Instant::now, |writer| writer.begun);
        let base = self.inserted().await?;
        let (mut last, mut moved) = (base, Instant::now());
        let mut first: Option<(Instant, u64)> = None;
        loop {
            let now = self.inserted().await?;
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if first.is_none() && now > base {
                first = Some((Instant::now(), now - base));
            }
            let done = now - base >= rows;
            if let Some((at, count)) = first
                && (done || at.elapsed() >= limit)
            {
                let rate = (now - base - count) as f64 / at.elapsed().as_secs_f64();
                return Ok(WriteSpeed { first_s: (at - begun).as_secs_f64(), rate });
            }
            for writer in &mut *writers {
                if let Some(status) = writer.process.exit_status()? {
                    bail!("{} has ended ({status}): {}", writer.process.spec.name, writer.process.output());
                }
            }
            if moved.elapsed() > PROGRESS_TIMEOUT {
                bail!("{} of {rows} rows, and no progress for a minute", now - base);
            }
            sleep(POLL_EVERY).await;
        }
    }
}

impl RunningWriter {
    /// The number of records that this issuer has settled.
    async fn settled(&self) -> Result<u64> {
        let name = "dropgate_issuer_records_total";
        let url = format!("{}/metrics", self.http);
        let text = dropgate_devstack::http_client().get(url).send().await?.error_for_status()?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).with_context(|| format!("the issuer has no metric {name}"))
    }

    /// Waits until this issuer has settled `records`. Returns records a second, from the first observed
    /// record.
    ///
    /// # Errors
    /// Without progress for a minute.
    pub async fn settle_speed(&self, from: u64, records: u64) -> Result<f64> {
        let mut first = None;
        let (mut last, mut moved) = (from, Instant::now());
        loop {
            // It does not listen yet at its start.
            let now = self.settled().await.unwrap_or(last);
            if now > last {
                (last, moved) = (now, Instant::now());
            }
            if first.is_none() && now > from {
                first = Some((Instant::now(), now));
            }
            if let Some((at, count)) = first
                && now >= records
            {
                return Ok((now - count) as f64 / at.elapsed().as_secs_f64());
            }
            if moved.elapsed() > PROGRESS_TIMEOUT {
                bail!("{now} of {records} records, and no progress for a minute");
            }
            sleep(POLL_EVERY).await;
        }
    }

    #[must_use]
    pub fn rss_mb(&self) -> f64 {
        rss_mb(self.process.pid()).map_or(f64::NAN, |(now, _)| now)
    }
}

/// Sends the admission of a slot with the present time.
pub fn send(producer: &BaseProducer, slot: u32) -> Result<()> {
    let campaign = CampaignId::parse(CAMPAIGN)?;
    let user = UserId::parse(&format!("user-{slot:08}"))?;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let key = record_key(&campaign, &user);
    let value =
        AdmissionRecord { campaign, user, slot: Slot::new(slot)?, admitted_at: now_ms, trace: None, code_key: None }
            .encode();
    let mut record = BaseRecord::to(TOPIC).key(&key).payload(&value);
    loop {
        record = match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                producer.poll(Duration::from_millis(10));
                unsent
            }
            Err((error, _)) => return Err(error).context("Kafka did not accept a record"),
        };
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
