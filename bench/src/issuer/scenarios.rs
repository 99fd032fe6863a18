//! What is measured.

use super::neighbour::{self, RATE, Visit};
use super::peers::raw;
use super::plot::Panel;
use super::setup::{CAMPAIGN, Ground, Running, Writer, send};
use super::{CAPACITY, IssuerArgs};
use crate::report::{Sheet, row, text};
use crate::stats::{Aim, Spread, short};
use anyhow::{Result, bail, ensure};
use dropgate_local::stack::Part;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Partitions where nothing else is said: as many as the issuer gives the topic.
const PARTITIONS: i32 = 6;
/// Batch sizes of which the raw ceiling takes the best.
const RAW_BATCHES: [u32; 3] = [500, 1_000, 2_000];
/// The consumer without batches is watched for this long; its pace does not change.
const WATCHED: Duration = Duration::from_secs(10);
const ENDLESS: Duration = Duration::from_secs(3600);
const FASTEST: Writer = Writer::Issuer("unlimited");

async fn end(writers: Vec<Running>) -> Result<()> {
    for Running { part, .. } in writers {
        Part::stop(part).await?;
    }
    Ok(())
}

/// Rows a second: the issuer, rows without Kafka, a consumer without batches; all records once more;
/// memory.
pub async fn rows(ground: &mut Ground, args: &IssuerArgs, sheet: &mut Sheet) -> Result<()> {
    let records = args.records;
    ground.preload(records, PARTITIONS).await?;
    let mut best = (0.0, 0);
    // Twice: the first time the server is cold.
    for batch in RAW_BATCHES.into_iter().chain(RAW_BATCHES) {
        ground.clear().await?;
        let rate = raw(&ground.database_url(), records / 10, batch, CAPACITY).await?;
        println!("raw insert, {batch} rows a statement: {} rows/s", short(rate));
        if rate > best.0 {
            best = (rate, batch);
        }
    }
    let [mut raws, mut issuers, mut singles, mut again, mut firsts] = [const { Vec::new() }; 5];
    for round in 0..args.rounds {
        for turn in 0..3 {
            ground.clear().await?;
            match (round + turn) % 3 {
                0 => {
                    let rate = raw(&ground.database_url(), records, best.1, CAPACITY).await?;
                    println!("rows  round {}  raw insert        {:>8} rows/s", round + 1, short(rate));
                    raws.push(rate);
                }
                1 => {
                    let mut writers = vec![ground.writer(FASTEST)?];
                    let written = ground.written(&mut writers, records.into(), ENDLESS).await?;
                    end(writers).await?;
                    ensure!(ground.rows().await? == records, "{} of {records} rows", ground.rows().await?);
                    println!("rows  round {}  issuer            {:>8} rows/s", round + 1, short(written.rate));
                    issuers.push(written.rate);
                    firsts.push(written.first_s);
                    let writers = vec![ground.writer(FASTEST)?];
                    let [writer] = writers.as_slice() else { bail!("one writer") };
                    let rate = writer.settle(0, records.into()).await?;
                    end(writers).await?;
                    ensure!(ground.rows().await? == records, "redelivery has changed the rows");
                    println!("rows  round {}  issuer, redelivery {:>7} records/s", round + 1, short(rate));
                    again.push(rate);
                }
                _ => {
                    let mut writers = vec![ground.writer(Writer::PerMessage)?];
                    let written = ground.written(&mut writers, records.into(), WATCHED).await?;
                    end(writers).await?;
                    println!("rows  round {}  per message       {:>8} rows/s", round + 1, short(written.rate));
                    singles.push(written.rate);
                }
            }
        }
    }
    let (once_mb, twice_mb) = memory(ground, records).await?;

    sheet.say(&format!(
        "### Rows a second\n\n{} records wait in {PARTITIONS} partitions. The ceiling is multi-row INSERT of the same \
         rows over one connection, {} a transaction, which was the best of {RAW_BATCHES:?}. The consumer with one row a \
         transaction is watched for {} s. Redelivery: all records once more, when every row exists.",
        short(records.into()),
        best.1,
        WATCHED.as_secs()
    ));
    sheet.table(&[
        row(&["writer", "rows/s"]),
        vec!["ceiling: INSERT without Kafka".to_owned(), text(&raws)],
        vec![FASTEST.label(), text(&issuers)],
        vec!["the same, redelivery (no row changes)".to_owned(), text(&again)],
        vec![Writer::PerMessage.label(), text(&singles)],
    ]);
    sheet.say(&format!(
        "From the start of the issuer's process to its first row: {} s. Memory of the issuer after {} records: {} MB, \
         after twice as many: {} MB.",
        text(&firsts),
        short(records.into()),
        short(once_mb),
        short(twice_mb)
    ));
    sheet.ratio("issuer.rows.vs_raw_insert", Spread::ratio(&issuers, &raws), Aim::AtLeast(0.7));
    sheet.ratio("issuer.rows.vs_per_message", Spread::ratio(&issuers, &singles), Aim::AtLeast(20.0));
    sheet.ratio("issuer.rows_per_s", Spread::of(&issuers), Aim::None);
    sheet.ratio("issuer.redelivery.records_per_s", Spread::of(&again), Aim::None);
    sheet.ratio("issuer.first_row_s", Spread::of(&firsts), Aim::None);
    sheet.ratio("issuer.rss_mb", Spread::of(&[twice_mb]), Aim::AtMost(100.0));
    sheet.ratio("issuer.rss_twice_vs_once", Spread::of(&[twice_mb / once_mb]), Aim::AtMost(1.1));
    Ok(())
}

