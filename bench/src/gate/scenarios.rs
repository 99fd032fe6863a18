//! What is measured.

use super::args::GateArgs;
use super::responder::Responder;
use super::setup::{GateSetup, Subject, UpstreamCalls};
use crate::load::{LoadResult, closed, open};
use crate::machine::CpuTime;
use crate::report::{Report, cell};
use crate::stats::{Spread, Target, short};
use anyhow::{Context as _, Result, bail};
use std::time::Duration;

/// Connections of the sold-out scenario.
const CONNECTIONS: usize = 64;
/// Load on each worker before the first round.
const WARM_UP: Duration = Duration::from_secs(2);
/// Load before each measurement.
const LEAD: Duration = Duration::from_millis(300);
/// A capacity that no scenario reaches.
const UNLIMITED: u64 = 100_000_000;
/// Length of a user id where the scenario does not vary it.
const ID_BYTES: usize = 12;
/// Different users who claim after sold-out.
const LATE_USERS: u64 = 100_000;

/// One worker under load.
struct Measurement {
    load: LoadResult,
    calls: UpstreamCalls,
    cpu: CpuTime,
}

/// Runs `load` against `subject` and prints one line. `status` is the only status that is expected.
async fn measure(
    setup: &GateSetup,
    subject: Subject,
    status: Option<u16>,
    name: &str,
    load: impl Future<Output = Result<LoadResult>>,
) -> Result<Measurement> {
    let pid = setup.worker(subject)?.pid();
    let work = async {
        let before = CpuTime::of(pid);
        let load = load.await?;
        // After the last response: forwarding in the background counts as far as it is done by then.
        Ok((load, CpuTime::of(pid).since(before)))
    };
    let ((load, cpu), calls) = setup.count_calls(work).await.with_context(|| subject.label())?;
    println!(
        "{name:<24} {:<42} {:>8}/s  p99 {:>7} ms  CPU {:>3.0} %, waiting {:>3.0} %  redis {:>7}  kafka {:>7}",
        subject.label(),
        short(load.rate()),
        short(load.quantile_ms(0.99)),
        cpu.used_s / load.seconds * 100.0,
        cpu.waited_s / load.seconds * 100.0,
        calls.redis_commands,
        calls.kafka_requests,
    );
    let load = if let Some(status) = status { load.expect_only(status)? } else { load };
    Ok(Measurement { load, calls, cpu })
}

/// The figures of one worker, by round.
#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_us: Vec<f64>,
    waited_percent: Vec<f64>,
    redis: Vec<f64>,
    inner: Vec<f64>,
    kafka: Vec<f64>,
    redis_per_s: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, Measurement { load, calls, cpu }: &Measurement) {
        let claims = load.responses() as f64;
        self.rate.push(load.rate());
        self.p50_ms.push(load.quantile_ms(0.5));
        self.p99_ms.push(load.quantile_ms(0.99));
        self.cpu_us.push(cpu.used_s * 1e6 / claims);
        self.waited_percent.push(cpu.waited_s / load.seconds * 100.0);
        self.redis.push(calls.redis_commands as f64 / claims);
        self.inner.push(calls.inner_commands as f64 / claims);
        self.kafka.push(calls.kafka_requests as f64 / claims);
        self.redis_per_s.push(calls.redis_commands as f64 / load.seconds);
    }
}

/// The subjects in the order of this round, each with its figures: every round begins with another one.
fn turns<'a, F>(subjects: &[Subject], figures: &'a mut [F], round: u32) -> Vec<(Subject, &'a mut F)> {
    let mut turns: Vec<_> = subjects.iter().copied().zip(figures).collect();
    let start = round as usize % turns.len().max(1);
    turns.rotate_left(start);
    turns
}

