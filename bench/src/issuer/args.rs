//! The arguments of `dropgate-bench issuer`.

use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct IssuerArgs {
    /// Number of rounds; every figure is the median of all rounds
    #[arg(long, env = "ROUNDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Records in the topic; the scenarios growth and neighbour use a fifth of them
    #[arg(long, env = "RECORDS", default_value_t = 500_000,
          value_parser = clap::value_parser!(u32).range(1_000..=5_000_000))]
    pub records: u32,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    pub write: bool,
    /// Only scenarios whose name contains this: rows, latency, growth, neighbour
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
}

impl IssuerArgs {
    #[must_use]
    pub fn wants(&self, scenario: &str) -> bool {
        scenario.contains(&self.only)
    }

    /// Records of the scenarios that take long.
    #[must_use]
    pub fn fewer(&self) -> u32 {
        self.records / 5
    }
}
