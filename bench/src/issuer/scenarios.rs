//! What is measured.

use super::args::IssuerArgs;
use super::neighbour::{self, NeighbourRequest, RATE};
use super::peers::raw_insert;
use super::setup::{CAMPAIGN, IssuerSetup, RunningWriter, Writer, send};
use crate::report::{Report, cell};
use crate::stats::{Spread, Target, short};
use anyhow::{Result, ensure};
use dropgate_burst::report::chart::LatencyPanel;
use dropgate_burst::report::latency::{histogram_us, quantile_ms};
use std::ops::Range;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Partitions where the scenario does not vary them: as the issuer creates the topic.
const PARTITIONS: i32 = 6;
/// The best of these batch sizes is the ceiling.
const RAW_BATCHES: [u32; 3] = [500, 1_000, 2_000];
/// How long the consumer without batches is observed; its rate is constant.
const OBSERVED: Duration = Duration::from_secs(10);
const NO_LIMIT: Duration = Duration::from_secs(3600);
const FASTEST: Writer = Writer::Issuer("unlimited");

async fn end(writers: Vec<RunningWriter>) -> Result<()> {
    for RunningWriter { process, .. } in writers {
        process.stop().await?;
    }
    Ok(())
}

/// Runs one writer alone; returns (seconds to its first row, rows a second).
async fn write_alone(setup: &mut IssuerSetup, writer: Writer, rows: u32, limit: Duration) -> Result<(f64, f64)> {
    let mut writers = vec![setup.writer(writer)?];
    let speed = setup.write_speed(&mut writers, rows.into(), limit).await?;
    end(writers).await?;
    Ok((speed.first_s, speed.rate))
}

/// Rows a second of the issuer, of INSERT without Kafka and of a consumer without batches; redelivery of all
/// records; memory.
pub async fn rows(setup: &mut IssuerSetup, args: &IssuerArgs, report: &mut Report) -> Result<()> {
    let records = args.records;
    setup.preload(records, PARTITIONS).await?;
    let mut best = (0.0, 0);
    // Twice: the first time the caches of the server are cold.
    for batch in RAW_BATCHES.into_iter().chain(RAW_BATCHES) {
        setup.clear().await?;
        let rate = raw_insert(&setup.database_url(), records / 10, batch).await?;
        println!("raw insert, {batch} rows a statement: {} rows/s", short(rate));
        if rate > best.0 {
            best = (rate, batch);
        }
    }
    let [mut raws, mut issuers, mut singles, mut again, mut firsts] = [const { Vec::new() }; 5];
    for round in 0..args.rounds {
        let show = |what: &str, rate| println!("rows  round {}  {what:<19} {:>8} a second", round + 1, short(rate));
        for turn in 0..3 {
            setup.clear().await?;
            match (round + turn) % 3 {
                0 => {
                    let rate = raw_insert(&setup.database_url(), records, best.1).await?;
                    show("raw insert", rate);
                    raws.push(rate);
                }
                1 => {
                    let (first_s, rate) = write_alone(setup, FASTEST, records, NO_LIMIT).await?;
                    ensure!(setup.rows().await? == records, "{} of {records} rows", setup.rows().await?);
                    show("issuer", rate);
                    issuers.push(rate);
                    firsts.push(first_s);
                    let writer = setup.writer(FASTEST)?;
                    let rate = writer.settle_speed(0, records.into()).await?;
                    end(vec![writer]).await?;
                    ensure!(setup.rows().await? == records, "redelivery has changed the rows");
                    show("issuer, redelivery", rate);
                    again.push(rate);
                }
                _ => {
                    let (_, rate) = write_alone(setup, Writer::PerMessage, records, OBSERVED).await?;
                    show("per message", rate);
                    singles.push(rate);
                }
            }
        }
    }
    let (once_mb, twice_mb) = memory(setup, records).await?;

    report.say(&format!(
        "### Rows a second\n\n{} records are in {PARTITIONS} partitions. The ceiling is a multi-row INSERT of the same \
         rows over one connection, {} rows per transaction, the best of {RAW_BATCHES:?}. The consumer with one row per \
         transaction is observed for {} s. Redelivery: all records once more, when every row exists.",
        short(records.into()),
        best.1,
        OBSERVED.as_secs()
    ));
    report.table(
        &["writer", "rows/s"],
        vec![
            vec!["ceiling: INSERT without Kafka".to_owned(), cell(&raws)],
            vec![FASTEST.label(), cell(&issuers)],
            vec!["the same, redelivery (no row changes)".to_owned(), cell(&again)],
            vec![Writer::PerMessage.label(), cell(&singles)],
        ],
    );
    report.say(&format!(
        "From the start of the issuer's process to its first row: {} s. Memory of the issuer after {} records: {} MB, \
         after twice as many: {} MB.",
        cell(&firsts),
        short(records.into()),
        short(once_mb),
        short(twice_mb)
    ));
    report.ratio("issuer.rows.vs_raw_insert", Spread::ratio(&issuers, &raws), Target::AtLeast(0.7));
    report.ratio("issuer.rows.vs_per_message", Spread::ratio(&issuers, &singles), Target::AtLeast(20.0));
    report.ratio("issuer.rows_per_s", Spread::of(&issuers), Target::None);
    report.ratio("issuer.redelivery.records_per_s", Spread::of(&again), Target::None);
    report.ratio("issuer.first_row_s", Spread::of(&firsts), Target::None);
    report.ratio("issuer.rss_mb", Spread::of(&[twice_mb]), Target::AtMost(100.0));
    report.ratio("issuer.rss_twice_vs_once", Spread::of(&[twice_mb / once_mb]), Target::AtMost(1.1));
    Ok(())
}

