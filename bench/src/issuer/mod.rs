//! The issuer beside rows without Kafka and a consumer without batches; and what each does to the other
//! tenants of the database.

mod neighbour;
mod peers;
mod plot;
mod scenarios;
mod setup;

pub use peers::per_message;

use crate::machine;
use crate::report::{Sheet, replace};
use anyhow::{Context as _, Result};
use clap::Args;
use dropgate_local::stack::Site;
use setup::Ground;

/// Coupons of the campaign: more than any scene writes.
const CAPACITY: u32 = 20_000_000;
/// The plot's place in the documentation.
const PLOT: &str = "img/neighbour.svg";

/// What to measure, and how much of it.
#[derive(Debug, Clone, Args)]
pub struct IssuerArgs {
    /// Rounds; every figure is the median of so many
    #[arg(long, env = "ROUNDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Records in the topic; a fifth of it beside the neighbours
    #[arg(long, env = "RECORDS", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..=5_000_000))]
    records: u32,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Only scenes whose name contains this: rows, latency, growth, neighbour
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
}

impl IssuerArgs {
    fn wants(&self, scene: &str) -> bool {
        scene.contains(&self.only)
    }

    /// Records of the scenes that take long.
    fn fewer(&self) -> u32 {
        self.records / 5
    }
}

/// Runs the comparison.
///
/// # Errors
/// If a part does not start, or rows are missing in the end.
pub async fn bench(site: Site, args: &IssuerArgs) -> Result<()> {
    let docs = site.repo.join("docs");
    let plot = if args.write { docs.join(PLOT) } else { site.dir.with_extension("svg") };
    let mut sheet = Sheet::default();
    let mut ground = Ground::start(site, CAPACITY).await?;
    sheet.say(&format!(
        "{}; MySQL, Kafka, Redis and the writers share all cores. {} rounds in alternating order; figures are medians \
         (least..greatest).",
        machine::described(),
        args.rounds
    ));
    if args.wants("rows") {
        scenarios::rows(&mut ground, args, &mut sheet).await?;
    }
    if args.wants("latency") {
        scenarios::latency(&mut ground, args, &mut sheet).await?;
    }
    if args.wants("growth") {
        scenarios::growth(&mut ground, args, &mut sheet).await?;
    }
    if args.wants("neighbour") {
        let panels = scenarios::neighbours(&mut ground, args, &mut sheet).await?;
        if let Some(folder) = plot.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&plot, plot::svg(&panels)).with_context(|| format!("{} cannot be written", plot.display()))?;
        println!("\nplot: {}", plot.display());
        sheet.note(&format!("![latency of the neighbours over time, in each condition]({PLOT})"));
    }
    ground.stop().await?;
    let text = sheet.close();
    if args.write {
        replace(&docs.join("benchmarks.md"), "issuer", &text)?;
    }
    Ok(())
}
