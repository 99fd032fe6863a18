//! The operator's verbs: everything but `issuer run`.

/// `println!` for whom nobody may be listening any more.
macro_rules! say {
    ($($text:tt)*) => { $crate::operator::say(format_args!($($text)*)) };
}

pub mod campaign;
pub mod check_config;
pub mod dlq;
pub mod export;
pub mod probe;
pub mod verify;

use self::campaign::publish::{self, CampaignError};
use crate::cli::args::{CampaignCommand, CreateArgs, DlqCommand, MigrateArgs, SourceArgs};
use crate::config::{Cli, Command, DatabaseSettings, Problems};
use crate::kafka::settings::KafkaSettings;
use crate::redis::client::{self as redis, Redis};
use crate::store::mysql::Database;
use crate::store::mysql::schema::MigrationState;
use crate::timestamp;
use campaign::state::Wish;
use clap::CommandFactory;
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::{Fault, Source};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt;
use std::io::Write as _;
use verify::findings::Verdict;

/// Connections of a verb.
const CONNECTIONS: u32 = 2;
/// How often `reconcile` mends and looks again.
const ROUNDS: u32 = 3;

/// Says a line on standard output. Whoever listened may have heard enough (`| head`): what is being done
/// is done nevertheless, and its status tells.
fn say(line: fmt::Arguments<'_>) {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("issuer: standard output cannot be written: {error}");
        }
        _ => {}
    }
}

/// Why a verb ends with another status than 0.
#[derive(Debug)]
pub struct Ended {
    /// The process's exit status.
    pub status: u8,
    /// For standard error; empty where all was said on standard output.
    pub text: String,
}

impl Ended {
    fn failed(text: impl Into<String>) -> Self {
        Self { status: 1, text: text.into() }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { status: 2, text: text.into() }
    }
}

impl From<Problems> for Ended {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string())
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        // What a server refuses for a reason will be refused again; all else is simply not known.
        Self { status: if fault.retry { 3 } else { 1 }, text: fault.to_string() }
    }
}