/// Users who claim after all coupons are taken.
pub async fn sold_out(setup: &mut GateSetup, args: &GateArgs, report: &mut Report) -> Result<()> {
    let subjects = [Subject::Ceiling, Subject::Reader, Subject::Gate, Subject::Usual];
    let campaign = setup.campaign(100, 100).await?;
    let requests = setup.requests(&campaign, "s", ID_BYTES, LATE_USERS);
    setup.cores.use_measured()?;
    let responder = Responder::start()?;
    setup.cores.use_others()?;
    let limit = closed(&responder.address, requests.clone(), 0, CONNECTIONS, args.duration()).await?.rate();
    drop(responder);
    for subject in subjects {
        let address = &setup.worker(subject)?.address;
        closed(address, requests.clone(), 0, CONNECTIONS, WARM_UP).await?.expect_only(410)?;
    }
    let mut figures: [Rounds; 4] = Default::default();
    let mut next = 0;
    for round in 0..args.rounds {
        for (subject, rounds) in turns(&subjects, &mut figures, round) {
            let address = &setup.worker(subject)?.address;
            // After a pause the memory of the isolate is stale and all connections refresh it at once: that is
            // not measured here.
            closed(address, requests.clone(), next, CONNECTIONS, LEAD).await?.expect_only(410)?;
            let load = closed(address, requests.clone(), next, CONNECTIONS, args.duration());
            let name = format!("sold-out round {}", round + 1);
            let measurement = measure(setup, subject, Some(410), &name, load).await?;
            next = measurement.load.next;
            if measurement.calls.kafka_requests > 0 {
                bail!("{} called Kafka {} times after sold-out", subject.label(), measurement.calls.kafka_requests);
            }
            rounds.add(&measurement);
        }
    }
    setup.clear().await?;

    report.say(&format!(
        "### Sold out\n\n{} users claim over {CONNECTIONS} connections after all coupons are taken. The load generator \
         reaches {} requests/s against a server with a constant response.",
        short(LATE_USERS as f64),
        short(limit)
    ));
    let rows = subjects.iter().zip(&figures).map(|(subject, rounds)| {
        vec![
            subject.label().to_owned(),
            cell(&rounds.rate),
            cell(&rounds.p50_ms),
            cell(&rounds.p99_ms),
            cell(&rounds.cpu_us),
            cell(&rounds.waited_percent),
            cell(&rounds.redis_per_s),
        ]
    });
    report.table(
        &["worker", "requests/s", "p50 ms", "p99 ms", "CPU, µs a request", "waiting for CPU, %", "Redis commands/s"],
        rows.collect(),
    );
    let [ceiling, reader, gate, usual] = &figures;
    report.ratio("edge.sold_out.vs_ceiling", Spread::ratio(&gate.rate, &ceiling.rate), Target::AtLeast(0.9));
    report.ratio("edge.sold_out.vs_reader", Spread::ratio(&gate.rate, &reader.rate), Target::None);
    report.ratio("edge.sold_out.vs_usual_worker", Spread::ratio(&gate.rate, &usual.rate), Target::AtLeast(4.0));
    report.ratio("edge.sold_out.cpu_vs_ceiling", Spread::ratio(&gate.cpu_us, &ceiling.cpu_us), Target::None);
    report.ratio("edge.sold_out.redis_commands_per_s", Spread::of(&gate.redis_per_s), Target::AtMost(2.0));
    report.ratio("edge.generator.requests_per_s", Spread::of(&[limit]), Target::None);
    Ok(())
}

/// Every user gets a coupon.
pub async fn admission(setup: &mut GateSetup, args: &GateArgs, connections: usize, report: &mut Report) -> Result<()> {
    let subjects = [Subject::Gate, Subject::Usual, Subject::UsualEval];
    let mut figures: [Rounds; 3] = Default::default();
    let mut next = 0;
    // Round 0 is the warm-up and does not count.
    for round in 0..=args.rounds {
        for (subject, rounds) in turns(&subjects, &mut figures, round) {
            let campaign = setup.campaign(UNLIMITED, 0).await?;
            let requests = setup.requests(&campaign, "u", ID_BYTES, u64::MAX);
            let duration = if round == 0 { WARM_UP } else { args.duration() };
            let load = closed(&setup.worker(subject)?.address, requests, next, connections, duration);
            let name = format!("admission c{connections} round {round}");
            let measurement = measure(setup, subject, Some(202), &name, load).await?;
            next = measurement.load.next;
            setup.clear().await?;
            if round == 0 {
                continue;
            }
            let (records, admitted) = (measurement.calls.kafka_records, measurement.load.responses());
            if records < admitted {
                println!("  {records} of {admitted} admissions reached Kafka");
            }
            rounds.add(&measurement);
        }
    }
    report.say(&format!(
        "### Admission, {connections} connections\n\nEvery request is from another user, and each user gets a coupon."
    ));
    let head = [
        "worker",
        "claims/s",
        "p50 ms",
        "p99 ms",
        "CPU, µs a claim",
        "waiting for CPU, %",
        "Redis commands a claim",
        "commands inside scripts a claim",
        "Kafka calls a claim",
    ];
    let rows = subjects.iter().zip(&figures).map(|(subject, rounds)| {
        vec![
            subject.label().to_owned(),
            cell(&rounds.rate),
            cell(&rounds.p50_ms),
            cell(&rounds.p99_ms),
            cell(&rounds.cpu_us),
            cell(&rounds.waited_percent),
            cell(&rounds.redis),
            cell(&rounds.inner),
            cell(&rounds.kafka),
        ]
    });
    report.table(&head, rows.collect());
    let [gate, usual, eval] = &figures;
    let name = |rest: &str| format!("edge.admit_c{connections}.{rest}");
    let (times, commands) = if connections < 256 { (2.0, Target::None) } else { (3.0, Target::AtMost(0.1)) };
    report.ratio(&name("vs_usual_worker"), Spread::ratio(&gate.rate, &usual.rate), Target::AtLeast(times));
    report.ratio(&name("vs_usual_worker_eval"), Spread::ratio(&gate.rate, &eval.rate), Target::None);
    report.ratio(&name("redis_commands_per_claim"), Spread::of(&gate.redis), commands);
    report.ratio(&name("kafka_calls_per_claim"), Spread::of(&gate.kafka), Target::None);
    Ok(())
}

