//! The issuer, INSERT without Kafka, and a consumer without batches; and the effect of each on other users of
//! the database.

mod args;
mod neighbour;
mod peers;
mod scenarios;
mod setup;

pub use args::IssuerArgs;
pub use peers::per_message;

use crate::machine;
use crate::report::{Report, replace};
use anyhow::{Context as _, Result};
use dropgate_burst::report::chart;
use dropgate_devstack::Paths;
use setup::IssuerSetup;

/// The plot's place in the documentation.
const PLOT: &str = "img/neighbour.svg";

/// # Errors
/// If a process does not start, or rows are missing at the end.
pub async fn bench(paths: Paths, args: &IssuerArgs) -> Result<()> {
    let docs = paths.repo.join("docs");
    let plot = if args.write { docs.join(PLOT) } else { paths.dir.with_extension("svg") };
    let mut report = Report::default();
    let mut setup = IssuerSetup::start(paths).await?;
    report.say(&format!(
        "{}; MySQL, Kafka, Redis and the writers share all cores. {} rounds in alternating order; figures are medians \
         (min..max).",
        machine::describe(),
        args.rounds
    ));
    if args.wants("rows") {
        scenarios::rows(&mut setup, args, &mut report).await?;
    }
    if args.wants("latency") {
        scenarios::latency(&mut setup, args, &mut report).await?;
    }
    if args.wants("growth") {
        scenarios::growth(&mut setup, args, &mut report).await?;
    }
    if args.wants("neighbour") {
        let panels = scenarios::neighbour(&mut setup, args, &mut report).await?;
        if let Some(directory) = plot.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let svg = chart::latency_panels(&panels, "coupons are written");
        std::fs::write(&plot, svg).with_context(|| format!("cannot write {}", plot.display()))?;
        println!("\nplot: {}", plot.display());
        report.note(&format!("![latency of the neighbour over time, beside each writer]({PLOT})"));
    }
    setup.stop().await?;
    let markdown = report.finish();
    if args.write {
        replace(&docs.join("benchmarks.md"), "issuer", &markdown)?;
    }
    Ok(())
}