/// Memory of one issuer after all records, and after all of them once more.
async fn memory(setup: &mut IssuerSetup, records: u32) -> Result<(f64, f64)> {
    setup.clear().await?;
    let writer = setup.writer(FASTEST)?;
    writer.settle_speed(0, records.into()).await?;
    let once_mb = writer.rss_mb();
    setup.append(1..=records)?;
    writer.settle_speed(records.into(), u64::from(records) * 2).await?;
    let twice_mb = writer.rss_mb();
    end(vec![writer]).await?;
    ensure!(setup.rows().await? == records, "redelivery has changed the rows");
    Ok((once_mb, twice_mb))
}

/// From the admission to the row, at a steady rate.
pub async fn latency(setup: &mut IssuerSetup, args: &IssuerArgs, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for rate in [100_u32, 1_000, 5_000] {
        let [mut p50, mut p99] = [const { Vec::new() }; 2];
        for round in 0..args.rounds {
            setup.clear().await?;
            setup.preload(0, PARTITIONS).await?;
            let mut writer = setup.writer(FASTEST)?;
            writer.process.ready().await?;
            let producer = setup.producer()?;
            let (count, begun) = (rate * 5, Instant::now());
            for slot in 1..=count {
                sleep_until(begun + Duration::from_secs(5).mul_f64(f64::from(slot) / f64::from(count))).await;
                send(&producer, slot)?;
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while setup.rows().await? < count {
                ensure!(Instant::now() < deadline, "{} of {count} rows after a minute", setup.rows().await?);
                sleep(Duration::from_millis(50)).await;
            }
            end(vec![writer]).await?;
            let took_us: Vec<i64> = sqlx::query_scalar(
                "SELECT TIMESTAMPDIFF(MICROSECOND, admitted_at, issued_at) FROM coupons WHERE campaign_id = ?",
            )
            .bind(CAMPAIGN)
            .fetch_all(&setup.mysql)
            .await?;
            let histogram = histogram_us(took_us.into_iter().map(|us| u64::try_from(us).unwrap_or(0)))?;
            let [at_50, at_99] = [0.5, 0.99].map(|quantile| quantile_ms(&histogram, quantile));
            println!("latency  round {}  {rate}/s  p50 {} ms  p99 {} ms", round + 1, short(at_50), short(at_99));
            p50.push(at_50);
            p99.push(at_99);
        }
        rows.push(vec![short(rate.into()), cell(&p50), cell(&p99)]);
        report.ratio(&format!("issuer.latency_{rate}_per_s.p99_ms"), Spread::of(&p99), Target::None);
    }
    report.say(
        "### From the admission to the row\n\nAdmissions at a steady rate for 5 s. The times are those in the rows, so \
         the commit itself is not included.",
    );
    report.table(&["admissions/s", "p50 ms", "p99 ms"], rows);
    Ok(())
}

/// More partitions, more members.
pub async fn growth(setup: &mut IssuerSetup, args: &IssuerArgs, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for (partitions, members) in [(1, 1), (2, 2), (4, 4)] {
        setup.preload(args.fewer(), partitions).await?;
        let mut rates = Vec::new();
        for round in 0..args.rounds {
            setup.clear().await?;
            let mut writers = vec![setup.writer(FASTEST)?];
            for _ in 1..members {
                writers.push(setup.member(FASTEST)?);
            }
            let rate = setup.write_speed(&mut writers, args.fewer().into(), NO_LIMIT).await?.rate;
            end(writers).await?;
            ensure!(setup.rows().await? == args.fewer(), "rows are missing");
            println!("growth  round {}  {partitions} and {members}: {} rows/s", round + 1, short(rate));
            rates.push(rate);
        }
        rows.push(vec![partitions.to_string(), members.to_string(), cell(&rates)]);
    }
    report.say(&format!(
        "### Partitions and members\n\n{} records. The members start together; the first one writes while the others \
         get their partitions. The members and MySQL share the cores of one machine.",
        short(args.fewer().into())
    ));
    report.table(&["partitions", "members", "rows/s"], rows);
    Ok(())
}

/// The neighbour beside one writer.
struct Observation {
    requests: Vec<NeighbourRequest>,
    /// While coupons were written, in seconds from the start.
    writing: Range<f64>,
    all_coupons_s: f64,
}

/// The neighbour works for this long before a writer starts.
const BEFORE: Duration = Duration::from_secs(5);
/// How long the neighbour is observed without a writer.
const ALONE: Duration = Duration::from_secs(20);
/// A writer that takes longer is ended, and the time of all rows is extrapolated from its rate.
const LONGEST: Duration = Duration::from_secs(60);

async fn observe(setup: &mut IssuerSetup, writer: Option<Writer>, coupons: u32, seed: u64) -> Result<Observation> {
    setup.clear().await?;
    let begun = Instant::now();
    let mysql = setup.mysql.clone();
    let until = async {
        sleep(BEFORE).await;
        let Some(writer) = writer else {
            let from = Instant::now();
            sleep(ALONE).await;
            return Ok((from, Instant::now(), 0.0));
        };
        let before = setup.inserted().await?;
        let running = setup.writer(writer)?;
        let started = Instant::now();
        while setup.rows().await? == 0 {
            ensure!(started.elapsed() < Duration::from_secs(60), "no row within a minute");
            sleep(Duration::from_millis(20)).await;
        }
        let from = Instant::now();
        let mut rows = 0;
        while rows < coupons && from.elapsed() < LONGEST {
            sleep(Duration::from_millis(250)).await;
            // Counting the rows loads the database: only when they may be complete.
            if setup.inserted().await?.saturating_sub(before) >= coupons.into() {
                rows = setup.rows().await?;
            }
        }
        let to = Instant::now();
        end(vec![running]).await?;
        let rows = setup.rows().await?;
        let all_coupons_s = (to - from).as_secs_f64() * f64::from(coupons) / f64::from(rows.max(1));
        sleep(Duration::from_secs(3)).await;
        Ok((from, to, all_coupons_s))
    };
    let (requests, (from, to, all_coupons_s)) = neighbour::run(&mysql, begun, seed, until).await?;
    Ok(Observation { requests, writing: (from - begun).as_secs_f64()..(to - begun).as_secs_f64(), all_coupons_s })
}

/// Orders and sign-ups on the same database, alone and beside each writer. Returns the last round.
pub async fn neighbour(setup: &mut IssuerSetup, args: &IssuerArgs, report: &mut Report) -> Result<Vec<LatencyPanel>> {
    let coupons = args.fewer();
    setup.preload(coupons, PARTITIONS).await?;
    neighbour::create_tables(&setup.mysql).await?;
    let conditions = [None, Some(FASTEST), Some(Writer::Issuer("auto")), Some(Writer::PerMessage)];
    let label = |writer: Option<Writer>| writer.map_or_else(|| "alone".to_owned(), Writer::label);
    let mut figures: [[Vec<f64>; 3]; 4] = Default::default();
    let mut panels: Vec<LatencyPanel> = Vec::new();
    for round in 0..args.rounds {
        panels.clear();
        for turn in 0..conditions.len() {
            let at = (round as usize + turn) % conditions.len();
            let (Some(writer), Some([p50s, p99s, took])) = (conditions.get(at), figures.get_mut(at)) else { continue };
            let seed = u64::from(round) * 10 + at as u64;
            let Observation { requests, writing, all_coupons_s } = observe(setup, *writer, coupons, seed).await?;
            let (p50, p99) = neighbour::p50_and_p99_ms(&requests, &writing)?;
            p50s.push(p50);
            p99s.push(p99);
            took.push(all_coupons_s);
            println!(
                "neighbour  round {}  {:<40} p50 {:>6} ms  p99 {:>6} ms  coupons in {} s",
                round + 1,
                label(*writer),
                short(p50),
                short(p99),
                short(all_coupons_s)
            );
            let [median, p99] = neighbour::by_second(&requests)?;
            let shaded = writer.map(|_| (writing.start, writing.end));
            panels.push(LatencyPanel { title: label(*writer), median, p99, shaded });
        }
    }
    let order = |panel: &LatencyPanel| conditions.iter().position(|writer| label(*writer) == panel.title);
    panels.sort_by_key(order);

    report.say(&format!(
        "### The neighbour\n\n{RATE:.0} orders and sign-ups a second use the same MySQL while {} coupons are written. \
         They are an open model: their arrivals do not depend on earlier responses. Their latency counts while coupons \
         are written. A writer that takes longer than {} s is ended, and its time is extrapolated from its rate.",
        short(coupons.into()),
        LONGEST.as_secs()
    ));
    let rows = conditions.iter().zip(&figures).map(|(writer, [p50, p99, took])| {
        let took = if writer.is_some() { cell(took) } else { "-".to_owned() };
        vec![label(*writer), cell(p50), cell(p99), took]
    });
    report.table(&["writer", "neighbour p50 ms", "neighbour p99 ms", "all coupons after s"], rows.collect());
    let [[_, alone, _], [_, unlimited, _], [_, auto, auto_took], [_, single, _]] = &figures;
    report.ratio("issuer.neighbour_p99.auto_vs_alone", Spread::ratio(auto, alone), Target::AtMost(1.3));
    report.ratio("issuer.neighbour_p99.unlimited_vs_alone", Spread::ratio(unlimited, alone), Target::None);
    report.ratio("issuer.neighbour_p99.per_message_vs_alone", Spread::ratio(single, alone), Target::None);
    report.ratio("issuer.neighbour.auto_coupons_s", Spread::of(auto_took), Target::None);
    Ok(panels)
}
