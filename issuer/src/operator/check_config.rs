//! `check-config`: every setting, and every server that is configured.

use super::exit::Exit;
use super::output::{json, say, table};
use crate::backoff::Jitter;
use crate::cli::run::CheckConfigArgs;
use crate::config::problems::Problems;
use crate::config::redact::redacted;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics as kafka_topics;
use crate::labels;
use crate::redis::client::{Redis, RedisSettings, client};
use crate::redis::probe::probe;
use crate::redis::view::View;
use crate::store::mysql::database::MySqlStore;
use crate::store::mysql::schema::MigrationState;
use crate::store::mysql::settings::DatabaseSettings;
use crate::timestamp::Clock;
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::redis_rest::text_of;
use dropgate_shared::scripts::{self, Script};
use serde::Serialize;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::timeout;

/// How long the checks of one server may take.
const SERVER_DEADLINE: Duration = Duration::from_secs(60);

/// A line of the table.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    ok: bool,
    detail: String,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, what: &str, ok: bool, detail: impl Display) {
        self.0.push(Check { what: what.to_owned(), ok, detail: detail.to_string() });
    }

    fn passed(&mut self, what: &str, detail: impl Display) {
        self.add(what, true, detail);
    }

    fn failed(&mut self, what: &str, detail: impl Display) {
        self.add(what, false, detail);
    }

    /// Runs the checks of one server. A server that does not answer in time fails them.
    async fn within_limit(&mut self, what: &str, check: impl AsyncFnOnce(&mut Self)) {
        if timeout(SERVER_DEADLINE, check(self)).await.is_err() {
            self.failed(what, format_args!("the checks were not complete after {} s", SERVER_DEADLINE.as_secs()));
        }
    }
}

/// Checks, and prints what was found.
///
/// # Errors
/// [`Exit`] with status 1 if a check failed.
pub async fn check(args: &CheckConfigArgs) -> Result<(), Exit> {
    let mut checks = Checks::default();
    let run = &args.run;
    match run.settings() {
        Ok(_) => checks.passed("settings", "complete"),
        Err(problems) => {
            for problem in problems.lines() {
                let (name, text) = problem.split_once(' ').unwrap_or(("settings", problem));
                checks.failed(name, text);
            }
        }
    }
    // The problems of those that cannot be parsed are listed above.
    if let Ok(settings) = run.database.settings() {
        let records = run.batch_records.into();
        checks.within_limit("MySQL", async |checks| check_mysql(&settings, records, checks).await).await;
    }
    if let Ok(settings) = run.redis.settings() {
        checks.within_limit("Redis", async |checks| check_redis(&settings, checks).await).await;
    }
    if let (Ok(settings), Some(secrets)) = (run.redis.settings(), run.codes.read(&mut Problems::default())) {
        checks.within_limit("code secret", async |checks| check_codes(&settings, &secrets, checks).await).await;
    }
    if let Ok(settings) = run.kafka.settings() {
        checks.within_limit("Kafka", async |checks| check_kafka(&settings, checks).await).await;
    }
    if args.json {
        say!("{}", json(&checks.0));
    } else {
        let row =
            |Check { what, ok, detail }: &Check| [if *ok { "✓" } else { "✗" }.to_owned(), what.clone(), detail.clone()];
        say!("{}", table(&checks.0.iter().map(row).collect::<Vec<_>>()));
    }
    match checks.0.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        1 => Err(Exit::failed("1 check failed")),
        failed => Err(Exit::failed(format!("{failed} checks failed"))),
    }
}

async fn check_mysql(settings: &DatabaseSettings, batch_records: usize, checks: &mut Checks) {
    let database = MySqlStore::new(settings, 1);
    let shown = &settings.shown;
    let server = match database.server().await {
        Ok(server) => server,
        Err(fault) => return checks.failed("MySQL", format_args!("{shown}: {fault}")),
    };
    let version = &server.version;
    if server.is_supported() {
        checks.passed("MySQL", format_args!("{shown}, version {version}"));
    } else {
        checks.failed(
            "MySQL",
            format_args!(
                "{shown} is version {version}; expected MySQL 8.0.16 or MariaDB 10.6 or later, since older ones \
                 ignore constraints"
            ),
        );
    }
    checks
        .passed("MySQL connections", format_args!("the server accepts {}; an issuer needs 3", server.max_connections));
    match server.check_packet(batch_records) {
        Ok(()) => checks.passed("MySQL packet", format_args!("max_allowed_packet {}", server.max_allowed_packet)),
        Err(fault) => checks.failed("MySQL packet", fault),
    }
    match database.migrations().await {
        Err(fault) => return checks.failed("MySQL schema", fault),
        Ok(all) => match all.iter().find(|migration| migration.state != MigrationState::Applied) {
            None => checks.passed("MySQL schema", format_args!("up to date, {} migrations", all.len())),
            Some(migration) => {
                let (version, state) = (migration.version, migration.state.as_str());
                return checks.failed(
                    "MySQL schema",
                    format_args!("migration {version:04} is {state}: issuer migrate --status"),
                );
            }
        },
    }
    match database.check_constraints(Clock::system().now(), Jitter::system().next()).await {
        Ok(()) => {
            checks.passed("MySQL constraints", "may write; refuses coupon N + 1; utf8mb4 (tested, rolled back)");
        }
        Err(fault) => checks.failed("MySQL constraints", fault),
    }
}

