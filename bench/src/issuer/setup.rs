//! The servers, a campaign with its records in Kafka, and those who turn records into rows.

use crate::machine::rss_mb;
use crate::topics;
use anyhow::{Context as _, Result, bail};
use dropgate_local::stack::{Part, Probe, Site, Spec, Stack, ports};
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

/// The campaign of every record here.
pub const CAMPAIGN: &str = "bench";
/// Between two looks at how many rows there are.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Nothing here takes longer than that without any progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who writes the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// `issuer run` with this write budget.
    Issuer(&'static str),
    /// A plain consumer: one row a transaction.
    PerMessage,
}

impl Writer {
    /// In words, for tables.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Issuer(budget) => format!("issuer, budget {budget}"),
            Self::PerMessage => "a consumer with one row a transaction".to_owned(),
        }
    }
}

/// Everything that runs.
pub struct Ground {
    /// A few connections to the database.
    pub mysql: MySqlPool,
    stack: Stack,
    site: Site,
    groups: u32,
}

/// A running writer.
pub struct Running {
    /// Its process.
    pub part: Part,
    begun: Instant,
    http: String,
}

/// How long rows took.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// From the start of the process to the first row, in seconds.
    pub first_s: f64,
    /// Rows a second, from the first seen to the last.
    pub rate: f64,
}

