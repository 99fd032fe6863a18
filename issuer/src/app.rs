//! The binary: command line, log, signals, and the order in which things are opened and closed.

use crate::backoff::{Backoff, Jitter, OutageLog};
use crate::cli::command::{Cli, Command};
use crate::config::redact::redacted;
use crate::config::settings::RunSettings;
use crate::consume::service::{Limits, Service, Step};
use crate::consume::traces::Traces;
use crate::health::{Health, State};
use crate::http::{self, HttpState};
use crate::kafka::consumer::KafkaSource;
use crate::kafka::dead_letters::KafkaDeadLetters;
use crate::kafka::topics;
use crate::metrics::Metrics;
use crate::operator::dispatch::dispatch as operate;
use crate::operator::exit::Exit;
use crate::redis::client::client;
use crate::redis::confirm;
use crate::redis::probe::probe;
use crate::sample::Sampler;
use crate::store::coupon_writer::CouponWriter;
use crate::store::mysql::database::MySqlStore;
use crate::timestamp::Clock;
use crate::waitlist::{IN_FLIGHT, Waitlist};
use dropgate_shared::fault::Fault;
use std::fmt;
use std::future::Future;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

/// Connections to MySQL. The loop uses one, and the list of claims that wait uses one now and then; the third stands in
/// for one that died.
const CONNECTIONS: u32 = 3;
/// How long the confirmations of the last batches may take.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);
/// How long the connections to MySQL may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Signals closer together than this are one.
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// Runs the binary.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::read();
    log_to_stderr(matches!(cli.command, Command::Run(_)));
    // reqwest is built without a provider of its own. An error means that one is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("issuer: cannot create the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(cli.command));
    // A call into librdkafka that still blocks must not hold the process up.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if !exit.text.is_empty() {
                eprintln!("issuer: {}", exit.text);
            }
            ExitCode::from(exit.status)
        }
    }
}

fn log_to_stderr(is_service: bool) {
    // sqlx reports a dying connection at several levels; the loop reports it once, with the remedy. A command reports
    // what it has found, and not each try of Kafka's client.
    let default = if is_service { "info,sqlx=error" } else { "info,sqlx=error,librdkafka=off" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // Below this level the exporter prints the collector's whole address, which may hold a token.
    let filter = match "opentelemetry-otlp=info".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if terminal {
        log.with_target(false).init();
    } else {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
}

async fn dispatch(command: Command) -> Result<(), Exit> {
    match command {
        Command::Run(args) => run(args.settings()?).await,
        other => operate(other).await,
    }
}

/// `issuer run`, from the first check to the last log line.
async fn run(settings: RunSettings) -> Result<(), Exit> {
    let mut stop = stop_on_signal()?;
    let (clock, jitter) = (Clock::system(), Jitter::system());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        database = settings.database.shown,
        kafka = settings.kafka.bootstrap,
        group = settings.kafka.group,
        topic = settings.kafka.topics.admissions,
        redis_key_prefix = settings.redis.prefix.as_str(),
        redis = redacted(&settings.redis.url),
        code_keys = settings.secrets.ids(),
        batch_records = settings.batch_records,
        write_budget = %settings.write_budget,
        "issuer starting"
    );
    let database = MySqlStore::new(&settings.database, CONNECTIONS);
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(Arc::clone(&metrics)));
    if let Some(address) = settings.http_listen {
        let listener = http::bind(address).await.map_err(|error| Exit::usage(error.to_string()))?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "serving health and metrics");
        }
        tokio::spawn(http::serve(
            listener,
            HttpState::new(Arc::clone(&health), Arc::clone(&metrics), database.clone()),
        ));
    }
    let traces = match &settings.otlp_endpoint {
        None => Traces::default(),
        Some(endpoint) => {
            let shown = redacted(endpoint);
            tracing::info!(endpoint = shown, "sending traces");
            // The library's text quotes the address, which may hold a token.
            let unusable = |_| {
                Exit::usage(format!(
                    "OTEL_EXPORTER_OTLP_ENDPOINT {shown} cannot be used, or an OTEL_EXPORTER_OTLP_.. variable"
                ))
            };
            Traces::to(endpoint, &settings.kafka.topics.admissions).map_err(unusable)?
        }
    };
    let Some(migrated) = until_up(&mut stop, &jitter, || database.is_migrated()).await? else {
        return Ok(());
    };
    if !migrated {
        return Err(Exit::failed("the schema is missing or not up to date: run `issuer migrate`"));
    }
    let topics = settings.kafka.topics.clone();
    let (topic, dead_letter_topic, all) = (topics.admissions.as_str(), topics.dead_letters.as_str(), topics.all());
    let checked = || async {
        database.server().await?.check_packet(settings.batch_records)?;
        database.check_constraints(clock.now(), jitter.next()).await
    };
    if until_up(&mut stop, &jitter, checked).await?.is_none() {
        return Ok(());
    }
    let Some(missing) = until_up(&mut stop, &jitter, || topics::missing(&settings.kafka, &all)).await? else {
        return Ok(());
    };
    match settings.create_topics {
        _ if missing.is_empty() => {}
        Some(how) => {
            topics::create(&settings.kafka, &missing, dead_letter_topic, how).await.map_err(failed)?;
            tracing::info!(?missing, "topics created");
        }
        None => {
            let missing = missing.join(" and ");
            return Err(Exit::failed(format!(
                "Kafka has no topic {missing}: create it, or let the issuer create it with --create-topics"
            )));
        }
    }

    let redis = client(&settings.redis)?;
    let dead_letters = KafkaDeadLetters::new(settings.kafka.clone(), topic, dead_letter_topic, clock.clone())?;
    if settings.http_listen.is_some() {
        tokio::spawn(Sampler::new(database.clone(), redis.clone(), Arc::clone(&metrics), clock.clone()).run());
    }
    let store = CouponWriter::new(database.clone(), settings.secrets, settings.batch_records, clock, jitter.clone());
    let backlog = settings.kafka.clone();
    let waitlist = Waitlist::new(store.clone(), redis.clone(), backlog, IN_FLIGHT, Arc::clone(&metrics));
    // Coupons do not depend on it, so the service starts all the same.
    let tried = redis.clone();
    tokio::spawn(async move {
        if let Err(fault) = probe(&tried).await {
            tracing::warn!(label = fault.label, "Redis does not take writes, so claims are not confirmed: {fault}");
        }
    });
    let (queue, confirm_all) = confirm::queue(redis, Arc::clone(&metrics));
    let confirming = tokio::spawn(confirm_all);
    let Some(partitions) = until_up(&mut stop, &jitter, || topics::count(&settings.kafka, topic)).await? else {
        return Ok(());
    };
    let source = KafkaSource::join(&settings.kafka, topic, partitions, Arc::clone(&metrics))?;
    let ports = (source, store, dead_letters, queue);
    let limits = Limits {
        batch_records: settings.batch_records,
        linger: settings.batch_linger,
        budget: settings.write_budget,
        dead_letter_limit: settings.dead_letter_limit,
    };
    let mut service = Service::new(ports, limits, (Arc::clone(&health), metrics, traces.clone()), jitter, stop);

    let work = async {
        loop {
            match service.step().await {
                Ok(Step::Again) => {}
                Ok(Step::Stopped) => break Ok(()),
                Err(fault) => break Err(fault),
            }
        }
    };
    // Both on this task: the futures of the ports need not be Send.
    let ended = tokio::select! {
        ended = work => ended,
        () = waitlist.run() => Ok(()),
    };

    health.enter(State::Draining);
    // Offsets first: whatever happens afterwards, what is written is not read again.
    let counts = service.counts();
    let (source, _store, _dead_letters, queue) = service.into_ports();
    source.leave().await;
    drop(queue);
    let abort = confirming.abort_handle();
    if tokio::time::timeout(CONFIRM_LIMIT, confirming).await.is_err() {
        abort.abort();
        tracing::warn!(
            "Redis did not accept all confirmations within {} ms; the outbox will send them again",
            CONFIRM_LIMIT.as_millis()
        );
    }
    traces.finish().await;
    // A connection to a server that is gone would take long to close.
    let _ = tokio::time::timeout(CLOSE_LIMIT, database.close()).await;
    health.enter(State::Stopped);
    tracing::info!(
        records = counts.records,
        issued = counts.issued,
        already = counts.already,
        refused = counts.refused,
        waiting = counts.waiting,
        dead_letters = counts.dead_letters,
        "issuer stopped"
    );
    ended.map_err(failed)
}

