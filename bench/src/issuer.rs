//! The issuer against the raw ceiling of the database and against a plain consumer that writes one row a
//! message; and what its neighbours on the same database feel.

use crate::neighbour::{self, Point, quantile};
use crate::plot;
use crate::ratio::Spread;
use crate::report::{Report, Table};
use anyhow::{Context as _, Result, ensure};
use dropgate_local::stack::{Part, Probe, Site, Spec, Stack, ports};
use dropgate_shared::code::CodeSecret;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::names::{TOPIC, record_key};
use dropgate_shared::record::AdmissionRecord;
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use sqlx::{MySqlPool, QueryBuilder};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Records in the topic.
    pub records: u32,
    /// Rounds; in every other one the order is the other way round.
    pub rounds: u32,
    /// Seconds that the neighbours are watched, each time.
    pub seconds: u32,
}

const CAMPAIGN: &str = "bench";
/// Rows of one INSERT of the raw ceiling: the best of those tried on the development machine.
const RAW_ROWS: u32 = 1_000;
/// The plain consumer is stopped after so long: its rate is the same at the end.
const PER_MESSAGE_S: u64 = 15;
/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(300);

struct Bench {
    stack: Stack,
    site: Site,
    dir: PathBuf,
    mysql: MySqlPool,
    plan: Plan,
    groups: u32,
}

/// What one run of the issuer has shown.
#[derive(Debug, Clone, Copy)]
struct Run {
    rows_per_s: f64,
    /// From its start to the first settled record.
    first_s: f64,
    rss_mb: f64,
}

fn rate(rows: u32, seconds: f64) -> f64 {
    f64::from(rows) / seconds
}

/// Runs the whole bench and returns what it has to tell.
///
/// # Errors
/// If a server does not come up, or a count is not what it must be.
pub async fn run(repo: &Path, programs: &Path, plan: Plan) -> Result<Report> {
    let dir = repo.join("target/bench/issuer");
    let _ = std::fs::remove_dir_all(&dir);
    let site = Site::new(repo, programs, &dir)?;
    let mut stack = Stack::start(site.clone(), &mut |line| println!("{line}")).await?;
    for part in ["edge", "issuer", "kafka-rest"] {
        stack.stop_part(part).await?;
    }
    let capacity = plan.records.to_string();
    stack.issuer(&["campaign", "create", CAMPAIGN, "--capacity", &capacity])?;
    let mysql = MySqlPool::connect(&stack.endpoints.database_url).await?;
    let mut bench = Bench { stack, site, dir, mysql, plan, groups: 0 };
    bench.preload()?;

    let mut report = Report::default();
    bench.throughput(&mut report).await?;
    bench.neighbours(repo, &mut report).await?;
    let Bench { stack, mysql, .. } = bench;
    mysql.close().await;
    stack.stop().await?;
    Ok(report)
}

fn record(n: u32) -> Result<AdmissionRecord> {
    let slot = Slot::new(n + 1).context("slots begin with 1")?;
    Ok(AdmissionRecord::new(
        CampaignId::parse(CAMPAIGN)?,
        UserId::parse(&format!("user-{n}"))?,
        slot,
        1_763_700_000_000,
        None,
    ))
}

