//! What is measured.

use super::EdgeArgs;
use super::responder::Responder;
use super::setup::{Arena, Asked, Who};
use crate::load::{Load, closed, open};
use crate::machine::Processor;
use crate::report::{Sheet, row, text};
use crate::stats::{Aim, Spread, short};
use anyhow::{Context as _, Result, bail};
use std::time::Duration;

/// Connections of the sold-out scene.
const CONNECTIONS: usize = 64;
/// Each worker runs for so long before anything is measured.
const WARM: Duration = Duration::from_secs(2);
/// Load that goes before the measured one.
const LEAD: Duration = Duration::from_millis(300);
/// A capacity that no scene reaches.
const ENDLESS: u64 = 100_000_000;
/// Bytes of a user's id where nothing else is said.
const ID_BYTES: usize = 12;
/// Different strangers who ask after sold-out.
const STRANGERS: u64 = 100_000;

/// The rounds of one worker.
#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_us: Vec<f64>,
    waited: Vec<f64>,
    redis: Vec<f64>,
    inner: Vec<f64>,
    kafka: Vec<f64>,
    redis_a_second: Vec<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
impl Rounds {
    fn add(&mut self, load: &Load, asked: Asked, cpu: Processor) {
        let answers = load.answers() as f64;
        self.rate.push(load.rate());
        self.p50_ms.push(load.ms(0.5));
        self.p99_ms.push(load.ms(0.99));
        self.cpu_us.push(cpu.used_s * 1e6 / answers);
        self.waited.push(cpu.waited_s / load.seconds * 100.0);
        self.redis.push(asked.redis_commands as f64 / answers);
        self.inner.push(asked.inner_commands as f64 / answers);
        self.kafka.push(asked.kafka_requests as f64 / answers);
        self.redis_a_second.push(asked.redis_commands as f64 / load.seconds);
    }
}

/// Which worker has its turn: each round begins with another one.
fn turns(whos: &[Who], round: u32) -> impl Iterator<Item = Who> {
    let start = round as usize % whos.len().max(1);
    whos.iter().cycle().skip(start).take(whos.len()).copied()
}

/// One worker under load: what came of it, what it asked the servers for, what it had of its core.
async fn measure(
    arena: &Arena,
    who: Who,
    load: impl Future<Output = Result<Load>>,
) -> Result<(Load, Asked, Processor)> {
    let pid = arena.worker(who)?.pid();
    let work = async {
        let before = Processor::of(pid);
        let load = load.await?;
        // After the last answer: forwarding in the background counts as far as it has come.
        Ok((load, Processor::of(pid).since(before)))
    };
    let ((load, cpu), asked) = arena.counted(work).await.with_context(|| who.label())?;
    Ok((load, asked, cpu))
}

fn tell(scene: &str, round: u32, who: Who, load: &Load, cpu: Processor, asked: Asked) {
    println!(
        "{scene:<16} round {:<2} {:<42} {:>8}/s  p99 {:>7} ms  core {:>3.0} %, waited {:>3.0} %  redis {:>7}  kafka {:>7}",
        round + 1,
        who.label(),
        short(load.rate()),
        short(load.ms(0.99)),
        cpu.used_s / load.seconds * 100.0,
        cpu.waited_s / load.seconds * 100.0,
        asked.redis_commands,
        asked.kafka_requests,
    );
}

