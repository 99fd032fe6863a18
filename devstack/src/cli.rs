use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use dropgate_devstack::Paths;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const ENVIRONMENT: &str = "\
Instead of the stack's own servers, yours are used if these variables are set:
  REDIS_URL
  UPSTASH_REDIS_REST_URL, UPSTASH_REDIS_REST_TOKEN
  KAFKA_BOOTSTRAP
  KAFKA_REST_URL, KAFKA_REST_TOKEN
  DATABASE_URL, or DATABASE_KIND=mariadb for a MariaDB instead of the MySQL
Ports are free ones, or those of EDGE_PORT, REDIS_PORT, KAFKA_PORT, MYSQL_PORT, REDIS_REST_PORT,
KAFKA_REST_PORT, ISSUER_PORT.";

/// Runs dropgate with real servers on this machine.
#[derive(Parser)]
#[command(version, after_help = ENVIRONMENT)]
pub struct Cli {
    /// Folder of the checkout.
    #[arg(long, default_value = ".", global = true)]
    pub repo: PathBuf,
    /// Folder for data, logs and secrets.
    #[arg(long, default_value = ".stack", global = true)]
    pub dir: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the stack, send a crowd, print the verdict, stop the stack.
    Demo(DemoArgs),
    /// Start the stack and leave it running.
    Up,
    /// Stop the running stack. Its data is kept.
    Down,
    /// Show the running processes and how to use them.
    Status,
    /// Run an SQL query on the database of the running stack; without a query, open a prompt.
    Sql {
        /// The query.
        query: Option<String>,
    },
    /// Follow the logs of all processes.
    Logs,
    /// Run a command with a database of its own in `DROPGATE_TEST_DATABASE_URL`.
    WithDatabase {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// The supervisor, which `up` starts in the background.
    #[command(hide = true)]
    Supervise,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Number of users who claim a coupon.
    #[arg(long, env = "USERS", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub users: u32,
    /// Number of coupons.
    #[arg(long, env = "CAPACITY", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub capacity: u32,
    /// Repeated claims, as a fraction of the number of users.
    #[arg(long, env = "REPEATS", default_value_t = 0.2)]
    pub repeats: f64,
    /// Time in which all claims arrive.
    #[arg(long, env = "OVER", default_value = "1s")]
    pub over: String,
    /// What the crowd connects to.
    #[arg(long, env = "VIA", value_enum, default_value_t = Via::Workerd)]
    pub via: Via,
}

/// How the crowd of a demo reaches the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// Directly on workerd, the runtime of Cloudflare Workers.
    Workerd,
    /// Through the development server of wrangler, which is slower than the gate.
    Wrangler,
}

impl Cli {
    /// The paths of a stack with its data in `dir`.
    pub fn paths(&self, dir: &Path) -> Result<Paths> {
        let program = std::env::current_exe()?;
        let programs = program.parent().map(Path::to_owned).context("the program has no folder")?;
        Paths::new(&self.repo, &programs, dir)
    }
}