impl Bench {
    /// Fills the topic, as a gate that is much faster than the database.
    fn preload(&self) -> Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.stack.endpoints.kafka_bootstrap).set("linger.ms", "20");
        let producer: ThreadedProducer<_> = config.set("queue.buffering.max.messages", "2000000").create()?;
        for n in 0..self.plan.records {
            let record = record(n)?;
            let key = record_key(&record.campaign, &record.user);
            let value = record.encode();
            producer.send(BaseRecord::to(TOPIC).key(&key).payload(&value)).map_err(|(e, _)| e)?;
        }
        producer.flush(Duration::from_secs(120))?;
        println!("{} records are in the topic", self.plan.records);
        Ok(())
    }

    async fn empty(&self) -> Result<()> {
        sqlx::query("TRUNCATE TABLE coupons").execute(&self.mysql).await?;
        Ok(())
    }

    async fn rows(&self) -> Result<u32> {
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM coupons").fetch_one(&self.mysql).await?;
        Ok(u32::try_from(rows)?)
    }

    fn group(&mut self) -> String {
        self.groups += 1;
        format!("bench-{}", self.groups)
    }

    /// Starts an issuer of a group of its own, which therefore reads the topic from its beginning.
    fn issuer(&mut self, budget: &str) -> Result<(Part, String)> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let mut env = self.stack.endpoints.issuer_env();
        env.extend([
            ("HTTP_LISTEN", listen.clone()),
            ("WRITE_BUDGET", budget.to_owned()),
            ("KAFKA_GROUP", self.group()),
        ]);
        let spec = Spec {
            name: "bench-issuer",
            program: self.site.programs.join("issuer"),
            args: vec!["run".into()],
            env,
            cwd: self.dir.clone(),
            probe: Probe::Output("partitions assigned"),
            stop_within: Duration::from_secs(30),
        };
        Ok((spec.start(&self.dir.join("log"))?, format!("http://{listen}/metrics")))
    }

    /// Waits until the issuer has settled `records`, and tells when the first was.
    async fn settled(&self, metrics: &str, records: u32) -> Result<(Instant, Instant)> {
        let begun = Instant::now();
        let mut first = None;
        loop {
            let settled = metric(metrics, "dropgate_issuer_records_total").await.unwrap_or(0.0);
            if settled > 0.0 {
                first.get_or_insert_with(Instant::now);
            }
            if settled >= f64::from(records) {
                return Ok((first.unwrap_or(begun), Instant::now()));
            }
            ensure!(begun.elapsed() < PATIENCE, "only {settled} of {records} records after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn one_issuer(&mut self) -> Result<Run> {
        let begun = Instant::now();
        let (part, metrics) = self.issuer("unlimited")?;
        let (first, last) = self.settled(&metrics, self.plan.records).await?;
        let rss_mb = resident_mb(part.pid())?;
        part.stop().await?;
        let seconds = last.duration_since(first).as_secs_f64();
        Ok(Run {
            rows_per_s: rate(self.plan.records, seconds),
            first_s: first.duration_since(begun).as_secs_f64(),
            rss_mb,
        })
    }

    /// The ceiling: the same rows by one connection, many in an INSERT, without any Kafka.
    async fn raw(&self) -> Result<f64> {
        let codes = CodeSecret::parse(&self.stack.endpoints.code_secret)?;
        let capacity = self.plan.records;
        let mut connection = self.mysql.acquire().await?;
        let begun = Instant::now();
        let mut first = 0;
        while first < capacity {
            let last = capacity.min(first + RAW_ROWS);
            let mut insert = QueryBuilder::<sqlx::MySql>::new(
                "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) ",
            );
            let rows: Vec<AdmissionRecord> = (first..last).map(record).collect::<Result<_>>()?;
            insert.push_values(rows, |mut row, record| {
                row.push_bind(CAMPAIGN).push_bind(record.slot.get()).push_bind(capacity);
                row.push_bind(record.user.as_str().to_owned()).push_bind(codes.code(&record.campaign, &record.user));
                row.push("'2026-01-01 00:00:00.000'").push("UTC_TIMESTAMP(3)");
            });
            insert.build().execute(&mut *connection).await?;
            first = last;
        }
        Ok(rate(capacity, begun.elapsed().as_secs_f64()))
    }

    /// The plain consumer: a message, a row, a commit of the offset. For so long, or until stopped.
    async fn per_message(&mut self, seconds: u64) -> Result<f64> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.stack.endpoints.kafka_bootstrap)
            .set("group.id", self.group())
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()?;
        consumer.subscribe(&[TOPIC])?;
        let codes = CodeSecret::parse(&self.stack.endpoints.code_secret)?;
        let capacity = self.plan.records;
        let mut begun = None;
        let mut rows = 0;
        while begun.is_none_or(|begun: Instant| begun.elapsed().as_secs() < seconds) && rows < capacity {
            let message = consumer.recv().await?;
            let begun = begun.get_or_insert_with(Instant::now);
            let _ = begun;
            let record = AdmissionRecord::decode(message.payload().unwrap_or_default())?;
            sqlx::query(
                "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) \
                 VALUES (?, ?, ?, ?, ?, '2026-01-01 00:00:00.000', UTC_TIMESTAMP(3))",
            )
            .bind(CAMPAIGN)
            .bind(record.slot.get())
            .bind(capacity)
            .bind(record.user.as_str())
            .bind(codes.code(&record.campaign, &record.user))
            .execute(&self.mysql)
            .await?;
            consumer.commit_message(&message, CommitMode::Async)?;
            rows += 1;
        }
        let seconds = begun.map_or(1.0, |begun| begun.elapsed().as_secs_f64());
        Ok(rate(rows, seconds))
    }

    async fn throughput(&mut self, report: &mut Report) -> Result<()> {
        let (mut ours, mut raw, mut plain, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 1..=self.plan.rounds {
            let mut order = ["issuer", "raw", "per message"];
            if round.is_multiple_of(2) {
                order.reverse();
            }
            for what in order {
                self.empty().await?;
                match what {
                    "issuer" => {
                        let run = self.one_issuer().await?;
                        let rows = self.rows().await?;
                        ensure!(rows == self.plan.records, "{rows} rows of {}", self.plan.records);
                        println!("round {round}  issuer       {:>8.0} rows/s  {run:?}", run.rows_per_s);
                        ours.push(run);
                        // The same records once more: nothing may change.
                        let run = self.one_issuer().await?;
                        ensure!(self.rows().await? == rows, "redelivery changed the rows");
                        println!("round {round}  redelivery   {:>8.0} rows/s", run.rows_per_s);
                        again.push(run);
                    }
                    "raw" => {
                        let rows_per_s = self.raw().await?;
                        println!("round {round}  raw INSERT   {rows_per_s:>8.0} rows/s");
                        raw.push(rows_per_s);
                    }
                    _ => {
                        let rows_per_s = self.per_message(PER_MESSAGE_S).await?;
                        println!("round {round}  per message  {rows_per_s:>8.0} rows/s");
                        plain.push(rows_per_s);
                    }
                }
            }
        }
        let of = |runs: &[Run], value: fn(&Run) -> f64| Spread::of(runs.iter().map(value));
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let row =
            |name: &str, rows: Spread, first: String, rss: String| vec![name.into(), rows.to_string(), first, rss];
        let rows = vec![
            row(
                "issuer, unlimited",
                of(&ours, |run| run.rows_per_s),
                of(&ours, |run| run.first_s).to_string(),
                of(&ours, |run| run.rss_mb).to_string(),
            ),
            row(
                "the same records once more",
                of(&again, |run| run.rows_per_s),
                of(&again, |run| run.first_s).to_string(),
                of(&again, |run| run.rss_mb).to_string(),
            ),
            row("raw INSERT, 1,000 rows each, no Kafka", spread(&raw), String::new(), String::new()),
            row("one row a message", spread(&plain), String::new(), String::new()),
        ];
        let head = vec!["writer", "rows/s", "start to first row, s", "RSS, MB"];
        let title = format!("{} records in the topic, 6 partitions, one member", self.plan.records);
        report.tables.push(Table { title, head, rows });
        let by = |others: &[f64]| Spread::of(ours.iter().zip(others).map(|(run, other)| run.rows_per_s / other));
        let (ceiling, per_message) = (by(&raw), by(&plain));
        report.ratio("issuer.rows.vs_raw_insert", ceiling, Some(("0.7 at least", ceiling.median >= 0.7)));
        report.ratio("issuer.rows.vs_per_message", per_message, Some(("20 at least", per_message.median >= 20.0)));
        let rss = of(&again, |run| run.rss_mb);
        report.ratio("issuer.rss_mb", rss, Some(("100 at most", rss.median <= 100.0)));
        Ok(())
    }

    /// The neighbours' latencies beside `budget`, and the coupons written meanwhile.
    async fn beside(&mut self, who: &str) -> Result<(Vec<Point>, f64)> {
        self.empty().await?;
        let url = self.stack.endpoints.database_url.clone();
        let seconds = self.plan.seconds;
        let points = match who {
            "alone" => neighbour::run(&url, seconds).await?,
            "one row a message" => {
                let (points, _) =
                    tokio::try_join!(neighbour::run(&url, seconds), self.per_message(u64::from(seconds)))?;
                points
            }
            budget => {
                let (part, metrics) = self.issuer(budget)?;
                // Neighbours were there first, and stay.
                let points = neighbour::run(&url, seconds).await?;
                let wait = metric(&metrics, "dropgate_issuer_budget_duty_ratio").await;
                println!("beside {budget}: budget_duty_ratio {wait:?}");
                part.stop().await?;
                points
            }
        };
        Ok((points, rate(self.rows().await?, f64::from(seconds))))
    }

    async fn neighbours(&mut self, repo: &Path, report: &mut Report) -> Result<()> {
        const WHO: [&str; 4] = ["alone", "unlimited", "auto", "one row a message"];
        neighbour::prepare(&self.stack.endpoints.database_url).await?;
        let mut heard: Vec<Vec<(Vec<Point>, f64)>> = vec![Vec::new(); WHO.len()];
        for round in 1..=self.plan.rounds {
            let mut order: Vec<usize> = (0..WHO.len()).collect();
            if round.is_multiple_of(2) {
                order.reverse();
            }
            for at in order {
                let Some((who, heard)) = WHO.get(at).zip(heard.get_mut(at)) else { continue };
                let (points, coupons) = self.beside(who).await?;
                let (p50, p99) = (quantile(&points, 0.5), quantile(&points, 0.99));
                println!(
                    "round {round}  beside {who:<18} p50 {p50:>7.2} ms  p99 {p99:>8.2} ms  {coupons:>8.0} coupons/s"
                );
                heard.push((points, coupons));
            }
        }
        let rows = WHO.iter().zip(&heard).map(|(who, runs)| {
            let coupons = Spread::of(runs.iter().map(|(_, coupons)| *coupons));
            let minutes = 100_000.0 / coupons.median.max(1e-9) / 60.0;
            vec![
                (*who).to_owned(),
                Spread::of(runs.iter().map(|(points, _)| quantile(points, 0.5))).to_string(),
                Spread::of(runs.iter().map(|(points, _)| quantile(points, 0.99))).to_string(),
                coupons.to_string(),
                if coupons.median > 0.0 { format!("{minutes:.1}") } else { String::new() },
            ]
        });
        let head = vec!["beside", "p50 ms", "p99 ms", "coupons/s", "minutes for 100,000 coupons"];
        let title = format!("Orders and sign-ups, 100 a second, for {} s beside each", self.plan.seconds);
        report.tables.push(Table { title, head, rows: rows.collect() });
        let p99 = |at: usize| -> Vec<f64> {
            heard.get(at).into_iter().flatten().map(|(points, _)| quantile(points, 0.99)).collect()
        };
        let alone = p99(0);
        let by = |at: usize| Spread::of(p99(at).iter().zip(&alone).map(|(beside, alone)| beside / alone));
        report.ratio("issuer.neighbour_p99.unlimited_vs_alone", by(1), None);
        report.ratio("issuer.neighbour_p99.auto_vs_alone", by(2), Some(("1.3 at most", by(2).median <= 1.3)));
        report.ratio("issuer.neighbour_p99.per_message_vs_alone", by(3), None);
        let lines = WHO.iter().zip(&heard);
        let lines: Vec<_> = lines.filter_map(|(who, runs)| Some(((*who).to_owned(), runs.last()?.0.clone()))).collect();
        let picture = plot::svg("Orders and sign-ups: p99 of each second, last round", &lines);
        std::fs::create_dir_all(repo.join("docs/img"))?;
        std::fs::write(repo.join("docs/img/neighbour.svg"), picture)?;
        Ok(())
    }
}

/// The sum of a metric over its labels.
async fn metric(url: &str, name: &str) -> Option<f64> {
    let text = dropgate_local::http_client().get(url).send().await.ok()?.text().await.ok()?;
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values = text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Some(values.sum())
}

/// What a process holds in memory, MB.
fn resident_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1024.0)
}