/// Memory of one issuer after all records, and after all of them once more.
async fn memory(ground: &mut Ground, records: u32) -> Result<(f64, f64)> {
    ground.clear().await?;
    let writer = ground.writer(FASTEST)?;
    writer.settle(0, records.into()).await?;
    let once_mb = writer.rss_mb();
    ground.append(1..=records)?;
    writer.settle(records.into(), u64::from(records) * 2).await?;
    let twice_mb = writer.rss_mb();
    end(vec![writer]).await?;
    ensure!(ground.rows().await? == records, "redelivery has changed the rows");
    Ok((once_mb, twice_mb))
}

/// From the admission to the row, at a steady rate.
pub async fn latency(ground: &mut Ground, args: &IssuerArgs, sheet: &mut Sheet) -> Result<()> {
    let mut table = vec![row(&["admissions/s", "p50 ms", "p99 ms"])];
    for rate in [100_u32, 1_000, 5_000] {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            ground.clear().await?;
            ground.preload(0, PARTITIONS).await?;
            let mut writer = ground.writer(FASTEST)?;
            writer.part.ready().await?;
            let producer = ground.producer()?;
            let (count, begun) = (rate * 5, Instant::now());
            for slot in 1..=count {
                sleep_until(begun + Duration::from_secs(5).mul_f64(f64::from(slot) / f64::from(count))).await;
                send(&producer, slot)?;
            }
            let deadline = Instant::now() + Duration::from_secs(60);
            while ground.rows().await? < count {
                ensure!(Instant::now() < deadline, "{} of {count} rows after a minute", ground.rows().await?);
                sleep(Duration::from_millis(50)).await;
            }
            end(vec![writer]).await?;
            let took: Vec<i64> = sqlx::query_scalar(
                "SELECT TIMESTAMPDIFF(MICROSECOND, admitted_at, issued_at) FROM coupons WHERE campaign_id = ? ORDER BY 1",
            )
            .bind(CAMPAIGN)
            .fetch_all(&ground.mysql)
            .await?;
            #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
            let at = |part: usize| took.get(took.len() * part / 100).map_or(f64::NAN, |us| *us as f64 / 1000.0);
            println!("latency  round {}  {rate}/s  p50 {} ms  p99 {} ms", round + 1, short(at(50)), short(at(99)));
            p50.push(at(50));
            p99.push(at(99));
        }
        table.push(vec![short(rate.into()), text(&p50), text(&p99)]);
        sheet.ratio(&format!("issuer.latency_{rate}_per_s.p99_ms"), Spread::of(&p99), Aim::None);
    }
    sheet.say(
        "### From the admission to the row\n\nAdmissions come at a steady rate for 5 s; by the row's own times, so \
         without the commit itself.",
    );
    sheet.table(&table);
    Ok(())
}

/// More partitions, more members.
pub async fn growth(ground: &mut Ground, args: &IssuerArgs, sheet: &mut Sheet) -> Result<()> {
    let mut table = vec![row(&["partitions", "members", "rows/s"])];
    for (partitions, members) in [(1, 1), (2, 2), (4, 4)] {
        ground.preload(args.fewer(), partitions).await?;
        let mut rates = Vec::new();
        for round in 0..args.rounds {
            ground.clear().await?;
            let mut writers = vec![ground.writer(FASTEST)?];
            for _ in 1..members {
                writers.push(ground.member(FASTEST)?);
            }
            let written = ground.written(&mut writers, args.fewer().into(), ENDLESS).await?;
            end(writers).await?;
            ensure!(ground.rows().await? == args.fewer(), "rows are missing");
            println!("growth  round {}  {partitions} and {members}: {} rows/s", round + 1, short(written.rate));
            rates.push(written.rate);
        }
        table.push(vec![partitions.to_string(), members.to_string(), text(&rates)]);
    }
    sheet.say(&format!(
        "### Partitions and members\n\n{} records; the members start together and find their partitions while the \
         first already writes. All of them, and MySQL, share the cores of one machine.",
        short(args.fewer().into())
    ));
    sheet.table(&table);
    Ok(())
}

/// What a writer was watched for beside the neighbours.
struct Stay {
    visits: Vec<Visit>,
    from_s: f64,
    to_s: f64,
    took_s: f64,
}

/// The neighbours work for some seconds before a writer starts, and after it has ended.
const BEFORE: Duration = Duration::from_secs(5);
/// How long they are watched alone.
const ALONE: Duration = Duration::from_secs(20);
/// A writer that takes longer is ended, and the time of all rows is reckoned from its pace.
const LONGEST: Duration = Duration::from_secs(60);

