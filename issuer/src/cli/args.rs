//! The arguments of the operator's verbs.

use crate::config::parts;
use crate::config::{DatabaseArgs, DatabaseSettings, KafkaArgs, Problems, RedisArgs, RunArgs};
use crate::kafka::settings::KafkaSettings;
use crate::redis::client::RedisSettings;
use crate::timestamp;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use dropgate_shared::ids::CampaignId;
use std::path::PathBuf;
use time::PrimitiveDateTime;

/// What all verbs end with.
pub const STATUSES: &str = "\
Exit status:
  0  done
  1  it failed, and the message says why
  2  the arguments or the settings are wrong, or there is no such campaign
  3  MySQL, Redis or Kafka did not answer: nothing is known, the same again is safe";

/// What `verify` ends with.
pub const VERDICTS: &str = "\
Exit status, by the verdict:
  0  holds      every promise is kept, and nothing is open
  1  violated   a promise is broken; the findings say which, how often, and what repairs it
  2  the arguments or the settings are wrong, or there is no such campaign
  3  unknown    MySQL, Redis or Kafka did not answer, or does not know the campaign
  4  under way  nothing is broken, and claims are still on their way or wait for you

Example:
  issuer verify spring --json | jq .verdict";

/// What `reconcile` ends with.
pub const RECONCILE: &str = "\
Exit status: that of `issuer verify`, for what is there at the end.

Examples:
  issuer reconcile spring             shows what it would do
  issuer reconcile spring --apply     does it, and looks again";

const DLQ: &str = "\
A dead letter counts as replayed once Kafka has acknowledged it on its first topic; MySQL remembers it
(table dead_letter_replays), so that a second replay sends only the others. Sending twice does no harm.

Examples:
  issuer dlq list --campaign spring --remaining
  issuer dlq show 0/17
  issuer dlq replay --cause unknown_campaign --dry-run
  issuer dlq replay --cause unknown_campaign";

const EXPORT: &str = "\
Spreadsheets take a cell that begins with = + - @, a tab or a return for a formula. In CSV such a user
id gets an apostrophe before it, and standard error tells how many did; --raw leaves ids as they are.
JSON is never changed.

Examples:
  issuer export spring --format csv --out winners.csv
  issuer export spring --format json --refusals | jq length";

/// What `check-config` ends with.
pub const CHECK: &str = "\
Everything that `issuer run` needs is looked at, and each server that is configured is tried. MySQL's
constraints are tried too, in a transaction that is rolled back. Nothing is changed.

Exit status: 0 all is well, 1 something is not.";

/// Connections of a verb that looks into everything.
#[derive(Args)]
pub struct SourceArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl SourceArgs {
    /// MySQL, Redis, and Kafka where it is configured.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<(DatabaseSettings, RedisSettings, Option<KafkaSettings>), Problems> {
        parts::sources(&self.database, &self.redis, &self.kafka)
    }

    /// MySQL, and the others as far as they are configured.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn at_least_database(
        &self,
    ) -> Result<(DatabaseSettings, Option<RedisSettings>, Option<KafkaSettings>), Problems> {
        parts::at_least_database(&self.database, &self.redis, &self.kafka)
    }
}

/// `issuer migrate`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct MigrateArgs {
    /// Say what would be applied, and change nothing
    #[arg(long, conflicts_with = "status")]
    pub dry_run: bool,
    /// Show every migration: applied or pending, with its checksum
    #[arg(long)]
    pub status: bool,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// The verbs of a campaign.
#[derive(Subcommand)]
pub enum CampaignCommand {
    /// Create a campaign in MySQL; the gate knows it after `publish`
    Create(CreateArgs),
    /// Make a campaign known to the gate, or rebuild what Redis knows of it from MySQL
    Publish(OneCampaign),
    /// Show what MySQL, Redis and Kafka know of a campaign
    Show(ShowArgs),
    /// List all campaigns
    List(ListArgs),
    /// Admit nobody until `resume`; who is in stays in
    Pause(OneCampaign),
    /// Admit again after `pause`
    Resume(ResumeArgs),
    /// Admit nobody any more; who is in stays in
    Close(OneCampaign),
    /// Grant a greater capacity, dated in MySQL, and tell the gate
    Raise(RaiseArgs),
}

