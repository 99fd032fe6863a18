//! `check-config`: every setting, and every server that is configured.

use super::exit::Exit;
use super::output::{json, say, table};
use crate::backoff::Jitter;
use crate::cli::run::CheckConfigArgs;
use crate::config::redact::redacted;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics;
use crate::labels;
use crate::redis::client::{self, Redis, RedisSettings};
use crate::store::mysql::database::MySqlStore;
use crate::store::mysql::schema::MigrationState;
use crate::store::mysql::settings::DatabaseSettings;
use crate::timestamp::Clock;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::scripts::{self, Script};
use serde::Serialize;

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
    fn note(&mut self, what: &str, found: Result<String, String>) -> bool {
        let (ok, detail) = match found {
            Ok(detail) => (true, detail),
            Err(problem) => (false, problem),
        };
        self.0.push(Check { what: what.to_owned(), ok, detail });
        ok
    }

    fn fault(&mut self, what: &str, found: Result<String, Fault>) -> bool {
        self.note(what, found.map_err(|fault| fault.to_string()))
    }
}

/// Checks, and prints what was found.
///
/// # Errors
/// [`Exit`] with status 1 if something is not well.
pub async fn check(args: &CheckConfigArgs) -> Result<(), Exit> {
    let mut checks = Checks::default();
    match args.run.settings() {
        Ok(_) => drop(checks.note("settings", Ok("complete".to_owned()))),
        Err(problems) => {
            for problem in problems.lines() {
                let (name, text) = problem.split_once(' ').unwrap_or(("settings", problem));
                checks.note(name, Err(text.to_owned()));
            }
        }
    }
    let run = &args.run;
    // What is wrong with those that cannot be read is told above.
    if let Ok(settings) = run.database.settings() {
        mysql(&settings, &mut checks).await;
    }
    if let Ok(settings) = run.redis.settings() {
        on_redis(&settings, &mut checks).await;
    }
    if let Ok(settings) = run.kafka.settings() {
        on_kafka(&settings, &mut checks).await;
    }
    if args.json {
        say!("{}", json(&checks.0));
    } else {
        let rows: Vec<[String; 3]> = checks
            .0
            .iter()
            .map(|check| [if check.ok { "✓" } else { "✗" }.to_owned(), check.what.clone(), check.detail.clone()])
            .collect();
        say!("{}", table(&rows));
    }
    match checks.0.iter().filter(|check| !check.ok).count() {
        0 => Ok(()),
        1 => Err(Exit::failed("one thing is not well")),
        wrong => Err(Exit::failed(format!("{wrong} things are not well"))),
    }
}

async fn mysql(settings: &DatabaseSettings, checks: &mut Checks) {
    let database = MySqlStore::new(settings, 1);
    let server = database.server().await;
    let reached = server.is_ok();
    let shown = &settings.shown;
    checks.note(
        "MySQL",
        match &server {
            Ok(server) if server.is_supported() => Ok(format!("{shown}, version {}", server.version)),
            Ok(server) => Err(format!(
                "{shown} is version {}; it takes MySQL 8.0.16 or MariaDB 10.6, since older ones ignore constraints",
                server.version
            )),
            Err(fault) => Err(format!("{shown}: {fault}")),
        },
    );
    if !reached {
        return;
    }
    if let Ok(server) = server {
        checks.note("MySQL connections", Ok(format!("it takes {}; an issuer needs 3", server.max_connections)));
    }
    let schema = database.migrations().await.map_err(|fault| fault.to_string()).and_then(|all| {
        match all.iter().find(|migration| migration.state != MigrationState::Applied) {
            None => Ok(format!("up to date, {} migrations", all.len())),
            Some(migration) => Err(format!(
                "migration {:04} is {}: issuer migrate --status",
                migration.version,
                migration.state.as_str()
            )),
        }
    });
    if checks.note("MySQL schema", schema) {
        let tried = database.check_constraints(Clock::system().now(), Jitter::system().next()).await;
        checks.fault(
            "MySQL constraints",
            tried.map(|()| "may write; refuses coupon N + 1 (tried, rolled back)".to_owned()),
        );
    }
}

async fn on_redis(settings: &RedisSettings, checks: &mut Checks) {
    let redis = match client::client(settings) {
        Ok(redis) => redis,
        Err(fault) => {
            checks.fault("Redis", Err(fault));
            return;
        }
    };
    let shown = redacted(&settings.url);
    let ping = redis.command(&["PING"]).await.map(|_| shown.clone());
    if !checks.note("Redis", ping.map_err(|fault| format!("{shown}: {fault}"))) {
        return;
    }
    let scripts = [
        &scripts::ADMIT,
        &scripts::CONFIRM,
        &scripts::LEASE,
        &scripts::PUBLISH,
        &scripts::RESTORE,
        &scripts::TAKE_DUE,
        &scripts::UPDATE,
    ];
    let mut loaded = Ok(format!("{} load, and one runs", scripts.len()));
    for script in scripts {
        if let Err(fault) = load(&redis, script, settings.key_locking).await {
            let hint = if settings.key_locking { "; UPSTASH_KEY_LOCKING is for hosted Upstash only" } else { "" };
            loaded = Err(format!("{}.lua: {fault}{hint}", script.name));
            break;
        }
    }
    if loaded.is_ok() {
        // A campaign that does not exist: nothing is written.
        let keys = ["dg:{check-config}:meta", "dg:{check-config}:claims", "dg:{check-config}:outbox"];
        if let Err(fault) = redis.eval(&scripts::ADMIT, &keys, &["1", "check-config"]).await {
            loaded = Err(format!("admit.lua does not run: {fault}"));
        }
    }
    checks.note("Redis scripts", loaded);
    // A hosted service may not tell; then it is not ours to judge.
    if let Ok(reply) = redis.command(&["CONFIG", "GET", "maxmemory-policy"]).await
        && let Some(policy) = reply.get(1).and_then(serde_json::Value::as_str)
    {
        checks.note(
            "Redis eviction",
            if policy == "noeviction" {
                Ok(policy.to_owned())
            } else {
                Err(format!("maxmemory-policy is {policy}: claims may be thrown away; it takes noeviction"))
            },
        );
    }
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

async fn on_kafka(settings: &KafkaSettings, checks: &mut Checks) {
    const TOPICS: [&str; 2] = [TOPIC, DEAD_LETTER_TOPIC];
    match topics::missing(settings, &TOPICS).await {
        Err(fault) => drop(checks.note("Kafka", Err(format!("{}: {fault}", settings.bootstrap)))),
        Ok(missing) => {
            checks.note("Kafka", Ok(settings.bootstrap.clone()));
            let topics = match missing.as_slice() {
                [] => Ok(TOPICS.join(", ")),
                missing => Err(format!("{} missing: create them, or issuer run --create-topics", missing.join(", "))),
            };
            if checks.note("Kafka topics", topics) {
                let lag = topics::lag(settings, TOPIC).await;
                checks.fault("Kafka group", lag.map(|lag| format!("{}, {lag} records behind", settings.group)));
            }
        }
    }
}