/// Strangers who come when all is taken.
pub async fn sold_out(arena: &mut Arena, args: &EdgeArgs, sheet: &mut Sheet) -> Result<()> {
    let whos = [Who::Ceiling, Who::Reader, Who::Gate, Who::Usual];
    let campaign = arena.campaign(100, 100).await?;
    let crowd = arena.crowd(&campaign, "s", ID_BYTES, STRANGERS);
    arena.cores.measured()?;
    let responder = Responder::start()?;
    arena.cores.others()?;
    let own = closed(&responder.address, crowd.clone(), 0, CONNECTIONS, args.duration()).await?.rate();
    drop(responder);
    for who in whos {
        closed(&arena.worker(who)?.address, crowd.clone(), 0, CONNECTIONS, WARM).await?.only(410)?;
    }
    let mut rounds: [Rounds; 4] = Default::default();
    let mut next = 0;
    for round in 0..args.rounds {
        for who in turns(&whos, round) {
            let address = &arena.worker(who)?.address;
            // After a pause the isolate's memory is out of date, and all ask at once: not what is meant here.
            closed(address, crowd.clone(), next, CONNECTIONS, LEAD).await?.only(410)?;
            let load = closed(address, crowd.clone(), next, CONNECTIONS, args.duration());
            let (load, asked, cpu) = measure(arena, who, load).await?;
            let load = load.only(410)?;
            next = load.next;
            tell("sold-out", round, who, &load, cpu, asked);
            if asked.kafka_requests > 0 {
                bail!("{} asked Kafka {} times for strangers", who.label(), asked.kafka_requests);
            }
            for (one, rounds) in whos.iter().zip(&mut rounds) {
                if *one == who {
                    rounds.add(&load, asked, cpu);
                }
            }
        }
    }
    arena.clear().await?;

    sheet.say(&format!(
        "### Sold out\n\n{} strangers ask over {CONNECTIONS} connections for coupons that are all taken. The load \
         itself reaches {} requests/s against a server that looks at nothing.",
        short(STRANGERS as f64),
        short(own)
    ));
    let mut table = vec![row(&[
        "worker",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "its core, µs a request",
        "waited for its core, %",
        "Redis commands/s",
    ])];
    for (who, rounds) in whos.iter().zip(&rounds) {
        table.push(vec![
            who.label().to_owned(),
            text(&rounds.rate),
            text(&rounds.p50_ms),
            text(&rounds.p99_ms),
            text(&rounds.cpu_us),
            text(&rounds.waited),
            text(&rounds.redis_a_second),
        ]);
    }
    sheet.table(&table);
    let [ceiling, reader, gate, usual] = &rounds;
    sheet.ratio("edge.sold_out.vs_ceiling", Spread::ratio(&gate.rate, &ceiling.rate), Aim::AtLeast(0.9));
    sheet.ratio("edge.sold_out.vs_reader", Spread::ratio(&gate.rate, &reader.rate), Aim::None);
    sheet.ratio("edge.sold_out.vs_usual_worker", Spread::ratio(&gate.rate, &usual.rate), Aim::AtLeast(4.0));
    sheet.ratio("edge.sold_out.cpu_vs_ceiling", Spread::ratio(&gate.cpu_us, &ceiling.cpu_us), Aim::None);
    sheet.ratio("edge.sold_out.redis_commands_per_s", Spread::of(&gate.redis_a_second), Aim::AtMost(2.0));
    sheet.ratio("edge.generator.requests_per_s", Spread::of(&[own]), Aim::None);
    Ok(())
}

/// Everybody who comes gets a coupon.
pub async fn admission(arena: &mut Arena, args: &EdgeArgs, connections: usize, sheet: &mut Sheet) -> Result<()> {
    let whos = [Who::Gate, Who::Usual, Who::UsualEval];
    let mut rounds: [Rounds; 3] = Default::default();
    let mut next = 0;
    // Round 0 warms up and is not counted.
    for round in 0..=args.rounds {
        for who in turns(&whos, round) {
            let campaign = arena.campaign(ENDLESS, 0).await?;
            let crowd = arena.crowd(&campaign, "u", ID_BYTES, u64::MAX);
            let duration = if round == 0 { WARM } else { args.duration() };
            let load = closed(&arena.worker(who)?.address, crowd, next, connections, duration);
            let (load, asked, cpu) = measure(arena, who, load).await?;
            let load = load.only(202)?;
            next = load.next;
            arena.clear().await?;
            if round == 0 {
                continue;
            }
            tell(&format!("admission c{connections}"), round - 1, who, &load, cpu, asked);
            if asked.kafka_records < load.answers() {
                println!("  {} of {} admissions reached Kafka", asked.kafka_records, load.answers());
            }
            for (one, rounds) in whos.iter().zip(&mut rounds) {
                if *one == who {
                    rounds.add(&load, asked, cpu);
                }
            }
        }
    }
    sheet.say(&format!(
        "### Admission, {connections} connections\n\nEvery request is another user, and there is a coupon for each."
    ));
    let head = [
        "worker",
        "claims/s",
        "p50 ms",
        "p99 ms",
        "its core, µs a claim",
        "waited for its core, %",
        "Redis commands a claim",
        "commands inside scripts a claim",
        "Kafka calls a claim",
    ];
    let mut table = vec![row(&head)];
    for (who, rounds) in whos.iter().zip(&rounds) {
        table.push(vec![
            who.label().to_owned(),
            text(&rounds.rate),
            text(&rounds.p50_ms),
            text(&rounds.p99_ms),
            text(&rounds.cpu_us),
            text(&rounds.waited),
            text(&rounds.redis),
            text(&rounds.inner),
            text(&rounds.kafka),
        ]);
    }
    sheet.table(&table);
    let [gate, usual, eval] = &rounds;
    let name = |rest: &str| format!("edge.admit_c{connections}.{rest}");
    let (times, commands) = if connections < 256 { (2.0, Aim::None) } else { (3.0, Aim::AtMost(0.1)) };
    sheet.ratio(&name("vs_usual_worker"), Spread::ratio(&gate.rate, &usual.rate), Aim::AtLeast(times));
    sheet.ratio(&name("vs_usual_worker_eval"), Spread::ratio(&gate.rate, &eval.rate), Aim::None);
    sheet.ratio(&name("redis_commands_per_claim"), Spread::of(&gate.redis), commands);
    sheet.ratio(&name("kafka_calls_per_claim"), Spread::of(&gate.kafka), Aim::None);
    Ok(())
}