async fn stay(ground: &mut Ground, writer: Option<Writer>, coupons: u32, seed: u64) -> Result<Stay> {
    ground.clear().await?;
    let begun = Instant::now();
    let mysql = ground.mysql.clone();
    let until = async {
        sleep(BEFORE).await;
        let Some(writer) = writer else {
            let from = Instant::now();
            sleep(ALONE).await;
            return Ok((from, Instant::now(), 0.0));
        };
        let before = ground.inserted().await?;
        let running = ground.writer(writer)?;
        let started = Instant::now();
        while ground.rows().await? == 0 {
            ensure!(started.elapsed() < Duration::from_secs(60), "no row within a minute");
            sleep(Duration::from_millis(20)).await;
        }
        let from = Instant::now();
        let mut rows = 0;
        while rows < coupons && from.elapsed() < LONGEST {
            sleep(Duration::from_millis(250)).await;
            // To count the rows costs the database something: only when it may be all of them.
            if ground.inserted().await?.saturating_sub(before) >= coupons.into() {
                rows = ground.rows().await?;
            }
        }
        let to = Instant::now();
        end(vec![running]).await?;
        let rows = ground.rows().await?;
        let took_s = (to - from).as_secs_f64() * f64::from(coupons) / f64::from(rows.max(1));
        sleep(Duration::from_secs(3)).await;
        Ok((from, to, took_s))
    };
    let (visits, (from, to, took_s)) = neighbour::visits(&mysql, begun, seed, until).await?;
    Ok(Stay { visits, from_s: (from - begun).as_secs_f64(), to_s: (to - begun).as_secs_f64(), took_s })
}

/// Orders and sign-ups on the same database, alone and beside each writer. Returns the last round.
pub async fn neighbours(ground: &mut Ground, args: &IssuerArgs, sheet: &mut Sheet) -> Result<Vec<Panel>> {
    let coupons = args.fewer();
    ground.preload(coupons, PARTITIONS).await?;
    neighbour::prepare(&ground.mysql).await?;
    let conditions = [None, Some(FASTEST), Some(Writer::Issuer("auto")), Some(Writer::PerMessage)];
    let label = |writer: Option<Writer>| writer.map_or_else(|| "alone".to_owned(), Writer::label);
    let mut figures: [[Vec<f64>; 3]; 4] = Default::default();
    let mut panels: Vec<Panel> = Vec::new();
    for round in 0..args.rounds {
        panels.clear();
        for turn in 0..conditions.len() {
            let at = (round as usize + turn) % conditions.len();
            let (Some(writer), Some([p50, p99, took])) = (conditions.get(at), figures.get_mut(at)) else { continue };
            let seed = u64::from(round) * 10 + at as u64;
            let Stay { visits, from_s, to_s, took_s } = stay(ground, *writer, coupons, seed).await?;
            p50.push(neighbour::quantile(&visits, from_s, to_s, 0.5));
            p99.push(neighbour::quantile(&visits, from_s, to_s, 0.99));
            took.push(took_s);
            println!(
                "neighbour  round {}  {:<40} p50 {:>6} ms  p99 {:>6} ms  coupons in {} s",
                round + 1,
                label(*writer),
                short(p50.last().copied().unwrap_or(f64::NAN)),
                short(p99.last().copied().unwrap_or(f64::NAN)),
                short(took_s)
            );
            panels.push(Panel { title: label(*writer), visits, writing: writer.map(|_| (from_s, to_s)) });
        }
    }
    let order = |panel: &Panel| conditions.iter().position(|writer| label(*writer) == panel.title);
    panels.sort_by_key(order);

    sheet.say(&format!(
        "### The neighbours\n\n{RATE:.0} orders and sign-ups a second (an open model: they come whether or not the earlier \
         ones are through) live on the same MySQL, while {} coupons are written beside them. Their latency counts while \
         coupons are written. A writer that takes longer than {} s is ended then, and its time reckoned from its pace.",
        short(coupons.into()),
        LONGEST.as_secs()
    ));
    let mut table = vec![row(&["beside", "neighbours' p50 ms", "neighbours' p99 ms", "all coupons after s"])];
    for (writer, [p50, p99, took]) in conditions.iter().zip(&figures) {
        let took = if writer.is_some() { text(took) } else { "-".to_owned() };
        table.push(vec![label(*writer), text(p50), text(p99), took]);
    }
    sheet.table(&table);
    let [[_, alone, _], [_, unlimited, _], [_, auto, auto_took], [_, single, _]] = &figures;
    sheet.ratio("issuer.neighbour_p99.auto_vs_alone", Spread::ratio(auto, alone), Aim::AtMost(1.3));
    sheet.ratio("issuer.neighbour_p99.unlimited_vs_alone", Spread::ratio(unlimited, alone), Aim::None);
    sheet.ratio("issuer.neighbour_p99.per_message_vs_alone", Spread::ratio(single, alone), Aim::None);
    sheet.ratio("issuer.neighbour.auto_coupons_s", Spread::of(auto_took), Aim::None);
    Ok(panels)
}