/// The service ends with status 1, whatever the cause.
fn failed(error: impl fmt::Display) -> Exit {
    Exit::failed(error.to_string())
}

/// Calls until the system at the other end answers. `None`: a stop was requested before that. An error
/// is one that no later try would resolve.
async fn until_up<T, F>(
    stop: &mut watch::Receiver<bool>,
    jitter: &Jitter,
    call: impl Fn() -> F,
) -> Result<Option<T>, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let (mut backoff, mut outage) = (Backoff::default(), OutageLog::default());
    loop {
        let attempt = async {
            let answer = call().await;
            if let Err(fault) = &answer
                && fault.retry
            {
                if outage.failed(fault.label, Instant::now()) {
                    tracing::warn!(label = fault.label, "waiting: {fault}");
                }
                tokio::time::sleep(backoff.next_delay(jitter.next())).await;
            }
            answer
        };
        tokio::select! {
            biased;
            // The stop first: nothing is in hand that would have to be finished.
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
            answer = attempt => match answer {
                Ok(answer) => return Ok(Some(answer)),
                Err(fault) if fault.retry => {}
                Err(fault) => return Err(fault),
            },
        }
    }
}

/// True from the first SIGTERM or SIGINT on. The second ends the process at once.
fn stop_on_signal() -> Result<watch::Receiver<bool>, Exit> {
    let no_signals = |error: std::io::Error| failed(format!("cannot listen to signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut first = None;
        loop {
            tokio::select! { biased; _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            match first {
                None => {
                    first = Some(Instant::now());
                    tracing::info!("stopping: finishing the current batch first; a second signal stops at once");
                    let _ = sender.send(true);
                }
                // Some wrappers signal the process and its group: that is one request, not two.
                Some(first) if first.elapsed() < SAME_SIGNAL => {}
                Some(_) => {
                    tracing::warn!("second signal: stopping at once");
                    std::process::exit(1);
                }
            }
        }
    });
    Ok(receiver)
}
