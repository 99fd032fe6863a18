//! From the command line to a verb.

use super::campaign::create::create;
use super::campaign::error::CampaignError;
use super::campaign::list::{list_json, list_table};
use super::campaign::publish::publish;
use super::campaign::reschedule::{Change, reschedule};
use super::campaign::show::show;
use super::campaign::state::{Transition, raise, set};
use super::dlq::{self, DlqError, WithProgress};
use super::exit::Exit;
use super::export::export;
use super::moment::distance;
use super::output::{json, say};
use super::servers::Servers;
use super::verify::compare::verify;
use super::verify::reconcile::{Apply, reconcile};
use super::{check_config, migrate, probe};
use crate::cli::command::{Cli, Command};
use crate::cli::connections::{ServerArgs, ServerSettings};
use crate::cli::dlq::DlqCommand;
use crate::cli::secret_file::with_file_arguments;
use crate::cli::verbs::{CampaignCommand, CreateArgs, ReconcileArgs, RescheduleArgs, VerifyArgs};
use crate::kafka::dead_letter_reader::KafkaDeadLetterReader;
use crate::kafka::dead_letters::KafkaReplayer;
use crate::kafka::settings::KafkaSettings;
use crate::redis::client::{ReqwestHttp, client};
use crate::store::mysql::database::MySqlStore;
use crate::store::mysql::settings::DatabaseSettings;
use crate::store::ports::{Session, Store};
use crate::timestamp::{self, Clock};
use clap::CommandFactory;
use dropgate_shared::ids::CampaignId;
use time::PrimitiveDateTime;

/// Connections of a verb.
const CONNECTIONS: u32 = 2;

/// The servers that the settings name, and the address of MySQL for messages.
type Opened = (Servers<MySqlStore, ReqwestHttp, KafkaSettings>, String);