/// A verb that needs nothing but the campaign.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct OneCampaign {
    /// The campaign
    pub id: CampaignId,
    /// The servers.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// `issuer campaign create`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct CreateArgs {
    /// 1 to 64 characters out of a-z, 0-9 and '-'
    pub id: CampaignId,
    /// How many coupons there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// RFC 3339, or `now`
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub opens_at: String,
    /// RFC 3339; without it the campaign closes when it is sold out
    #[arg(long, value_name = "TIME")]
    pub closes_at: Option<String>,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// `issuer campaign show`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ShowArgs {
    /// The campaign
    pub id: CampaignId,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// The servers.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// `issuer campaign list`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ListArgs {
    /// A JSON array on standard output
    #[arg(long)]
    pub json: bool,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// `issuer campaign resume`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ResumeArgs {
    /// The campaign
    pub id: CampaignId,
    /// Even if it is closed: visitors were told that it is over
    #[arg(long)]
    pub reopen: bool,
    /// The servers.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// `issuer campaign raise`.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct RaiseArgs {
    /// The campaign
    pub id: CampaignId,
    /// How many coupons there are from now on; never fewer than before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// The servers.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// `issuer verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// The campaign
    pub id: CampaignId,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Examples with whole user ids; they are masked otherwise
    #[arg(long)]
    pub show_users: bool,
    /// Where it is given, the code of every coupon is computed again; the same secret as at the gate
    #[arg(long, env = "COUPON_CODE_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub coupon_code_secret: Option<String>,
    /// The servers.
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// `issuer reconcile`.
#[derive(Args)]
pub struct ReconcileArgs {
    /// Do it; without this, only the plan is shown
    #[arg(long, visible_alias = "yes", conflicts_with = "dry_run")]
    pub apply: bool,
    /// Only show the plan, as without --apply
    #[arg(long)]
    pub dry_run: bool,
    /// What `verify` takes.
    #[command(flatten)]
    pub verify: VerifyArgs,
}

/// The verbs on dead letters.
#[derive(Subcommand)]
pub enum DlqCommand {
    /// List dead letters
    #[command(after_help = DLQ)]
    List(DlqListArgs),
    /// Show one dead letter with headers, key and payload
    #[command(after_help = DLQ)]
    Show(DlqShowArgs),
    /// Send dead letters to their first topic again, those that were not sent again before
    #[command(after_help = DLQ)]
    Replay(DlqReplayArgs),
}

/// Which dead letters.
#[derive(Args)]
pub struct DlqFilter {
    /// Only of this campaign
    #[arg(long, value_name = "ID")]
    pub campaign: Option<CampaignId>,
    /// Only with this cause: malformed, unknown_version, unknown_campaign, ..
    #[arg(long, value_name = "LABEL", value_parser = NonEmptyStringValueParser::new())]
    pub cause: Option<String>,
    /// Only those that were given up at this time or later, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    pub since: Option<PrimitiveDateTime>,
    /// Only those that were given up before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = timestamp::parse)]
    pub until: Option<PrimitiveDateTime>,
    /// This many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Whether a progress bar is shown on a terminal.
    #[arg(skip = true)]
    pub progress: bool,
}

/// Where dead letters are, and what is known of their replays.
#[derive(Args)]
pub struct DlqSources {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
}

impl DlqSources {
    /// The settings.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<(DatabaseSettings, KafkaSettings), Problems> {
        parts::database_and_kafka(&self.database, &self.kafka)
    }
}

/// `issuer dlq list`.
#[derive(Args)]
pub struct DlqListArgs {
    /// Which ones.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Only those that were not replayed
    #[arg(long)]
    pub remaining: bool,
    /// A JSON array on standard output
    #[arg(long)]
    pub json: bool,
    /// Whole user ids; they are masked otherwise
    #[arg(long)]
    pub show_users: bool,
    /// The servers.
    #[command(flatten)]
    pub sources: DlqSources,
}

/// `issuer dlq show`.
#[derive(Args)]
pub struct DlqShowArgs {
    /// PARTITION/OFFSET, as `dlq list` prints it
    #[arg(value_name = "PARTITION/OFFSET", value_parser = place)]
    pub place: (i32, i64),
    /// The servers.
    #[command(flatten)]
    pub sources: DlqSources,
}

/// `issuer dlq replay`.
#[derive(Args)]
pub struct DlqReplayArgs {
    /// Which ones.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// How.
    #[command(flatten)]
    pub options: DlqReplayOptions,
    /// The servers.
    #[command(flatten)]
    pub sources: DlqSources,
}

/// How dead letters are replayed.
#[derive(Args)]
pub struct DlqReplayOptions {
    /// Say how many would be sent, and send none
    #[arg(long)]
    pub dry_run: bool,
    /// Also those that were replayed before
    #[arg(long)]
    pub again: bool,
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let parsed = text.split_once('/').and_then(|(partition, offset)| {
        let (partition, offset) = (partition.parse::<i32>().ok()?, offset.parse::<i64>().ok()?);
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    });
    parsed.ok_or_else(|| "it takes PARTITION/OFFSET, two numbers such as 0/17".to_owned())
}

/// Formats of `issuer export`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated with a heading, RFC 4180
    Csv,
    /// One array of objects
    Json,
}

/// `issuer export`.
#[derive(Args)]
#[command(after_help = format!("{EXPORT}\n\n{STATUSES}"))]
pub struct ExportArgs {
    /// The campaign
    pub id: CampaignId,
    /// How it is written
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// The refusals instead of the coupons
    #[arg(long)]
    pub refusals: bool,
    /// A file, which appears when it is complete and only its owner may read; without it standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// CSV with user ids as they are, even where a spreadsheet would compute them
    #[arg(long)]
    pub raw: bool,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// `issuer check-config`.
#[derive(Args)]
pub struct CheckArgs {
    /// A JSON array on standard output
    #[arg(long)]
    pub json: bool,
    /// What `run` takes.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `issuer completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
