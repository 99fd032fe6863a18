//! The arguments of the operator's verbs.

use super::connections::{DatabaseArgs, ServerArgs};
use super::help::{EXPORT, STATUSES};
use clap::{Args, Subcommand, ValueEnum};
use dropgate_shared::ids::CampaignId;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct MigrateArgs {
    /// Print what would be applied, and change nothing
    #[arg(long, conflicts_with = "status")]
    pub dry_run: bool,
    /// Show every migration: applied or pending, with its checksum
    #[arg(long)]
    pub status: bool,
    /// Take over tables and columns that exist, look like dropgate's, and were not recorded: for a migration that an
    /// earlier version began and did not end, or a lost table dropgate_migrations
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Subcommand)]
pub enum CampaignCommand {
    /// Create a campaign in MySQL; the gate has it after `publish`
    Create(CreateArgs),
    /// Make a campaign known to the gate, or rebuild its data in Redis from MySQL
    Publish(OneCampaignArgs),
    /// Show a campaign in MySQL, Redis and Kafka
    Show(ShowArgs),
    /// List all campaigns
    List(ListArgs),
    /// Admit nobody until `resume`; admitted users stay admitted
    Pause(OneCampaignArgs),
    /// Admit again after `pause`
    Resume(ResumeArgs),
    /// Admit nobody any more; admitted users stay admitted
    Close(OneCampaignArgs),
    /// Grant a greater capacity, dated in MySQL, and update the gate
    Raise(RaiseArgs),
    /// Move the opening, until it has passed, or the closing time
    Reschedule(RescheduleArgs),
}

/// A verb that needs nothing but the campaign.
#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct OneCampaignArgs {
    /// The campaign
    pub id: CampaignId,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct CreateArgs {
    /// 1 to 64 characters out of a-z, 0-9 and '-'
    pub id: CampaignId,
    /// Number of coupons
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// RFC 3339, or `now`
    #[arg(long, default_value = "now", value_name = "TIME")]
    pub opens_at: String,
    /// RFC 3339; without it the campaign closes when it is sold out
    #[arg(long, value_name = "TIME")]
    pub closes_at: Option<String>,
    /// Publish it at once, as `campaign publish` does; without this, only MySQL is needed
    #[arg(long)]
    pub publish: bool,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ShowArgs {
    /// The campaign
    pub id: CampaignId,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ListArgs {
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct ResumeArgs {
    /// The campaign
    pub id: CampaignId,
    /// Reopen it even if it is closed, and visitors have seen that it is over
    #[arg(long)]
    pub reopen: bool,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct RaiseArgs {
    /// The campaign
    pub id: CampaignId,
    /// New number of coupons; never less than before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
#[command(after_help = STATUSES)]
pub struct RescheduleArgs {
    /// The campaign
    pub id: CampaignId,
    /// RFC 3339, or `now`
    #[arg(long, value_name = "TIME", required_unless_present = "closes_at")]
    pub opens_at: Option<String>,
    /// RFC 3339, or `never`: the campaign closes when it is sold out
    #[arg(long, value_name = "TIME")]
    pub closes_at: Option<String>,
    /// Also if its closing time has passed, and visitors have seen that it is over
    #[arg(long)]
    pub reopen: bool,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
pub struct VerifyArgs {
    /// The campaign
    pub id: CampaignId,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Show whole user ids in examples; they are masked otherwise
    #[arg(long)]
    pub show_users: bool,
    #[command(flatten)]
    pub servers: ServerArgs,
}

#[derive(Args)]
pub struct ReconcileArgs {
    /// Apply the plan; without this, it is only shown
    #[arg(long, visible_alias = "yes", conflicts_with = "dry_run")]
    pub apply: bool,
    /// Only show the plan, as without --apply
    #[arg(long)]
    pub dry_run: bool,
    /// Also write rows again that MySQL has lost in a failover, from what Redis has of them
    #[arg(long, requires = "apply")]
    pub reissue: bool,
    #[command(flatten)]
    pub verify: VerifyArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Comma-separated with a heading, RFC 4180
    Csv,
    /// One object with the rows
    Json,
}

#[derive(Args)]
#[command(after_help = format!("{EXPORT}\n\n{STATUSES}"))]
pub struct ExportArgs {
    /// The campaign
    pub id: CampaignId,
    /// Output format
    #[arg(long, value_enum, default_value = "csv")]
    pub format: Format,
    /// Export the refusals instead of the coupons
    #[arg(long)]
    pub refusals: bool,
    /// Write to this file, which appears when it is complete and which only its owner may read; without it, to
    /// standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Leave user ids unchanged in CSV, even where a spreadsheet would compute them
    #[arg(long)]
    pub raw: bool,
    /// Begin the CSV with a byte order mark, by which Excel recognises UTF-8
    #[arg(long)]
    pub bom: bool,
    #[command(flatten)]
    pub database: DatabaseArgs,
}

#[derive(Args)]
pub struct ProbeArgs {
    /// Where the issuer listens for health checks
    #[arg(long, env = "HTTP_LISTEN", default_value = "127.0.0.1:9464", value_name = "ADDRESS:PORT")]
    pub http_listen: String,
    /// Check whether it is ready for work, not only whether it is alive
    #[arg(long)]
    pub ready: bool,
}

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
