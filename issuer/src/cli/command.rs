//! The command line as a whole.

use super::dlq::DlqCommand;
use super::file;
use super::help::{CHECK_CONFIG, RECONCILE, VERDICTS};
use super::run::{CheckConfigArgs, RunArgs};
use super::secret_file::{with_contents, with_file_arguments};
use super::verbs::{CampaignCommand, CompletionsArgs, ExportArgs, MigrateArgs, ProbeArgs, ReconcileArgs, VerifyArgs};
use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::PathBuf;

/// Turns admitted claims into coupons, and manages campaigns.
#[derive(Parser)]
#[command(name = "issuer", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Settings as TOML: `database_url = "..."`, the variables' names in lower case; environment and flags win
    #[arg(long, env = file::VARIABLE, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line, the environment, the configuration file and the files of secrets. An empty variable
    /// counts as absent: `NAME=` is how many a compose file and shell says "the default". Ends the process where
    /// they are wrong.
    #[must_use]
    pub fn read() -> Self {
        fn or_exit<T>(result: Result<T, impl Display>) -> T {
            result.unwrap_or_else(|problem| {
                eprintln!("issuer: {problem}");
                std::process::exit(2)
            })
        }
        let is_empty = |name: &OsStr| std::env::var(name).is_ok_and(|value| value.trim().is_empty());
        let mut command = with_file_arguments(Self::command());
        if let Some(path) = file::named(std::env::args_os(), std::env::var_os(file::VARIABLE)) {
            command = or_exit(file::with_file(command, &path));
        }
        command = without_empty_variables(command, &is_empty);
        let matches = command.clone().get_matches();
        let matches = or_exit(with_contents(command, &matches)).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

fn without_empty_variables(command: clap::Command, is_empty: &dyn Fn(&OsStr) -> bool) -> clap::Command {
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(|sub| without_empty_variables(sub, is_empty))
}

#[derive(Subcommand)]
pub enum Command {
    /// Consume admitted claims and write coupons until SIGTERM or SIGINT
    Run(Box<RunArgs>),
    /// Bring the schema in MySQL up to date
    Migrate(MigrateArgs),
    /// Create, publish, pause, raise, close and show campaigns
    #[command(subcommand)]
    Campaign(CampaignCommand),
    /// Check that every promise holds: compare MySQL, Redis and Kafka
    #[command(after_help = VERDICTS)]
    Verify(VerifyArgs),
    /// Repair the inconsistencies that `verify` finds
    #[command(after_help = RECONCILE)]
    Reconcile(ReconcileArgs),
    /// Show dead letters, and send them again
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Export the coupons or the refusals of a campaign
    Export(ExportArgs),
    /// Check all settings and test every server
    #[command(after_help = CHECK_CONFIG)]
    CheckConfig(Box<CheckConfigArgs>),
    /// Check the health of an issuer running on this host
    Probe(ProbeArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        with_file_arguments(Cli::command()).debug_assert();
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let command = without_empty_variables(Cli::command(), &|name| name == "BATCH_RECORDS");
        let run = command.get_subcommands().find(|sub| sub.get_name() == "run").unwrap();
        let asks = |name: &str| run.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == name));
        assert!(!asks("BATCH_RECORDS") && asks("WRITE_BUDGET"));
    }
}