/// A steady arrival rate that every worker can bear: who is slower, when nobody is overrun.
pub async fn latency(arena: &mut Arena, args: &EdgeArgs, sheet: &mut Sheet) -> Result<()> {
    const SOLD_OUT_RATE: u64 = 4_000;
    const ADMIT_RATE: u64 = 500;
    let cases = [
        ("sold out", SOLD_OUT_RATE, 410, vec![Who::Ceiling, Who::Gate]),
        ("admission", ADMIT_RATE, 202, vec![Who::Gate, Who::Usual]),
    ];
    let head = ["arrivals", "worker", "p50 ms", "p99 ms", "p99.9 ms"];
    let mut table = vec![row(&head)];
    for (case, rate, status, whos) in cases {
        let mut rounds: Vec<[Vec<f64>; 3]> = whos.iter().map(|_| Default::default()).collect();
        let mut next = 0;
        for round in 0..args.rounds {
            for who in turns(&whos, round) {
                let (capacity, held, users) =
                    if status == 410 { (100, 100, STRANGERS) } else { (ENDLESS, 0, u64::MAX) };
                let campaign = arena.campaign(capacity, held).await?;
                let crowd = arena.crowd(&campaign, "l", ID_BYTES, users);
                let address = arena.worker(who)?.address.clone();
                // The isolate has seen the campaign before the clock runs.
                let warm = closed(&address, crowd.clone(), next, 4, Duration::from_millis(500)).await?.only(status)?;
                let count = rate * args.seconds;
                let load = open(&address, crowd, warm.next, 256, count, args.duration());
                let (load, asked, cpu) = measure(arena, who, load).await?;
                let load = load.only(status)?;
                next = load.next;
                tell(&format!("{rate}/s"), round, who, &load, cpu, asked);
                for (one, figures) in whos.iter().zip(&mut rounds) {
                    if *one == who {
                        for (quantile, figures) in [0.5, 0.99, 0.999].iter().zip(figures) {
                            figures.push(load.ms(*quantile));
                        }
                    }
                }
                arena.clear().await?;
            }
        }
        for (who, [p50, p99, p999]) in whos.iter().zip(&rounds) {
            let arrivals = format!("{case}, {} a second", short(rate as f64));
            table.push(vec![arrivals, who.label().to_owned(), text(p50), text(p99), text(p999)]);
        }
        if let [these, those] = rounds.as_slice()
            && let ([_, these, _], [_, those, _]) = (these, those)
        {
            let (name, spread) = match status {
                410 => ("edge.sold_out.p99_vs_ceiling", Spread::ratio(those, these)),
                _ => ("edge.admit.p99_vs_usual_worker", Spread::ratio(these, those)),
            };
            sheet.ratio(name, spread, Aim::None);
        }
    }
    sheet.say(
        "### Latency at a fixed arrival rate\n\nAn open model below saturation: each claim has its moment, whatever \
         became of the earlier ones.",
    );
    sheet.table(&table);
    Ok(())
}