impl Ground {
    /// Starts Redis, Kafka, MySQL and the gateways, and creates a campaign of `capacity` coupons.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(site: Site, capacity: u32) -> Result<Self> {
        let stack = Stack::start_servers(site.clone(), true, &mut |line| println!("  {line}")).await?;
        let pool = MySqlPoolOptions::new().max_connections(64).test_before_acquire(false);
        let mysql = pool.connect(&stack.endpoints.database_url).await?;
        stack.issuer(&["campaign", "create", CAMPAIGN, "--capacity", &capacity.to_string()])?;
        Ok(Self { mysql, stack, site, groups: 0 })
    }

    /// Stops everything.
    ///
    /// # Errors
    /// If the system cannot tell whether a part has ended.
    pub async fn stop(self) -> Result<()> {
        self.mysql.close().await;
        self.stack.stop().await
    }

    /// Fills a new topic with the admissions of slots 1 to `records`.
    ///
    /// # Errors
    /// If Kafka does not take them.
    pub async fn preload(&self, records: u32, partitions: i32) -> Result<()> {
        let bootstrap = &self.stack.endpoints.kafka_bootstrap;
        topics::recreate(bootstrap, TOPIC, partitions).await?;
        topics::recreate(bootstrap, dropgate_shared::names::DEAD_LETTER_TOPIC, 1).await?;
        self.append(1..=records)
    }

    /// Adds the admissions of these slots.
    ///
    /// # Errors
    /// If Kafka does not take them.
    pub fn append(&self, slots: std::ops::RangeInclusive<u32>) -> Result<()> {
        let producer = self.producer()?;
        for slot in slots {
            send(&producer, slot)?;
        }
        producer.flush(PATIENCE).context("Kafka does not acknowledge the records")
    }

    /// A producer.
    ///
    /// # Errors
    /// If there can be none.
    pub fn producer(&self) -> Result<BaseProducer> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.stack.endpoints.kafka_bootstrap)
            .set("linger.ms", "2")
            .set("acks", "all")
            .create()
            .context("no producer for Kafka")
    }

    /// Where the database is.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.stack.endpoints.database_url.clone()
    }

    /// Removes every coupon.
    ///
    /// # Errors
    /// If the database does not.
    pub async fn clear(&self) -> Result<()> {
        sqlx::query("TRUNCATE TABLE coupons").execute(&self.mysql).await?;
        Ok(())
    }

    /// How many coupons there are.
    ///
    /// # Errors
    /// If the database does not tell.
    pub async fn rows(&self) -> Result<u32> {
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM coupons").fetch_one(&self.mysql).await?;
        Ok(u32::try_from(rows)?)
    }

    /// How many rows the server has ever inserted, into whatever table: cheap to ask.
    ///
    /// # Errors
    /// If the database does not tell.
    pub async fn inserted(&self) -> Result<u64> {
        let (_, value): (String, String) = sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Innodb_rows_inserted'")
            .fetch_one(&self.mysql)
            .await
            .context("this database does not count inserted rows: use MySQL")?;
        Ok(value.parse()?)
    }

    /// Starts a writer that has not read anything yet.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn writer(&mut self, writer: Writer) -> Result<Running> {
        self.groups += 1;
        self.member(writer)
    }

    /// Starts one more of the same group.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn member(&self, writer: Writer) -> Result<Running> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let mut env = self.stack.endpoints.issuer_env();
        env.extend([("KAFKA_GROUP", format!("bench-{}", self.groups)), ("HTTP_LISTEN", listen.clone())]);
        let (name, program, args) = match writer {
            Writer::Issuer(budget) => {
                env.push(("WRITE_BUDGET", budget.to_owned()));
                ("issuer", self.site.programs.join("issuer"), vec!["run".into()])
            }
            Writer::PerMessage => ("per-message", std::env::current_exe()?, vec!["per-message".into()]),
        };
        let spec = Spec {
            name,
            program,
            args,
            env,
            cwd: self.site.dir.clone(),
            probe: Probe::Output("partitions assigned"),
            stop_within: Duration::from_secs(30),
        };
        let begun = Instant::now();
        Ok(Running { part: spec.start(&self.site.logs())?, begun, http: format!("http://{listen}") })
    }

    /// Waits until `writer` has inserted `rows` rows, or as many as it can in `limit`. Nobody else may
    /// insert meanwhile.
    ///
    /// # Errors
    /// If the writer ends, or nothing happens for a minute.
    pub async fn written(&self, writers: &mut [Running], rows: u64, limit: Duration) -> Result<Written> {
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
                #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
                let rate = (now - base - count) as f64 / at.elapsed().as_secs_f64();
                return Ok(Written { first_s: (at - begun).as_secs_f64(), rate });
            }
            for writer in &mut *writers {
                if let Some(status) = writer.part.ended()? {
                    bail!("{} has ended ({status}): {}", writer.part.spec.name, writer.part.output());
                }
            }
            if moved.elapsed() > PATIENCE {
                bail!("{} of {rows} rows, and none for a minute", now - base);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Running {
    /// Records that this issuer has settled so far.
    ///
    /// # Errors
    /// If it does not tell.
    pub async fn settled(&self) -> Result<u64> {
        self.metric("dropgate_issuer_records_total").await
    }

    async fn metric(&self, name: &str) -> Result<u64> {
        let url = format!("{}/metrics", self.http);
        let text = dropgate_local::http_client().get(url).send().await?.error_for_status()?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).with_context(|| format!("the issuer has no metric {name}"))
    }

    /// Waits until this issuer has settled `records`; returns records a second, from the first look
    /// that saw one.
    ///
    /// # Errors
    /// If nothing happens for a minute.
    pub async fn settle(&self, from: u64, records: u64) -> Result<f64> {
        let mut first = None;
        let (mut last, mut moved) = (from, Instant::now());
        loop {
            // It does not listen from its first moment on.
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
                #[expect(clippy::cast_precision_loss, reason = "counts of records")]
                return Ok((now - count) as f64 / at.elapsed().as_secs_f64());
            }
            if moved.elapsed() > PATIENCE {
                bail!("{now} of {records} records, and none for a minute");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Memory it holds now, in MB.
    #[must_use]
    pub fn rss_mb(&self) -> f64 {
        rss_mb(self.part.pid()).map_or(f64::NAN, |(now, _)| now)
    }
}

/// Sends the admission of a slot, as of now.
///
/// # Errors
/// If Kafka does not take it.
pub fn send(producer: &BaseProducer, slot: u32) -> Result<()> {
    let campaign = CampaignId::parse(CAMPAIGN)?;
    let user = UserId::parse(&format!("user-{slot:08}"))?;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let key = record_key(&campaign, &user);
    let value = AdmissionRecord::new(campaign, user, Slot::new(slot)?, now_ms, None).encode();
    let mut record = BaseRecord::to(TOPIC).key(&key).payload(&value);
    loop {
        record = match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                producer.poll(Duration::from_millis(10));
                unsent
            }
            Err((error, _)) => return Err(error).context("Kafka does not take a record"),
        };
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
