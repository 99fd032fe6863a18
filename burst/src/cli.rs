//! The command line.

use crate::load::identity::Auth;
use crate::load::schedule::ArrivalPattern;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Send a crowd of users at a dropgate edge and check that every promise was kept
#[derive(Debug, Parser)]
#[command(name = "burst", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  verdict PASS
  1  verdict FAIL
  2  invalid usage or settings
  3  edge or database unreachable
  4  verdict CAPACITY KEPT: every coupon is right, and some users were admitted and then refused";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send the claims, wait for the rows in MySQL, print the verdict
    Run(Box<RunArgs>),
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// URL of the edge
    #[arg(long, env = "EDGE_URL", default_value = "http://127.0.0.1:8787")]
    pub url: String,
    /// Campaign id
    #[arg(long)]
    pub campaign: String,
    /// Number of coupons of the campaign
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// Number of distinct users
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub users: u32,
    /// Additional claims by users who already claimed, as a share of --users
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    pub repeats: f64,
    /// The window in which all claims are due: 500ms, 1s, 2m
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub over: Duration,
    /// Distribution of the arrivals over the window
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: ArrivalPattern,
    /// Number of keep-alive connections to the edge
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// Time limit of a request; without a response until then its outcome is unknown
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// Attempts per claim while it is undecided
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub tries: u16,
    /// Upper bound on Retry-After
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub retry_cap: Duration,
    /// How users authenticate
    #[arg(long, value_enum, default_value = "insecure-header")]
    pub auth: Auth,
    /// Environment variable that contains the secret for --auth jwt-hs256
    #[arg(long, value_name = "VARIABLE", default_value = "JWT_SECRET")]
    pub jwt_secret: String,
    /// `iss` of the tokens
    #[arg(long)]
    pub jwt_issuer: Option<String>,
    /// `aud` of the tokens
    #[arg(long)]
    pub jwt_audience: Option<String>,
    /// Database: mysql://user:password@host:port/database
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Check the responses alone, without a database; most checks do not apply then
    #[arg(long)]
    pub answers_only: bool,
    /// How long to wait for the rows
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub wait: Duration,
    /// How long to watch for unexpected rows after the last expected one
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub settle: Duration,
    /// Seed of the schedule; the same seed gives the same claims
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Prefix of the user ids; a number follows
    #[arg(long, default_value = "u-")]
    pub user_prefix: String,
    /// Accept rows of users who are not part of this run
    #[arg(long)]
    pub allow_foreign: bool,
    /// Accept rows with another slot than was promised: for faults in which Redis loses data
    #[arg(long)]
    pub allow_moved: bool,
    /// Write the full report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Title of the report
    #[arg(long, default_value = "dropgate burst")]
    pub title: String,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

/// Parses `1s`, `500ms`, `2m`, `1.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = if let Some(number) = text.strip_suffix("ms") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60.0)
    } else {
        (text, f64::NAN)
    };
    let seconds = number.parse::<f64>().unwrap_or(f64::NAN) * unit_s;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| d.as_secs() <= 86_400)
        .ok_or_else(|| "expected a number with a unit, at most one day: 500ms, 1s, 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "1", "s", "-1s", "1h", "999999s", "nans", "infs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(share("0.2"), Ok(0.2));
        for bad in ["-0.1", "101", "x", "nan"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