/// 10,000 people within one second, 100 coupons, one isolate that has never heard of the campaign.
pub async fn first_second(arena: &mut Arena, args: &EdgeArgs, sheet: &mut Sheet) -> Result<()> {
    const CROWD: u64 = 10_000;
    const COUPONS: u64 = 100;
    let whos = [Who::Gate, Who::Usual];
    let mut table = vec![row(&[
        "worker",
        "Redis commands",
        "Kafka calls",
        "p50 ms",
        "p99 ms",
        "longest ms",
        "all answered after s",
    ])];
    let mut columns: [[Vec<f64>; 6]; 2] = Default::default();
    for round in 0..args.rounds {
        for who in turns(&whos, round) {
            let campaign = arena.campaign(COUPONS, 0).await?;
            if who == Who::Usual {
                arena.usual_left(&campaign, COUPONS).await?;
            }
            let crowd = arena.crowd(&campaign, "f", ID_BYTES, u64::MAX);
            let load = open(&arena.worker(who)?.address, crowd, 0, 1_000, CROWD, Duration::from_secs(1));
            let (load, asked, cpu) = measure(arena, who, load).await?;
            tell("first second", round, who, &load, cpu, asked);
            if load.of(202) != COUPONS || load.of(410) != CROWD - COUPONS {
                bail!("{}: {COUPONS} coupons, but the answers were {:?}", who.label(), load.statuses);
            }
            for (one, columns) in whos.iter().zip(&mut columns) {
                if *one == who {
                    let figures = [
                        asked.redis_commands as f64,
                        asked.kafka_requests as f64,
                        load.ms(0.5),
                        load.ms(0.99),
                        load.ms(1.0),
                        load.seconds,
                    ];
                    columns.iter_mut().zip(figures).for_each(|(column, figure)| column.push(figure));
                }
            }
            arena.clear().await?;
        }
    }
    for (who, columns) in whos.iter().zip(&columns) {
        let cells = columns.iter().map(|column| text(column));
        table.push(std::iter::once(who.label().to_owned()).chain(cells).collect());
    }
    sheet.say(&format!(
        "### The first second\n\n{} people arrive within one second for {COUPONS} coupons, at an isolate that has not \
         heard of the campaign. In every round exactly {COUPONS} were admitted and all others were told that the \
         coupons are taken.",
        short(CROWD as f64)
    ));
    sheet.table(&table);
    let [[commands, _, _, p99, ..], _] = &columns;
    sheet.ratio("edge.first_second.redis_commands", Spread::of(commands), Aim::None);
    sheet.ratio("edge.first_second.p99_ms", Spread::of(p99), Aim::None);
    Ok(())
}

/// Whether a claim costs more where there are more coupons, or longer ids.
pub async fn growth(arena: &mut Arena, args: &EdgeArgs, sheet: &mut Sheet) -> Result<()> {
    let head =
        ["holders", "bytes of an id", "sold out: requests/s", "admission: claims/s", "admission: its core, µs a claim"];
    let mut table = vec![row(&head)];
    let cases = [(100, 12), (10_000, 12), (1_000_000, 12), (10_000, 8), (10_000, 64), (10_000, 128)];
    let mut rates: Vec<[Vec<f64>; 3]> = cases.iter().map(|_| Default::default()).collect();
    let rounds = args.rounds.div_ceil(3);
    let mut next = 0;
    for round in 0..rounds {
        for ((held, id_bytes), figures) in cases.iter().copied().zip(&mut rates) {
            for full in [true, false] {
                let capacity = if full { held } else { ENDLESS };
                let campaign = arena.campaign(capacity, held).await?;
                let crowd = arena.crowd(&campaign, "g", id_bytes, u64::MAX);
                let address = arena.worker(Who::Gate)?.address.clone();
                let status = if full { 410 } else { 202 };
                let warm =
                    closed(&address, crowd.clone(), next, CONNECTIONS, Duration::from_secs(1)).await?.only(status)?;
                let load = closed(&address, crowd, warm.next, CONNECTIONS, args.duration());
                let (load, asked, cpu) = measure(arena, Who::Gate, load).await?;
                let load = load.only(status)?;
                next = load.next;
                tell(&format!("growth {held} {id_bytes}"), round, Who::Gate, &load, cpu, asked);
                let [sold_out, admit, cpu_us] = &mut *figures;
                if full {
                    sold_out.push(load.rate());
                } else {
                    admit.push(load.rate());
                    cpu_us.push(cpu.used_s * 1e6 / load.answers() as f64);
                }
                arena.clear().await?;
            }
        }
    }
    for ((held, id_bytes), [sold_out, admit, cpu_us]) in cases.iter().zip(&rates) {
        table.push(vec![
            short(f64::from(*held as u32)),
            id_bytes.to_string(),
            text(sold_out),
            text(admit),
            text(cpu_us),
        ]);
    }
    sheet.say(&format!(
        "### How the cost grows\n\nThe gate, {CONNECTIONS} connections, {rounds} rounds: with so many coupons given \
         away already, and with longer user ids. Beyond 100,000 holders an isolate does not keep them, and every \
         claim after sold-out goes to Redis, many in one command."
    ));
    sheet.table(&table);
    if let (Some([_, small, _]), Some([_, large, _])) = (rates.first(), rates.get(2)) {
        sheet.ratio("edge.admit.1000000_holders_vs_100", Spread::ratio(large, small), Aim::AtLeast(0.9));
    }
    Ok(())
}