async fn check_redis(settings: &RedisSettings, checks: &mut Checks) {
    let shown = redacted(&settings.url);
    let redis = match client(settings) {
        Ok(redis) => redis,
        Err(fault) => return checks.failed("Redis", fault),
    };
    if let Err(fault) = redis.command(&["PING"]).await {
        return checks.failed("Redis", format_args!("{shown}: {fault}"));
    }
    checks.passed("Redis", format_args!("{shown}, keys {}..", redis.prefix().as_str()));
    check_scripts(&redis, settings.key_locking, checks).await;
    match probe(&redis).await {
        Ok(()) => checks.passed("Redis writes", "accepted (tested, removed)"),
        Err(fault) => checks.failed("Redis writes", fault),
    }
    // A hosted service may not answer; then it is not ours to judge.
    if let Ok(reply) = redis.command(&["CONFIG", "GET", "maxmemory-policy"]).await
        && let Some(policy) = reply.get(1).and_then(serde_json::Value::as_str)
    {
        if policy == "noeviction" {
            checks.passed("Redis eviction", policy);
        } else {
            let detail = format_args!("maxmemory-policy is {policy}: claims may be evicted; expected noeviction");
            checks.failed("Redis eviction", detail);
        }
    }
}

async fn check_scripts(redis: &Redis, key_locking: bool, checks: &mut Checks) {
    for script in scripts::ALL {
        if let Err(fault) = load(redis, script, key_locking).await {
            let hint = if key_locking { "; UPSTASH_KEY_LOCKING is for hosted Upstash only" } else { "" };
            return checks.failed("Redis scripts", format_args!("{}.lua: {fault}{hint}", script.name));
        }
    }
    // A campaign that does not exist: nothing is written.
    let keys = ["meta", "claims", "outbox"].map(|name| format!("{}{{a probe}}:{name}", redis.prefix().as_str()));
    match redis.eval(&scripts::ADMIT, &keys.each_ref().map(String::as_str), &["1", "", "check-config"]).await {
        Ok(_) => checks.passed("Redis scripts", format_args!("{} load, and one runs", scripts::ALL.len())),
        Err(fault) => checks.failed("Redis scripts", format_args!("admit.lua does not run: {fault}")),
    }
}

/// The secret of the codes against what Redis says of each campaign.
async fn check_codes(settings: &RedisSettings, secrets: &CodeSecrets, checks: &mut Checks) {
    const WHAT: &str = "coupon codes";
    let ids = secrets.ids();
    let Ok(redis) = client(settings) else { return };
    let campaigns = match redis.eval(&scripts::READ, &[&redis.prefix().campaigns_key()], &["SMEMBERS"]).await {
        Ok(reply) => reply.as_array().into_iter().flatten().filter_map(text_of).collect::<Vec<_>>(),
        // The line of Redis says why.
        Err(_) => return checks.passed(WHAT, format_args!("key id {ids}, not compared with Redis")),
    };
    let mut compared = 0_usize;
    for id in campaigns.iter().filter_map(|id| CampaignId::parse(id).ok()) {
        match View::new(&redis, &id).meta().await.ok().flatten().map(|meta| meta.code_key) {
            Some(Some(key)) if secrets.of(Some(key)).is_none() => {
                return checks.failed(
                    WHAT,
                    format_args!(
                        "COUPON_CODE_SECRET has the key id {ids}, and the codes of campaign {id} are derived from \
                         {key}: give gate and issuer the same secret, or while it is replaced the other one as \
                         COUPON_CODE_SECRET_PREVIOUS"
                    ),
                );
            }
            Some(None) => {
                return checks.failed(
                    WHAT,
                    format_args!(
                        "Redis does not name the secret of campaign {id}, so that a gate with another one goes \
                         unnoticed: issuer campaign publish {id}"
                    ),
                );
            }
            Some(Some(_)) => compared += 1,
            None => {}
        }
    }
    checks.passed(WHAT, format_args!("key id {ids}, that of the {compared} campaigns in Redis"));
}

async fn load(redis: &Redis, script: &Script, key_locking: bool) -> Result<(), Fault> {
    let (text, sha1) = match key_locking {
        true => (script.locking_text, script.locking_sha1),
        false => (script.text, script.sha1),
    };
    let loaded = redis.command(&["SCRIPT", "LOAD", text]).await?;
    if loaded.as_str() == Some(sha1) {
        return Ok(());
    }
    Err(Fault::none(Source::Redis, labels::SCRIPT, false, "it was loaded under another name than its SHA-1"))
}

async fn check_kafka(settings: &KafkaSettings, checks: &mut Checks) {
    let topics = settings.topics.all();
    let bootstrap = &settings.bootstrap;
    let missing = match kafka_topics::missing(settings, &topics).await {
        Ok(missing) => missing,
        Err(fault) => return checks.failed("Kafka", format_args!("{bootstrap}: {fault}")),
    };
    checks.passed("Kafka", bootstrap);
    if !missing.is_empty() {
        let detail = format_args!("{} missing: create them, or issuer run --create-topics", missing.join(", "));
        return checks.failed("Kafka topics", detail);
    }
    checks.passed("Kafka topics", topics.join(", "));
    match kafka_topics::lag(settings, &settings.topics.admissions).await {
        Ok(lag) => checks.passed("Kafka group", format_args!("{}, {lag} records behind", settings.group)),
        Err(fault) => checks.failed("Kafka group", fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_a_failed_check() {
        let mut checks = Checks::default();
        checks.within_limit("MySQL", async |checks| checks.passed("MySQL", "up")).await;
        checks.within_limit("Kafka", async |_| std::future::pending().await).await;
        let found: Vec<_> = checks.0.iter().map(|check| (check.what.as_str(), check.ok)).collect();
        assert_eq!(found, [("MySQL", true), ("Kafka", false)]);
    }
}
