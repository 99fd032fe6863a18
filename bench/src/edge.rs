//! The gate against a bare worker, which is the ceiling, and against the workers that most people
//! would write: on workerd itself, one processor for the worker and one for everything else.

use crate::load::{Closed, JWT_AUDIENCE, JWT_SECRET, Latency, Measured, open, tokens};
use crate::ratio::Spread;
use crate::report::{Report, Table};
use crate::system::{Asked, System};
use anyhow::{Context as _, Result, ensure};
use dropgate_local::stack::{Code, Worker};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds; in every other one the workers take turns the other way round.
    pub rounds: u32,
    /// Seconds of one measurement.
    pub seconds: u32,
}

/// Claims that a measurement may send to begin with: more than any worker takes in a second.
const TOKENS_A_SECOND: u32 = 40_000;
const CAPACITY: u64 = 50_000_000;

/// The workers, by the names in the tables.
const GATE: &str = "gate";
const CEILING: &str = "ceiling";
const USUAL: &str = "usual";
const USUAL_EVAL: &str = "usual, eval";

struct Bench {
    system: System,
    plan: Plan,
    tokens: PathBuf,
    workers: BTreeMap<&'static str, Worker>,
    /// The usual workers once more, with the capacity of a campaign that is sold out.
    small: BTreeMap<&'static str, Worker>,
    campaigns: u32,
}

/// One measurement of one worker.
#[derive(Debug, Clone, Copy)]
struct Turn {
    measured: Measured,
    asked: Asked,
}

impl Turn {
    fn claims(&self) -> f64 {
        let answers = self.measured.good + self.measured.refused;
        u32::try_from(answers).map_or(f64::MAX, f64::from)
    }

    fn redis_a_claim(&self) -> f64 {
        u32::try_from(self.asked.redis).map_or(f64::MAX, f64::from) / self.claims()
    }

    fn kafka_a_claim(&self) -> f64 {
        u32::try_from(self.asked.kafka).map_or(f64::MAX, f64::from) / self.claims()
    }
}

type Turns = BTreeMap<&'static str, Vec<Turn>>;

/// Runs the whole bench and returns what it has to tell.
///
/// # Errors
/// If a server does not come up, or a worker answers what it must not.
pub async fn run(repo: &Path, programs: &Path, plan: Plan) -> Result<Report> {
    let dir = repo.join("target/bench/edge");
    let system = System::start(repo, programs, &dir).await?;
    let tokens_file = dir.join("tokens");
    tokens(&tokens_file, TOKENS_A_SECOND * (plan.seconds + 1), 12)?;
    let mut bench =
        Bench { system, plan, tokens: tokens_file, workers: BTreeMap::new(), small: BTreeMap::new(), campaigns: 0 };
    bench.start_workers(repo).await?;

    let mut report = Report::default();
    bench.sold_out(&mut report).await?;
    for (connections, name, aim) in
        [(64, "edge.admit_c64.vs_usual_worker", 2.0), (256, "edge.admit_c256.vs_usual_worker", 3.0)]
    {
        bench.admission(&mut report, connections, name, aim).await?;
    }
    bench.fixed_rate(&mut report).await?;
    bench.first_second(&mut report).await?;
    bench.growth(&mut report).await?;

    let size = gzipped(&[repo.join("edge/build/index_bg.wasm"), repo.join("edge/build/index.js")])?;
    let size_kb = f64::from(u32::try_from(size)?) / 1024.0;
    report.ratio("edge.wasm_gzip_kb", Spread::of([size_kb]), Some(("250 at most", size_kb <= 250.0)));
    let Bench { system, workers, small, .. } = bench;
    for worker in workers.into_values().chain(small.into_values()) {
        worker.part.stop().await?;
    }
    system.stack.stop().await?;
    Ok(report)
}

fn gzipped(files: &[PathBuf]) -> Result<u64> {
    let output = std::process::Command::new("sh")
        .args(["-c", "cat \"$@\" | gzip -9c | wc -c", "sh"])
        .args(files)
        .output()
        .context("gzip cannot be run")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the worker is not built: make edge")
}