/// Runs a verb.
pub async fn dispatch(command: Command) -> Result<(), Exit> {
    match command {
        // The service is not the operator's; `app` runs it.
        Command::Run(_) => Ok(()),
        Command::Migrate(args) => {
            let settings = args.database.settings()?;
            let done = migrate::migrate(&open(&settings), &args).await;
            done.map_err(|fault| Exit::at(&settings.shown, fault.into()))
        }
        Command::Campaign(command) => on_campaign(command).await,
        Command::Verify(args) => on_verify(args).await,
        Command::Reconcile(args) => on_reconcile(args).await,
        Command::Dlq(command) => on_dead_letters(command).await,
        Command::Export(args) => {
            let settings = args.database.settings()?;
            export(&open(&settings), &settings.shown, &args).await
        }
        Command::CheckConfig(args) => check_config::check(&args).await,
        Command::Probe(args) => probe::probe(&args).await,
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut with_file_arguments(Cli::command()), "issuer", &mut script);
            say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

fn open(settings: &DatabaseSettings) -> MySqlStore {
    MySqlStore::new(settings, CONNECTIONS)
}

fn open_all(args: &ServerArgs) -> Result<Opened, Exit> {
    let ServerSettings { database, redis, kafka, secrets } = args.settings()?;
    let redis = client(&redis)?;
    let servers = Servers { store: open(&database), redis, kafka, secrets, clock: Clock::system(), progress: true };
    Ok((servers, database.shown))
}

async fn on_campaign(command: CampaignCommand) -> Result<(), Exit> {
    let change = async |args: ServerArgs, id, transition| {
        let (servers, shown) = open_all(&args)?;
        print(&shown, set(&servers, &id, transition).await)
    };
    match command {
        CampaignCommand::Create(args) => on_create(args).await,
        CampaignCommand::Publish(args) => {
            let (servers, shown) = open_all(&args.servers)?;
            print_published(&servers, &shown, &args.id).await
        }
        CampaignCommand::Show(args) => {
            let (database, redis, kafka) = args.servers.at_least_database()?;
            let redis = redis.as_ref().map(client).transpose()?;
            let now = Clock::system().now();
            let report = show(&open(&database), redis.as_ref(), kafka.as_ref(), &args.id, now).await;
            let report = report.map_err(|error| Exit::at(&database.shown, error))?;
            print(&database.shown, if args.json { Ok(json(&report)) } else { Ok(report.to_string()) })
        }
        CampaignCommand::List(args) => {
            let settings = args.database.settings()?;
            let list = async { Ok::<_, CampaignError>(open(&settings).connect().await?.campaigns().await?) };
            let all = list.await.map_err(|error| Exit::at(&settings.shown, error))?;
            let now = Clock::system().now();
            say!("{}", if args.json { list_json(&all, now) } else { list_table(&all, now) });
            Ok(())
        }
        CampaignCommand::Pause(args) => change(args.servers, args.id, Transition::Pause).await,
        CampaignCommand::Resume(args) => {
            change(args.servers, args.id, Transition::Resume { reopen: args.reopen }).await
        }
        CampaignCommand::Close(args) => change(args.servers, args.id, Transition::Close).await,
        CampaignCommand::Raise(args) => {
            let (servers, shown) = open_all(&args.servers)?;
            print(&shown, raise(&servers, &args.id, args.capacity).await)
        }
        CampaignCommand::Reschedule(args) => on_reschedule(args).await,
    }
}

fn print(shown: &str, result: Result<String, CampaignError>) -> Result<(), Exit> {
    say!("{}", result.map_err(|error| Exit::at(shown, error))?);
    Ok(())
}

fn time(name: &str, text: &str) -> Result<PrimitiveDateTime, Exit> {
    timestamp::parse(text).map_err(|problem| Exit::usage(format!("{name}: {problem}")))
}

async fn on_reschedule(args: RescheduleArgs) -> Result<(), Exit> {
    let now = Clock::system().now();
    let opens_at = args.opens_at.as_deref().map(|text| match text {
        "now" => Ok(now),
        text => time("--opens-at", text),
    });
    let closes_at = args.closes_at.as_deref().map(|text| match text {
        "never" => Ok(None),
        text => time("--closes-at", text).map(Some),
    });
    let change = Change { opens_at: opens_at.transpose()?, closes_at: closes_at.transpose()?, reopen: args.reopen };
    if let Some(Some(at)) = change.closes_at
        && at <= now
    {
        let (id, since) = (args.id, distance(at, now));
        return Err(Exit::usage(format!(
            "--closes-at is in the past ({since}); to end it: issuer campaign close {id}"
        )));
    }
    let (servers, shown) = open_all(&args.servers)?;
    print(&shown, reschedule(&servers, &args.id, change).await)
}

async fn on_create(args: CreateArgs) -> Result<(), Exit> {
    let now = Clock::system().now();
    let opens_at = if args.opens_at == "now" { None } else { Some(time("--opens-at", &args.opens_at)?) };
    let closes_at = args.closes_at.as_deref().map(|text| time("--closes-at", text)).transpose()?;
    if closes_at.is_some_and(|closes_at| closes_at <= opens_at.unwrap_or(now)) {
        return Err(Exit::usage("--closes-at must be after --opens-at"));
    }
    let id = &args.id;
    if args.publish {
        // What publishing needs is looked at before anything is created.
        let (servers, shown) = open_all(&args.servers)?;
        if servers.secrets.is_none() {
            return Err(CampaignError::NoSecret(id.clone()).into());
        }
        print(&shown, create(&servers.store, now, id, args.capacity, opens_at, closes_at).await)?;
        return print_published(&servers, &shown, id).await;
    }
    let settings = args.servers.at_least_database()?.0;
    print(&settings.shown, create(&open(&settings), now, id, args.capacity, opens_at, closes_at).await)?;
    say!("next: issuer campaign publish {id}");
    Ok(())
}

async fn print_published(
    servers: &Servers<MySqlStore, ReqwestHttp, KafkaSettings>,
    shown: &str,
    id: &CampaignId,
) -> Result<(), Exit> {
    print(shown, publish(servers, id).await)?;
    say!("next: issuer campaign show {id}");
    Ok(())
}

async fn on_verify(args: VerifyArgs) -> Result<(), Exit> {
    let (servers, shown) = open_all(&args.servers)?;
    let report = verify(&servers, &args.id).await;
    let report = report.map_err(|error| Exit::at(&shown, error).unless_violated())?;
    let shown = report.shown(args.show_users);
    say!("{}", if args.json { shown.json() } else { shown.to_string() });
    end_with(report.status())
}

async fn on_reconcile(ReconcileArgs { apply, reissue, verify, .. }: ReconcileArgs) -> Result<(), Exit> {
    let (servers, shown) = open_all(&verify.servers)?;
    let how = if apply { Apply::Repair { reissue } } else { Apply::Nothing };
    let report = reconcile(&servers, &verify.id, how, |text| {
        if !verify.json {
            say!("{text}");
        }
    });
    let report = report.await.map_err(|error| Exit::at(&shown, error).unless_violated())?;
    let shown = report.shown(verify.show_users);
    say!("{}", if verify.json { shown.json() } else { shown.to_string() });
    if !apply && report.needs_repair(false) && !verify.json {
        say!("\nnothing was changed: `issuer reconcile {} --apply` does it", verify.id);
    }
    end_with(report.status())
}

fn end_with(status: u8) -> Result<(), Exit> {
    match status {
        0 => Ok(()),
        status => Err(Exit { status, text: String::new() }),
    }
}

async fn on_dead_letters(command: DlqCommand) -> Result<(), Exit> {
    let servers = match &command {
        DlqCommand::List(args) => &args.servers,
        DlqCommand::Show(args) => &args.servers,
        DlqCommand::Replay(args) => &args.servers,
    };
    let (settings, kafka) = servers.settings()?;
    let store = open(&settings);
    let reader = async |only| {
        let reader = KafkaDeadLetterReader::open(&kafka, only).await?;
        let total = reader.total();
        Ok::<_, DlqError>(WithProgress::new(reader, total))
    };
    let done = async {
        match command {
            DlqCommand::List(args) => dlq::list(&store, reader(None).await?, &args).await,
            DlqCommand::Show(args) => dlq::show(&store, reader(Some(args.place)).await?, args.place).await,
            DlqCommand::Replay(args) => {
                let reader = reader(None).await?;
                let replayer = KafkaReplayer::new(&kafka)?;
                dlq::replay(&store, reader, &replayer, &Clock::system(), &args.filter, &args.options).await
            }
        }
    };
    let text = done.await.map_err(|error| match error {
        DlqError::Fault(fault) => Exit::at(&settings.shown, fault.into()),
        other => Exit::failed(other.to_string()),
    })?;
    say!("{text}");
    Ok(())
}
