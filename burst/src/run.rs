//! One run, from the first connection to the verdict.

use crate::cli::RunArgs;
use crate::load::client::Endpoint;
use crate::load::driver::{self, RetryBehavior};
use crate::load::identity::{Auth, Crowd, Identity, Signer};
use crate::load::ledger::Ledger;
use crate::load::progress::{LiveCounters, ProgressDisplay};
use crate::load::schedule::{Plan, plan};
use crate::oracle::verdict::Verdict;
use crate::oracle::{Rules, is_settled, judge, rows_expected};
use crate::report::figures::figures;
use crate::report::{self, RunReport};
use crate::rows::{RowReader, RowWatcher, Rows, Sample, without_password};
use dropgate_shared::ids::{CampaignId, UserId};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Unreachable(String),
}

impl RunError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }
}

/// Between two updates of the progress.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// The pause of a user whose response has no `Retry-After`.
const DEFAULT_PAUSE: Duration = Duration::from_millis(500);
/// Random part of each pause.
const JITTER: Duration = Duration::from_millis(500);
/// How long opening the connections may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the crowd, waits for the rows, judges, and reports.
///
/// # Errors
/// If there is nothing to judge.
pub async fn run(args: &RunArgs) -> Result<Verdict, RunError> {
    let endpoint = Arc::new(endpoint(args)?);
    let reader = row_reader(args).await?.map(Arc::new);
    let crowd = Crowd::new(&args.user_prefix, args.users);
    let arrivals = plan(&Plan {
        users: args.users,
        repeats: args.repeats,
        over: args.over,
        pattern: args.arrivals,
        seed: args.seed,
    });
    let connections = usize::from(args.connections).min(arrivals.len());
    let connections = driver::open(&endpoint, connections, OPEN_TIMEOUT).await.map_err(|error| {
        RunError::Unreachable(format!(
            "cannot reach the edge at {}: {error}; start it, or set --url or EDGE_URL",
            args.url
        ))
    })?;
    let opened = connections.len();
    let retry = RetryBehavior {
        max_attempts: args.tries,
        default_pause: DEFAULT_PAUSE,
        retry_after_cap: args.retry_cap,
        jitter: JITTER,
        seed: args.seed,
    };
    let live = Arc::new(LiveCounters::default());
    let mut display = ProgressDisplay::new(arrivals.len() as u64, args.quiet);
    let watched = reader.map(|reader| (reader.clone(), RowWatcher::start(reader, live.clone())));
    let sending = driver::send(endpoint, crowd, arrivals, retry, connections, live.clone());
    let ledger = show_while(&mut display, &live, sending).await;

    let rules = Rules { capacity: args.capacity, allow_foreign: args.allow_foreign, allow_moved: args.allow_moved };
    let rows = match watched {
        Some((reader, watcher)) => {
            Some(wait_for_rows(args, &reader, watcher, &ledger, &rules, &live, &mut display).await?)
        }
        None => None,
    };
    let (rows, samples) = rows.unzip();
    display.end();

    let report = RunReport {
        title: args.title.clone(),
        campaign: args.campaign.clone(),
        started_ms: ledger.started_ms,
        over_ms: u64::try_from(args.over.as_millis()).unwrap_or(u64::MAX),
        connections: opened,
        seed: args.seed,
        figures: figures(&ledger, rows.as_ref(), args.capacity, samples.unwrap_or_default()),
        verdict: judge(&ledger, rows.as_ref(), &rules),
    };
    print!("{}", report::text::render(&report));
    write(args.json.as_deref(), || report::json::render(&report))?;
    write(args.report.as_deref(), || report::html::render(&report))?;
    Ok(report.verdict)
}

fn write(path: Option<&Path>, render: impl FnOnce() -> String) -> Result<(), RunError> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, render())
        .map_err(|error| RunError::Settings(format!("cannot write {}: {error}", path.display())))
}