impl From<CampaignError> for Ended {
    fn from(error: CampaignError) -> Self {
        let status = match &error {
            CampaignError::Fault(fault) => return fault.clone().into(),
            CampaignError::GateNotTold { .. } => 3,
            CampaignError::Unknown(_) => 2,
            CampaignError::Exists { .. } | CampaignError::Closed(_) | CampaignError::Lower { .. } => 1,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// The three servers of a verb.
pub struct Servers {
    /// MySQL.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Kafka, where it is configured.
    pub kafka: Option<KafkaSettings>,
    shown: String,
}

impl Servers {
    fn open(args: &SourceArgs) -> Result<Self, Ended> {
        let (database, redis, kafka) = args.settings()?;
        let redis = redis::client(&redis).map_err(Ended::failed)?;
        Ok(Self { database: open(&database), redis, kafka, shown: database.shown })
    }

    fn tell(&self, result: Result<String, CampaignError>) -> Result<(), Ended> {
        say!("{}", result.map_err(|error| at(&self.shown, error))?);
        Ok(())
    }
}

fn open(settings: &DatabaseSettings) -> Database {
    Database::new(settings.options.clone(), CONNECTIONS)
}

/// A failure of MySQL, with the address at which it was looked for.
fn named(mut ended: Ended, source: Option<Source>, shown: &str) -> Ended {
    if source == Some(Source::MySql) {
        ended.text = format!("{}\n  DATABASE_URL is {shown}", ended.text);
    }
    ended
}

fn at(shown: &str, error: CampaignError) -> Ended {
    let source = match &error {
        CampaignError::Fault(fault) => Some(fault.source),
        _ => None,
    };
    named(error.into(), source, shown)
}

fn fault_at(settings: &DatabaseSettings) -> impl Fn(Fault) -> Ended {
    |fault| at(&settings.shown, fault.into())
}

/// Does what the command line asks for.
///
/// # Errors
/// [`Ended`].
pub async fn dispatch(command: Command) -> Result<(), Ended> {
    match command {
        // The service is not the operator's; `app` runs it.
        Command::Run(_) => Ok(()),
        Command::Migrate(args) => migrate(args).await,
        Command::Campaign(command) => on_campaign(command).await,
        Command::Verify(args) => {
            let secret = secret(args.coupon_code_secret.as_deref())?;
            let servers = Servers::open(&args.sources)?;
            let report = verify::verify(&servers, &args.id, secret.as_ref()).await;
            let report = report.map_err(|error| at(&servers.shown, error).unless_violated())?;
            say!("{}", if args.json { report.json(args.show_users) } else { report.human(args.show_users) });
            end_with(report.verdict())
        }
        Command::Reconcile(args) => reconcile(args).await,
        Command::Dlq(command) => on_dead_letters(command).await,
        Command::Export(args) => {
            let settings = args.database.settings()?;
            export::export(&open(&settings), &settings.shown, &args).await
        }
        Command::CheckConfig(args) => check_config::check(&args).await,
        Command::Probe(args) => probe::probe(&args).await,
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "issuer", &mut script);
            say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

impl Ended {
    /// `verify` keeps status 1 for a broken promise: that a server refuses to be looked into is none.
    fn unless_violated(mut self) -> Self {
        self.status = if self.status == 1 { 3 } else { self.status };
        self
    }
}

fn end_with(verdict: Verdict) -> Result<(), Ended> {
    match verdict.status() {
        0 => Ok(()),
        status => Err(Ended { status, text: String::new() }),
    }
}

fn secret(text: Option<&str>) -> Result<Option<CodeSecret>, Ended> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    text.map(|text| CodeSecret::parse(text).map_err(|error| Ended::usage(format!("COUPON_CODE_SECRET: {error}"))))
        .transpose()
}

async fn reconcile(args: crate::cli::args::ReconcileArgs) -> Result<(), Ended> {
    let verify = args.verify;
    let secret = secret(verify.coupon_code_secret.as_deref())?;
    let servers = Servers::open(&verify.sources)?;
    let look = || verify::verify(&servers, &verify.id, secret.as_ref());
    let named = |error| at(&servers.shown, error).unless_violated();
    let mut report = look().await.map_err(named)?;
    // A publish may bring to light what could not be compared before.
    for _ in 0..ROUNDS {
        if !verify.json {
            say!("{}", report.plan());
        }
        if !args.apply || !report.needs_repair() {
            break;
        }
        let done = verify::repair(&servers, &verify.id, &report).await.map_err(named)?;
        if !verify.json {
            say!("{done}\n");
        }
        report = look().await.map_err(named)?;
    }
    say!("{}", if verify.json { report.json(verify.show_users) } else { report.human(verify.show_users) });
    if !args.apply && report.needs_repair() && !verify.json {
        say!("\nnothing was changed: `issuer reconcile {} --apply` does it", verify.id);
    }
    end_with(report.verdict())
}

async fn on_campaign(command: CampaignCommand) -> Result<(), Ended> {
    let set = async |args: SourceArgs, id, wish| {
        let servers = Servers::open(&args)?;
        let kafka = servers.kafka.as_ref();
        servers.tell(campaign::state::set(&servers.database, &servers.redis, kafka, &id, wish).await)
    };
    match command {
        CampaignCommand::Create(args) => create(args).await,
        CampaignCommand::Publish(args) => {
            let servers = Servers::open(&args.sources)?;
            let kafka = servers.kafka.as_ref();
            servers.tell(publish::publish(&servers.database, &servers.redis, kafka, &args.id).await)
        }
        CampaignCommand::Show(args) => {
            let (database, redis, kafka) = args.sources.at_least_database()?;
            let redis = redis.as_ref().map(redis::client).transpose().map_err(Ended::failed)?;
            let report = campaign::show::show(&open(&database), redis.as_ref(), kafka.as_ref(), &args.id).await;
            let report = report.map_err(|error| at(&database.shown, error))?;
            say!("{}", if args.json { json(&report)? } else { report.human() });
            Ok(())
        }
        CampaignCommand::List(args) => {
            let settings = args.database.settings()?;
            let campaigns = open(&settings).campaigns().await.map_err(fault_at(&settings))?;
            let listed = if args.json {
                campaign::state::list_json(&campaigns)
            } else {
                campaign::state::list_table(&campaigns)
            };
            say!("{listed}");
            Ok(())
        }
        CampaignCommand::Pause(args) => set(args.sources, args.id, Wish::Pause).await,
        CampaignCommand::Resume(args) => set(args.sources, args.id, Wish::Resume { reopen: args.reopen }).await,
        CampaignCommand::Close(args) => set(args.sources, args.id, Wish::Close).await,
        CampaignCommand::Raise(args) => {
            let servers = Servers::open(&args.sources)?;
            let kafka = servers.kafka.as_ref();
            servers
                .tell(campaign::state::raise(&servers.database, &servers.redis, kafka, &args.id, args.capacity).await)
        }
    }
}

async fn create(args: CreateArgs) -> Result<(), Ended> {
    let time =
        |name: &str, text: &str| timestamp::parse(text).map_err(|problem| Ended::usage(format!("{name}: {problem}")));
    let opens_at = if args.opens_at == "now" { None } else { Some(time("--opens-at", &args.opens_at)?) };
    let closes_at = args.closes_at.as_deref().map(|text| time("--closes-at", text)).transpose()?;
    if closes_at.is_some_and(|closes_at| closes_at <= opens_at.unwrap_or_else(timestamp::now)) {
        return Err(Ended::usage("--closes-at must lie after --opens-at"));
    }
    let settings = args.database.settings()?;
    let created = publish::create(&open(&settings), &args.id, args.capacity, opens_at, closes_at).await;
    say!("{}", created.map_err(|error| at(&settings.shown, error))?);
    Ok(())
}

async fn migrate(args: MigrateArgs) -> Result<(), Ended> {
    let settings = args.database.settings()?;
    let database = open(&settings);
    let named = fault_at(&settings);
    if args.status || args.dry_run {
        let all = database.migrations().await.map_err(named)?;
        let pending = all.iter().filter(|migration| migration.state == MigrationState::Pending);
        if args.dry_run {
            let pending: Vec<String> = pending
                .map(|migration| format!("would apply {:04} {}", migration.version, migration.description))
                .collect();
            say!("{}", if pending.is_empty() { "the schema is up to date".to_owned() } else { pending.join("\n") });
        } else {
            let mut rows = vec![["VERSION", "NAME", "STATE", "CHECKSUM"].map(str::to_owned)];
            rows.extend(all.iter().map(|migration| {
                let state = migration.state.as_str().to_owned();
                [
                    format!("{:04}", migration.version),
                    migration.description.clone(),
                    state,
                    migration.checksum.chars().take(16).collect(),
                ]
            }));
            say!("{}", table(&rows));
        }
        let wrong = |state| matches!(state, MigrationState::Altered | MigrationState::Failed | MigrationState::Unknown);
        return match all.iter().find(|migration| wrong(migration.state)) {
            None => Ok(()),
            Some(migration) => Err(Ended::failed(format!(
                "migration {:04} is {}: this build and that database do not belong together",
                migration.version,
                migration.state.as_str()
            ))),
        };
    }
    let applied = database.migrate().await.map_err(named)?;
    if applied.is_empty() {
        say!("the schema is up to date");
    }
    for migration in applied {
        say!("applied {migration}");
    }
    Ok(())
}

async fn on_dead_letters(command: DlqCommand) -> Result<(), Ended> {
    let sources = match &command {
        DlqCommand::List(args) => &args.sources,
        DlqCommand::Show(args) => &args.sources,
        DlqCommand::Replay(args) => &args.sources,
    };
    let (settings, kafka) = sources.settings()?;
    let database = open(&settings);
    let done = match command {
        DlqCommand::List(args) => dlq::list(&database, &kafka, &args).await,
        DlqCommand::Show(args) => dlq::show(&database, &kafka, args.place).await,
        DlqCommand::Replay(args) => dlq::replay(&database, &kafka, &args).await,
    };
    done.map_err(|error| match error {
        dlq::DlqError::Fault(fault) => at(&settings.shown, fault.into()),
        other => Ended::failed(other.to_string()),
    })
}

fn json(value: &impl serde::Serialize) -> Result<String, Ended> {
    serde_json::to_string_pretty(value).map_err(|error| Ended::failed(error.to_string()))
}

/// Columns as wide as their widest cell, two blanks apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A bar on standard error, if that is a terminal.
fn progress(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:12} [{bar:40}] {human_pos}/{human_len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// Enough of a user id to recognise one that is known, and not enough to learn it.
fn masked(user: &str) -> String {
    let length = user.chars().count();
    let shown = if length > 6 { 2 } else { 1 };
    format!("{}***({length})", user.chars().take(shown).collect::<String>())
}