/// Latency at an arrival rate below the limit of every worker.
pub async fn latency(setup: &mut GateSetup, args: &GateArgs, report: &mut Report) -> Result<()> {
    let cases = [
        ("sold out", 4_000, 410, [Subject::Ceiling, Subject::Gate]),
        ("admission", 500, 202, [Subject::Gate, Subject::Usual]),
    ];
    let mut rows = Vec::new();
    for (case, rate, status, subjects) in cases {
        let mut figures: [[Vec<f64>; 3]; 2] = Default::default();
        let mut next = 0;
        for round in 0..args.rounds {
            for (subject, quantiles) in turns(&subjects, &mut figures, round) {
                let (capacity, held, users) =
                    if status == 410 { (100, 100, LATE_USERS) } else { (UNLIMITED, 0, u64::MAX) };
                let campaign = setup.campaign(capacity, held).await?;
                let requests = setup.requests(&campaign, "l", ID_BYTES, users);
                let address = &setup.worker(subject)?.address;
                // The isolate has read the campaign before the measurement.
                let warm_up = closed(address, requests.clone(), next, 4, Duration::from_millis(500)).await?;
                let next_user = warm_up.expect_only(status)?.next;
                let load = open(address, requests, next_user, 256, rate * args.seconds, args.duration());
                let name = format!("latency {rate}/s round {}", round + 1);
                let measurement = measure(setup, subject, Some(status), &name, load).await?;
                next = measurement.load.next;
                for (quantile, figures) in [0.5, 0.99, 0.999].iter().zip(quantiles) {
                    figures.push(measurement.load.quantile_ms(*quantile));
                }
                setup.clear().await?;
            }
        }
        for (subject, [p50, p99, p999]) in subjects.iter().zip(&figures) {
            let arrivals = format!("{case}, {} a second", short(rate as f64));
            rows.push(vec![arrivals, subject.label().to_owned(), cell(p50), cell(p99), cell(p999)]);
        }
        let [[_, first, _], [_, second, _]] = &figures;
        let (name, spread) = match status {
            410 => ("edge.sold_out.p99_vs_ceiling", Spread::ratio(second, first)),
            _ => ("edge.admit.p99_vs_usual_worker", Spread::ratio(first, second)),
        };
        report.ratio(name, spread, Target::None);
    }
    report.say(
        "### Latency at a fixed arrival rate\n\nAn open model below saturation: each claim has a due time, independent \
         of the earlier claims.",
    );
    report.table(&["arrivals", "worker", "p50 ms", "p99 ms", "p99.9 ms"], rows);
    Ok(())
}