impl Bench {
    async fn start_workers(&mut self, repo: &Path) -> Result<()> {
        let stack = &self.system.stack;
        let gate = [("AUTH", "jwt-hs256"), ("JWT_SECRET", JWT_SECRET), ("JWT_AUDIENCE", JWT_AUDIENCE)];
        let settings = stack.endpoints.gate_vars();
        let with = |more: &[(&'static str, &'static str)]| [&settings[..], more].concat();
        let script = |name: &str| repo.join(format!("bench/peers/build/{name}.js"));
        let large = [&gate[..], &[("CAPACITY", "50000000")]].concat();
        let small = [&gate[..], &[("CAPACITY", "100")]].concat();
        let (usual, eval, ceiling) = (script("usual"), script("usual-eval"), script("ceiling"));
        for (name, log, code, vars) in [
            (GATE, "worker-gate", Code::Gate, with(&gate)),
            (CEILING, "worker-ceiling", Code::Script(&ceiling), vec![]),
            (USUAL, "worker-usual", Code::Script(&usual), with(&large)),
            (USUAL_EVAL, "worker-usual-eval", Code::Script(&eval), with(&large)),
        ] {
            self.workers.insert(name, stack.worker(code, log, &vars, &[]).await?);
        }
        for (name, log, code) in [
            (USUAL, "worker-usual-small", Code::Script(&usual)),
            (USUAL_EVAL, "worker-usual-eval-small", Code::Script(&eval)),
        ] {
            self.small.insert(name, stack.worker(code, log, &with(&small), &[]).await?);
        }
        for worker in self.workers.values().chain(self.small.values()) {
            System::pin_worker(worker.part.pid())?;
        }
        Ok(())
    }

    fn new_campaign(&mut self) -> String {
        self.campaigns += 1;
        format!("bench-{}", self.campaigns)
    }

    async fn turn(&self, url: &str, campaign: &str, connections: u32, tokens: &PathBuf) -> Result<Turn> {
        let seconds = self.plan.seconds;
        // A second to warm up, by other users.
        let warm = TOKENS_A_SECOND * seconds + 1;
        Closed { url, campaign, connections, seconds: 1, tokens, first: warm }.measure().await?;
        let before = self.system.quiet().await?;
        let measured = Closed { url, campaign, connections, seconds, tokens, first: 1 }.measure().await?;
        let asked = self.system.quiet().await?.since(before);
        Ok(Turn { measured, asked })
    }

