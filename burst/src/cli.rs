//! The command line.

use crate::load::schedule::Shape;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Sends a crowd at a dropgate edge, and finds out whether anybody was wronged.
#[derive(Debug, Parser)]
#[command(name = "burst", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 verdict PASS, 1 verdict FAIL, 2 usage or settings, 3 edge or database not reached.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send the crowd, wait for the rows, and judge.
    Run(Box<RunArgs>),
}

/// How a visitor says who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// The header X-User-Id.
    InsecureHeader,
    /// A JWT signed with HS256, in the header Authorization.
    JwtHs256,
}

/// `burst run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The edge.
    #[arg(long, env = "EDGE_URL", default_value = "http://127.0.0.1:8787")]
    pub url: String,
    /// The campaign.
    #[arg(long)]
    pub campaign: String,
    /// N: how many coupons it has.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// Distinct users.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub users: u32,
    /// Additional claims by users already in the list, as a share of the users.
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    pub repeats: f64,
    /// The window in which they all arrive: 1s, 500ms, 2m.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub over: Duration,
    /// How arrivals spread over the window.
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Shape,
    /// Keep-alive connections to the edge.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub connections: u16,
    /// A request without an answer after this long has an unknown outcome.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// How often a visitor presses the button while nothing is decided.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub tries: u16,
    /// The longest that a visitor heeds Retry-After.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub retry_cap: Duration,
    /// How a visitor says who he is.
    #[arg(long, value_enum, default_value = "insecure-header")]
    pub auth: Auth,
    /// The environment variable that holds the secret of --auth jwt-hs256.
    #[arg(long, value_name = "VARIABLE", default_value = "JWT_SECRET")]
    pub jwt_secret: String,
    /// `iss` of the tokens.
    #[arg(long)]
    pub jwt_issuer: Option<String>,
    /// `aud` of the tokens.
    #[arg(long)]
    pub jwt_audience: Option<String>,
    /// The database: mysql://user:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Judge the answers alone, without a database. Most checks do not apply then.
    #[arg(long)]
    pub answers_only: bool,
    /// How long to wait for the rows.
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub wait: Duration,
    /// How long to watch for rows that should not come, after the last that should.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub settle: Duration,
    /// The same seed gives the same crowd.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What user ids begin with; a number follows. A new prefix is a new crowd.
    #[arg(long, default_value = "u-")]
    pub user_prefix: String,
    /// Rows of users that this run did not send are no fault.
    #[arg(long)]
    pub allow_foreign: bool,
    /// A row may have another slot than its user was told: for faults in which Redis loses data.
    #[arg(long)]
    pub allow_moved: bool,
    /// Write everything as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report as one HTML page.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Title of the report.
    #[arg(long, default_value = "dropgate burst")]
    pub title: String,
    /// No progress.
    #[arg(long, short)]
    pub quiet: bool,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=100.0).contains(share)).ok_or_else(|| "a number from 0 to 100".to_owned())
}

/// Reads `1s`, `500ms`, `2m`, `1.5s`.
///
/// # Errors
/// What would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
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
        .ok_or_else(|| "a number and its unit, up to a day: 500ms, 1s, 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
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
