//! The arguments of `dropgate-bench edge`.

use clap::Args;
use dropgate_burst::load::identity::Auth;
use std::time::Duration;

#[derive(Debug, Clone, Args)]
pub struct GateArgs {
    /// Number of rounds; every figure is the median of all rounds
    #[arg(long, env = "ROUNDS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Seconds of load on each worker in each round
    #[arg(long, env = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// How users authenticate to the gate and to its peers
    #[arg(long, env = "AUTH", value_enum, default_value = "jwt-hs256")]
    pub auth: Auth,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    pub write: bool,
    /// Only scenarios whose name contains this: sold-out, admission, latency, first-second, growth
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
}

impl GateArgs {
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    #[must_use]
    pub fn wants(&self, scenario: &str) -> bool {
        scenario.contains(&self.only)
    }
}