fn endpoint(args: &RunArgs) -> Result<Endpoint, RunError> {
    let settings = |error: &dyn Display| RunError::Settings(error.to_string());
    let campaign = CampaignId::parse(&args.campaign).map_err(|e| settings(&format_args!("--campaign: {e}")))?;
    let longest = Crowd::new(&args.user_prefix, args.users).name(args.users - 1);
    UserId::parse(&longest).map_err(|e| settings(&format_args!("--user-prefix: {e}")))?;
    let identity = match args.auth {
        Auth::InsecureHeader => Identity::InsecureHeader,
        Auth::JwtHs256 => {
            let secret = std::env::var(&args.jwt_secret).ok().filter(|secret| !secret.is_empty()).ok_or_else(|| {
                settings(&format_args!(
                    "--auth jwt-hs256 needs the secret of the edge in the environment variable {}; set it, or set \
                     another variable by --jwt-secret",
                    args.jwt_secret
                ))
            })?;
            let now_s = u64::try_from(driver::epoch_ms(SystemTime::now()) / 1000).unwrap_or(0);
            let signer = Signer::new(&secret, args.jwt_issuer.clone(), args.jwt_audience.clone(), now_s);
            Identity::Jwt(Box::new(signer.ok_or_else(|| settings(&"the JWT secret is not a valid HMAC key"))?))
        }
    };
    Endpoint::new(&args.url, campaign.as_str(), identity, args.timeout)
        .map_err(|e| settings(&format_args!("--url: {e}")))
}

/// Checks database and campaign first: nothing is sent if the verdict could not be given.
async fn row_reader(args: &RunArgs) -> Result<Option<RowReader>, RunError> {
    if args.answers_only {
        return Ok(None);
    }
    let url = args.database_url.as_deref().ok_or_else(|| {
        RunError::Settings(
            "the verdict needs the database: set --database-url or DATABASE_URL to \
             mysql://user:password@host:port/database, or use --answers-only, which skips most checks"
                .to_owned(),
        )
    })?;
    let reader = RowReader::new(url, &args.campaign).map_err(|error| RunError::Settings(error.to_string()))?;
    let unreachable = |error: sqlx::Error| {
        RunError::Unreachable(format!(
            "cannot read the database at {}: {error}; start it, run `issuer migrate`, or set --database-url or \
             DATABASE_URL",
            without_password(url)
        ))
    };
    reader.ping().await.map_err(unreachable)?;
    let granted = reader.capacity().await.map_err(unreachable)?.ok_or_else(|| {
        RunError::Settings(format!(
            "campaign `{}` does not exist in the database; create it with `issuer campaign create`",
            args.campaign
        ))
    })?;
    if granted != args.capacity {
        return Err(RunError::Settings(format!(
            "--capacity is {}, but campaign `{}` has {granted} coupons",
            args.capacity, args.campaign
        )));
    }
    let (coupons, _) = reader.count().await.map_err(unreachable)?;
    if coupons > 0 {
        eprintln!(
            "burst: campaign `{}` already has {coupons} rows; this run has no admissions for them",
            args.campaign
        );
    }
    Ok(Some(reader))
}

async fn show_while<T>(display: &mut ProgressDisplay, live: &LiveCounters, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut tick = interval(SHOW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => display.show(live, "sending"),
        }
    }
}

/// Waits until every expected row exists, then a little longer for unexpected rows. A query that fails is
/// repeated until the deadline.
async fn wait_for_rows(
    args: &RunArgs,
    reader: &RowReader,
    mut watcher: RowWatcher,
    ledger: &Ledger,
    rules: &Rules,
    live: &LiveCounters,
    display: &mut ProgressDisplay,
) -> Result<(Rows, Vec<Sample>), RunError> {
    let deadline = Instant::now() + args.wait;
    let expected = rows_expected(ledger, rules);
    let mut changed = true;
    while Instant::now() < deadline {
        // All rows are read only when their number has changed and may be enough: reading a big campaign
        // ten times a second would slow down the database.
        if changed
            && watcher.rows() >= expected
            && let Ok(rows) = reader.read().await
            && is_settled(ledger, &rows, rules)
        {
            tokio::time::sleep(args.settle).await;
            break;
        }
        changed = watcher.changed(SHOW_EVERY).await;
        display.show(live, "waiting for the rows");
    }
    let samples = watcher.samples();
    drop(watcher);
    let rows = reader
        .read()
        .await
        .map_err(|error| RunError::Unreachable(format!("cannot read the rows after the burst: {error}")))?;
    Ok((rows, samples))
}
