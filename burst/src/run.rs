//! One run from the first look at the servers to the verdict.

use crate::cli::{Auth, RunArgs};
use crate::load::client::Target;
use crate::load::driver::{self, Manner};
use crate::load::identity::{Crowd, Identity, Signer};
use crate::load::ledger::{Ledger, Rows};
use crate::load::progress::{Display, Live};
use crate::load::schedule::{Plan, plan};
use crate::oracle::verdict::Verdict;
use crate::oracle::{Terms, judge, rows_expected, settled};
use crate::report::figures::figures;
use crate::report::{self, Report};
use crate::rows::{Store, without_password};
use crate::watch::{Sight, Watch};
use dropgate_shared::ids::{CampaignId, UserId};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Settings(String),
    /// The edge or the database cannot be reached.
    #[error("{0}")]
    NotReached(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::NotReached(_) => 3,
        }
    }
}

/// How often the display moves.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// A visitor who was not told when to ask again.
const RETRY_UNASKED: Duration = Duration::from_millis(500);
/// Spread of the moments at which visitors ask again.
const JITTER: Duration = Duration::from_millis(500);
/// How long opening the connections may take.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Sends the crowd, waits for the rows, judges, and reports.
///
/// # Errors
/// [`Failure`] where there is nothing to judge.
pub async fn run(args: &RunArgs) -> Result<Verdict, Failure> {
    let target = Arc::new(target(args)?);
    let store = store(args).await?;
    let crowd = Crowd::new(&args.user_prefix, args.users);
    let arrivals = plan(&Plan {
        users: args.users,
        repeats: args.repeats,
        over: args.over,
        shape: args.arrivals,
        seed: args.seed,
    });
    let connections = usize::from(args.connections).min(arrivals.len());
    let connections = driver::open(&target, connections, OPEN_WITHIN).await.map_err(|error| {
        Failure::NotReached(format!(
            "the edge at {} is not reached ({error}): start it, or name it by --url or EDGE_URL",
            args.url
        ))
    })?;
    let opened = connections.len();
    let manner = Manner {
        tries: args.tries,
        retry_unasked: RETRY_UNASKED,
        retry_cap: args.retry_cap,
        jitter: JITTER,
        seed: args.seed,
    };
    let live = Arc::new(Live::default());
    let mut display = Display::new(arrivals.len() as u64, args.quiet);
    let watched = store.map(|store| {
        let store = Arc::new(store);
        (store.clone(), Watch::begin(store, live.clone()))
    });
    let sending = driver::send(target, crowd, arrivals, manner, connections, live.clone());
    let ledger = show_while(&mut display, &live, sending).await;

    let terms = Terms { capacity: args.capacity, allow_foreign: args.allow_foreign, allow_moved: args.allow_moved };
    let rows = match watched {
        Some((store, watch)) => Some(wait_for_rows(args, &store, watch, &ledger, &terms, &live, &mut display).await?),
        None => None,
    };
    let (rows, sights) = rows.unzip();
    display.end();

    let report = Report {
        title: args.title.clone(),
        campaign: args.campaign.clone(),
        started_ms: ledger.started_ms,
        over_ms: u64::try_from(args.over.as_millis()).unwrap_or(u64::MAX),
        connections: opened,
        seed: args.seed,
        figures: figures(&ledger, rows.as_ref(), args.capacity, sights.unwrap_or_default()),
        verdict: judge(&ledger, rows.as_ref(), &terms),
    };
    print!("{}", report::text::render(&report));
    write(args.json.as_deref(), || report::json::render(&report))?;
    write(args.report.as_deref(), || report::html::render(&report))?;
    Ok(report.verdict)
}

fn write(path: Option<&std::path::Path>, render: impl FnOnce() -> String) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, render())
        .map_err(|error| Failure::Settings(format!("{} cannot be written: {error}", path.display())))
}