/// 10,000 users within one second, 100 coupons, one isolate that has not yet read the campaign.
pub async fn first_second(setup: &mut GateSetup, args: &GateArgs, report: &mut Report) -> Result<()> {
    const USERS: u64 = 10_000;
    const COUPONS: u64 = 100;
    let subjects = [Subject::Gate, Subject::Usual];
    let mut figures: [[Vec<f64>; 6]; 2] = Default::default();
    for round in 0..args.rounds {
        for (subject, columns) in turns(&subjects, &mut figures, round) {
            let campaign = setup.campaign(COUPONS, 0).await?;
            if subject == Subject::Usual {
                setup.set_usual_left(&campaign, COUPONS).await?;
            }
            let requests = setup.requests(&campaign, "f", ID_BYTES, u64::MAX);
            let load = open(&setup.worker(subject)?.address, requests, 0, 1_000, USERS, Duration::from_secs(1));
            let name = format!("first second round {}", round + 1);
            let Measurement { load, calls, .. } = measure(setup, subject, None, &name, load).await?;
            if load.with_status(202) != COUPONS || load.with_status(410) != USERS - COUPONS {
                bail!("{}: {COUPONS} coupons, but the responses were {:?}", subject.label(), load.statuses);
            }
            let round = [
                calls.redis_commands as f64,
                calls.kafka_requests as f64,
                load.quantile_ms(0.5),
                load.quantile_ms(0.99),
                load.quantile_ms(1.0),
                load.seconds,
            ];
            columns.iter_mut().zip(round).for_each(|(column, figure)| column.push(figure));
            setup.clear().await?;
        }
    }
    report.say(&format!(
        "### The first second\n\n{} users arrive within one second for {COUPONS} coupons, at an isolate that has not \
         yet read the campaign. In every round exactly {COUPONS} users were admitted and all others got `sold out`.",
        short(USERS as f64)
    ));
    let rows = subjects.iter().zip(&figures).map(|(subject, columns)| {
        let cells = columns.iter().map(|column| cell(column));
        std::iter::once(subject.label().to_owned()).chain(cells).collect()
    });
    let head = ["worker", "Redis commands", "Kafka calls", "p50 ms", "p99 ms", "max ms", "last response after s"];
    report.table(&head, rows.collect());
    let [[commands, _, _, p99, ..], _] = &figures;
    report.ratio("edge.first_second.redis_commands", Spread::of(commands), Target::None);
    report.ratio("edge.first_second.p99_ms", Spread::of(p99), Target::None);
    Ok(())
}

/// The cost of a claim with more coupons and with longer ids.
pub async fn growth(setup: &mut GateSetup, args: &GateArgs, report: &mut Report) -> Result<()> {
    let cases: [(u64, usize); 6] = [(100, 12), (10_000, 12), (1_000_000, 12), (10_000, 8), (10_000, 64), (10_000, 128)];
    let mut figures: [[Vec<f64>; 3]; 6] = Default::default();
    let rounds = args.rounds.div_ceil(3);
    let mut next = 0;
    for round in 0..rounds {
        for ((held, id_bytes), [sold_out, admission, cpu_us]) in cases.into_iter().zip(&mut figures) {
            for (capacity, status) in [(held, 410), (UNLIMITED, 202)] {
                let campaign = setup.campaign(capacity, held).await?;
                let requests = setup.requests(&campaign, "g", id_bytes, u64::MAX);
                let address = &setup.worker(Subject::Gate)?.address;
                let warm_up = closed(address, requests.clone(), next, CONNECTIONS, Duration::from_secs(1)).await?;
                let next_user = warm_up.expect_only(status)?.next;
                let load = closed(address, requests, next_user, CONNECTIONS, args.duration());
                let name = format!("growth {held} {id_bytes} round {}", round + 1);
                let Measurement { load, cpu, .. } = measure(setup, Subject::Gate, Some(status), &name, load).await?;
                next = load.next;
                if status == 410 {
                    sold_out.push(load.rate());
                } else {
                    admission.push(load.rate());
                    cpu_us.push(cpu.used_s * 1e6 / load.responses() as f64);
                }
                setup.clear().await?;
            }
        }
    }
    report.say(&format!(
        "### Growth\n\nThe gate, {CONNECTIONS} connections, {rounds} rounds, with more coupons already given and with \
         longer user ids. An isolate stores at most 100,000 holders; beyond that every claim after sold-out goes to \
         Redis, many claims in one command."
    ));
    let head =
        ["holders", "bytes of an id", "sold out: requests/s", "admission: claims/s", "admission: CPU, µs a claim"];
    let rows = cases.iter().zip(&figures).map(|((held, id_bytes), [sold_out, admission, cpu_us])| {
        vec![short(*held as f64), id_bytes.to_string(), cell(sold_out), cell(admission), cell(cpu_us)]
    });
    report.table(&head, rows.collect());
    let [[_, small, _], _, [_, large, _], ..] = &figures;
    report.ratio("edge.admit.1000000_holders_vs_100", Spread::ratio(large, small), Target::AtLeast(0.9));
    Ok(())
}