    /// All workers, round for round, in alternating order; `turn` measures one of them.
    async fn rounds(
        &mut self,
        what: &str,
        names: &[&'static str],
        mut turn: impl AsyncFnMut(&mut Self, &'static str) -> Result<Turn>,
    ) -> Result<Turns> {
        let mut turns = Turns::new();
        for round in 1..=self.plan.rounds {
            let mut order = names.to_vec();
            if round % 2 == 0 {
                order.reverse();
            }
            for name in order {
                let one = turn(self, name).await.with_context(|| format!("{what}: {name}"))?;
                println!(
                    "{what}  round {round}/{}  {name:<12} {:>8.0}/s  p99 {:>7.2} ms  redis {:>8}  kafka {:>7}",
                    self.plan.rounds, one.measured.per_s, one.measured.p99_ms, one.asked.redis, one.asked.kafka
                );
                turns.entry(name).or_default().push(one);
            }
        }
        Ok(turns)
    }

    async fn sold_out(&mut self, report: &mut Report) -> Result<()> {
        let campaign = self.new_campaign();
        self.system.campaign(&campaign, 100, 100).await?;
        let set = |key: String| vec!["SET".to_owned(), key, "100".to_owned()];
        let counts = [set(format!("usual:{campaign}:count")), set(format!("usual-eval:{{{campaign}}}:count"))];
        self.system.redis(&counts).await?;
        let turns = self
            .rounds("sold out, 64 connections", &[GATE, CEILING, USUAL, USUAL_EVAL], async |bench, name| {
                let worker = bench.small.get(name).or_else(|| bench.workers.get(name)).context("no worker")?;
                // The usual worker would know the users of the round before.
                let forget = ["DEL".to_owned(), format!("usual:{campaign}:users")].to_vec();
                bench.system.redis(&[forget]).await?;
                let url = worker.url.clone();
                let turn = bench.turn(&url, &campaign, 64, &bench.tokens).await?;
                ensure!(turn.measured.good == 0, "{} strangers were let in", turn.measured.good);
                Ok(turn)
            })
            .await?;
        report.tables.push(table("Sold out: 64 connections, each claim a stranger with a token of his own", &turns));
        let ceiling = ratios(&turns, GATE, CEILING);
        report.ratio("edge.sold_out.vs_ceiling", ceiling, Some(("0.9 at least", ceiling.median >= 0.9)));
        let usual = ratios(&turns, GATE, USUAL);
        report.ratio("edge.sold_out.vs_usual_worker", usual, Some(("4 at least", usual.median >= 4.0)));
        let calls =
            Spread::of(turns.get(GATE).into_iter().flatten().map(|turn| {
                u32::try_from(turn.asked.redis).map_or(f64::MAX, f64::from) / f64::from(self.plan.seconds)
            }));
        report.ratio("edge.sold_out.upstream_calls_per_s", calls, Some(("about 1", calls.median <= 2.0)));
        Ok(())
    }

    async fn admission(&mut self, report: &mut Report, connections: u32, name: &'static str, least: f64) -> Result<()> {
        let what = format!("admission, {connections} connections");
        let turns = self
            .rounds(&what, &[GATE, USUAL, USUAL_EVAL], async |bench, name| {
                let campaign = bench.new_campaign();
                bench.system.campaign(&campaign, CAPACITY, 0).await?;
                let url = bench.workers.get(name).context("no worker")?.url.clone();
                let turn = bench.turn(&url, &campaign, connections, &bench.tokens).await?;
                ensure!(turn.measured.refused == 0, "{} claims were refused", turn.measured.refused);
                Ok(turn)
            })
            .await?;
        report.tables.push(table(&format!("Admission: {connections} connections, each claim a new user"), &turns));
        let ratio = ratios(&turns, GATE, USUAL);
        let aim = if least > 2.0 { "3 at least" } else { "2 at least" };
        report.ratio(name, ratio, Some((aim, ratio.median >= least)));
        if connections == 256 {
            let redis = Spread::of(turns.get(GATE).into_iter().flatten().map(Turn::redis_a_claim));
            let aim = ("0.1 at most", redis.median <= 0.1);
            report.ratio("edge.admit_c256.redis_commands_per_claim", redis, Some(aim));
            let kafka = Spread::of(turns.get(GATE).into_iter().flatten().map(Turn::kafka_a_claim));
            report.ratio("edge.admit_c256.kafka_calls_per_claim", kafka, None);
        }
        Ok(())
    }

    /// Latency where nothing is saturated: claims come at their own moments, whatever the answers do.
    async fn fixed_rate(&mut self, report: &mut Report) -> Result<()> {
        let sold_out = self.new_campaign();
        self.system.campaign(&sold_out, 100, 100).await?;
        let mut rows = Vec::new();
        for (what, names, rate) in
            [("sold out", vec![GATE, CEILING], 5_000), ("admission", vec![GATE, USUAL, USUAL_EVAL], 500)]
        {
            let mut heard: BTreeMap<&str, Vec<Latency>> = BTreeMap::new();
            for round in 0..self.plan.rounds {
                let mut order = names.clone();
                if round % 2 == 1 {
                    order.reverse();
                }
                for name in order {
                    let campaign = if what == "sold out" {
                        sold_out.clone()
                    } else {
                        let campaign = self.new_campaign();
                        self.system.campaign(&campaign, 1_000_000, 0).await?;
                        campaign
                    };
                    let url = self.workers.get(name).context("no worker")?.url.clone();
                    self.system.quiet().await?;
                    let latency =
                        open(&self.system, &url, &campaign, (rate * self.plan.seconds, 1_000 * self.plan.seconds));
                    let latency = latency.await.with_context(|| format!("{what} at {rate}/s: {name}"))?;
                    println!("{what} at {rate}/s  {name:<12} p50 {} ms  p99 {} ms", latency.p50_ms, latency.p99_ms);
                    heard.entry(name).or_default().push(latency);
                }
            }
            for name in names {
                let of = |value: fn(&Latency) -> f64| Spread::of(heard.get(name).into_iter().flatten().map(value));
                rows.push(vec![
                    format!("{what}, {rate}/s"),
                    name.to_owned(),
                    of(|latency| latency.p50_ms).to_string(),
                    of(|latency| latency.p99_ms).to_string(),
                ]);
            }
        }
        let head = vec!["arrivals", "worker", "p50 ms", "p99 ms"];
        report.tables.push(Table { title: "Latency at a fixed rate of arrivals, below saturation".into(), head, rows });
        Ok(())
    }

    /// A crowd of 10,000 within a second for 100 coupons, on one isolate.
    async fn first_second(&mut self, report: &mut Report) -> Result<()> {
        let mut rows = Vec::new();
        let mut commands = Vec::new();
        for round in 1..=self.plan.rounds {
            let campaign = self.new_campaign();
            self.system.campaign(&campaign, 100, 0).await?;
            let url = self.workers.get(GATE).context("no worker")?.url.clone();
            let before = self.system.quiet().await?;
            let latency = open(&self.system, &url, &campaign, (10_000, 1_000)).await?;
            let asked = self.system.quiet().await?.since(before);
            let wrong =
                latency.admitted != 100 || latency.sold_out != 9_900 || self.system.count(&campaign).await? != 100;
            ensure!(!wrong, "somebody was answered wrongly: {latency:?}");
            commands.push(u32::try_from(asked.redis).map_or(f64::MAX, f64::from));
            println!("first second  round {round}  {asked:?}  {latency:?}");
            rows.push(vec![
                round.to_string(),
                asked.redis.to_string(),
                asked.kafka.to_string(),
                format!("{:.1}", latency.p50_ms),
                format!("{:.1}", latency.p99_ms),
                format!("{} / {} / {}", latency.admitted, latency.sold_out, latency.others),
            ]);
        }
        let head = vec!["round", "Redis commands", "Kafka calls", "p50 ms", "p99 ms", "admitted / sold out / other"];
        let title = "The first second: 10,000 arrivals within one second for 100 coupons, one isolate".into();
        report.tables.push(Table { title, head, rows });
        report.ratio("edge.first_second.redis_commands", Spread::of(commands), None);
        Ok(())
    }

    /// How the cost of a claim grows with the campaign, and with the length of ids.
    async fn growth(&mut self, report: &mut Report) -> Result<()> {
        let url = self.workers.get(GATE).context("no worker")?.url.clone();
        let mut rows = Vec::new();
        for held in [100, 10_000, 1_000_000] {
            let (full, half) = (self.new_campaign(), self.new_campaign());
            self.system.campaign(&full, held, held).await?;
            self.system.campaign(&half, CAPACITY, held).await?;
            let full = self.turn(&url, &full, 64, &self.tokens).await?;
            let half = self.turn(&url, &half, 64, &self.tokens).await?;
            println!("{held} held  sold out {:.0}/s  admission {:.0}/s", full.measured.per_s, half.measured.per_s);
            rows.push(vec![
                format!("{held} claims held"),
                format!("{:.0}", full.measured.per_s),
                format!("{:.4}", full.redis_a_claim()),
                format!("{:.0}", half.measured.per_s),
            ]);
        }
        let full = self.new_campaign();
        self.system.campaign(&full, 100, 100).await?;
        for id_bytes in [8, 64, 128] {
            let file = self.system.dir.join(format!("tokens-{id_bytes}"));
            tokens(&file, TOKENS_A_SECOND * (self.plan.seconds + 1), id_bytes)?;
            let open = self.new_campaign();
            self.system.campaign(&open, CAPACITY, 0).await?;
            let sold = self.turn(&url, &full, 64, &file).await?;
            let open = self.turn(&url, &open, 64, &file).await?;
            println!(
                "ids of {id_bytes}  sold out {:.0}/s  admission {:.0}/s",
                sold.measured.per_s, open.measured.per_s
            );
            rows.push(vec![
                format!("ids of {id_bytes} bytes"),
                format!("{:.0}", sold.measured.per_s),
                format!("{:.4}", sold.redis_a_claim()),
                format!("{:.0}", open.measured.per_s),
            ]);
        }
        let head = vec!["the gate with", "sold out, answers/s", "Redis commands a claim", "admission, claims/s"];
        report.tables.push(Table { title: "How the cost grows: 64 connections, one round".into(), head, rows });
        Ok(())
    }
}

/// What two workers made of the same round, one divided by the other.
fn ratios(turns: &Turns, ours: &str, theirs: &str) -> Spread {
    let of = |name: &str| turns.get(name).map(Vec::as_slice).unwrap_or_default();
    Spread::of(of(ours).iter().zip(of(theirs)).map(|(ours, theirs)| ours.measured.per_s / theirs.measured.per_s))
}

fn table(title: &str, turns: &Turns) -> Table {
    let rows = turns.iter().map(|(name, turns)| {
        let of = |value: fn(&Turn) -> f64| Spread::of(turns.iter().map(value)).to_string();
        vec![
            (*name).to_owned(),
            of(|turn| turn.measured.per_s),
            of(|turn| turn.measured.p99_ms),
            of(Turn::redis_a_claim),
            of(Turn::kafka_a_claim),
        ]
    });
    let head = vec!["worker", "claims/s", "p99 ms", "Redis commands a claim", "Kafka calls a claim"];
    Table { title: title.to_owned(), head, rows: rows.collect() }
}