fn target(args: &RunArgs) -> Result<Target, Failure> {
    let settings = |error: &dyn std::fmt::Display| Failure::Settings(error.to_string());
    let campaign = CampaignId::parse(&args.campaign).map_err(|e| settings(&format_args!("--campaign: {e}")))?;
    let longest = Crowd::new(&args.user_prefix, args.users).name(args.users - 1);
    UserId::parse(&longest).map_err(|e| settings(&format_args!("--user-prefix: {e}")))?;
    let identity = match args.auth {
        Auth::InsecureHeader => Identity::InsecureHeader,
        Auth::JwtHs256 => {
            let secret = std::env::var(&args.jwt_secret).ok().filter(|secret| !secret.is_empty()).ok_or_else(|| {
                Failure::Settings(format!(
                    "--auth jwt-hs256 needs the edge's secret in the environment variable {} (or name another \
                     variable by --jwt-secret)",
                    args.jwt_secret
                ))
            })?;
            let now_s = u64::try_from(driver::epoch_ms(SystemTime::now()) / 1000).unwrap_or(0);
            let signer = Signer::new(&secret, args.jwt_issuer.clone(), args.jwt_audience.clone(), now_s);
            Identity::Jwt(Box::new(signer.ok_or_else(|| settings(&"the JWT secret cannot be used"))?))
        }
    };
    Target::new(&args.url, campaign.as_str(), identity, args.timeout).map_err(|e| settings(&format_args!("--url: {e}")))
}

/// The database, looked at once: a run that cannot be judged is not begun.
async fn store(args: &RunArgs) -> Result<Option<Store>, Failure> {
    if args.answers_only {
        return Ok(None);
    }
    let url = args.database_url.as_deref().ok_or_else(|| {
        Failure::Settings(
            "the verdict needs the database: --database-url or DATABASE_URL, mysql://user:password@host:port/database \
             (or --answers-only, which judges little)"
                .to_owned(),
        )
    })?;
    let store = Store::new(url, &args.campaign).map_err(|error| Failure::Settings(error.to_string()))?;
    let not_reached = |error: sqlx::Error| {
        Failure::NotReached(format!(
            "the database at {} does not answer ({error}): start it, run `issuer migrate`, or name it by \
             --database-url or DATABASE_URL",
            without_password(url)
        ))
    };
    store.reach().await.map_err(not_reached)?;
    let capacity = store.capacity().await.map_err(not_reached)?;
    match capacity {
        None => {
            return Err(Failure::Settings(format!(
                "the database knows no campaign `{}`: create it with `issuer campaign create`",
                args.campaign
            )));
        }
        Some(granted) if granted != args.capacity => {
            return Err(Failure::Settings(format!(
                "--capacity is {}, and the campaign `{}` has {granted} coupons",
                args.capacity, args.campaign
            )));
        }
        Some(_) => {}
    }
    let count = store.count().await.map_err(not_reached)?;
    if count.coupons > 0 {
        eprintln!(
            "burst: the campaign `{}` has {} rows already; they will not be found among this run's admissions",
            args.campaign, count.coupons
        );
    }
    Ok(Some(store))
}

async fn show_while<T>(display: &mut Display, live: &Live, work: impl Future<Output = T>) -> T {
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

/// Waits until MySQL has what is owed, then a little longer for what must not come. A database that
/// fails meanwhile is asked again until the time is over.
async fn wait_for_rows(
    args: &RunArgs,
    store: &Store,
    mut watch: Watch,
    ledger: &Ledger,
    terms: &Terms,
    live: &Live,
    display: &mut Display,
) -> Result<(Rows, Vec<Sight>), Failure> {
    let deadline = Instant::now() + args.wait;
    let expected = rows_expected(ledger, terms);
    let mut news = true;
    while Instant::now() < deadline {
        // All rows are read only when their number has changed and may be enough: reading a big campaign
        // ten times a second would slow the very database that is waited for.
        if news
            && watch.rows() >= expected
            && let Ok(rows) = store.read().await
            && settled(ledger, &rows, terms)
        {
            tokio::time::sleep(args.settle).await;
            break;
        }
        news = watch.news(SHOW_EVERY).await;
        display.show(live, "waiting for the rows");
    }
    let sights = watch.sights();
    drop(watch);
    let rows = store.read().await.map_err(|error| {
        Failure::NotReached(format!("the burst is over, and the database does not tell its rows: {error}"))
    })?;
    Ok((rows, sights))
}
