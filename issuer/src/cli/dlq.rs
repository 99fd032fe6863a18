//! The arguments of the verbs on dead letters.

use super::connections::DlqServerArgs;
use super::help::DLQ;
use crate::timestamp;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use dropgate_shared::ids::CampaignId;
use time::PrimitiveDateTime;

#[derive(Subcommand)]
pub enum DlqCommand {
    /// List dead letters
    #[command(after_help = DLQ)]
    List(DlqListArgs),
    /// Show one dead letter with headers, key and payload
    #[command(after_help = DLQ)]
    Show(DlqShowArgs),
    /// Send dead letters that were not replayed before to their original topic again
    #[command(after_help = DLQ)]
    Replay(DlqReplayArgs),
}

/// Which dead letters.
#[derive(Args, Default)]
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
    /// At most this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

#[derive(Args)]
pub struct DlqListArgs {
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Only those that were not replayed
    #[arg(long)]
    pub remaining: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub json: bool,
    /// Show whole user ids; they are masked otherwise
    #[arg(long)]
    pub show_users: bool,
    #[command(flatten)]
    pub servers: DlqServerArgs,
}

#[derive(Args)]
pub struct DlqShowArgs {
    /// PARTITION/OFFSET, as `dlq list` prints it
    #[arg(value_name = "PARTITION/OFFSET", value_parser = place)]
    pub place: (i32, i64),
    #[command(flatten)]
    pub servers: DlqServerArgs,
}

#[derive(Args)]
pub struct DlqReplayArgs {
    #[command(flatten)]
    pub filter: DlqFilter,
    #[command(flatten)]
    pub options: DlqReplayOptions,
    #[command(flatten)]
    pub servers: DlqServerArgs,
}

/// How dead letters are replayed.
#[derive(Args, Default)]
pub struct DlqReplayOptions {
    /// Print how many would be sent, and send none
    #[arg(long)]
    pub dry_run: bool,
    /// Also those that were replayed before
    #[arg(long)]
    pub again: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("expected PARTITION/OFFSET, two numbers such as 0/17")]
struct PlaceError;

fn place(text: &str) -> Result<(i32, i64), PlaceError> {
    let (partition, offset) = text.split_once('/').ok_or(PlaceError)?;
    match (partition.parse(), offset.parse()) {
        (Ok(partition @ 0..), Ok(offset @ 0..)) => Ok((partition, offset)),
        _ => Err(PlaceError),
    }
}
