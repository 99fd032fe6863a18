//! Texts and numbers that stand outside the code: the OpenAPI document, `wrangler.toml`, docs/architecture.md.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_edge::gate::BODY_LIMIT_BYTES;
use dropgate_edge::http::problem::Problem;
use dropgate_edge::http::request::URL_LIMIT_BYTES;
use dropgate_edge::identity::{Auth, BAD_TOKEN};
use dropgate_edge::outbox::schedule::SCHEDULE;
use dropgate_shared::time::Millis;
use serde_json::Value;
use std::collections::BTreeSet;

const OPENAPI: &str = include_str!("../public/openapi.json");
const WRANGLER: &str = include_str!("../wrangler.toml");
const DEVSTACK_CRON: &str = include_str!("../../devstack/src/cron.rs");
const ARCHITECTURE: &str = include_str!("../../docs/architecture.md");

/// `15 min`
fn short(time: Millis) -> String {
    match time.0 / 1000 {
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[test]
fn the_cron_runs_as_often_as_the_schedule_says() {
    let line = WRANGLER.lines().find_map(|line| line.strip_prefix("crons = ")).expect("there is a cron");
    assert_eq!(line, "[\"* * * * *\"]", "the words for another period are not known here");
    assert_eq!(SCHEDULE.cron, Millis(60_000), "a cron of five stars runs once a minute");
    let interval =
        DEVSTACK_CRON.split_once("const INTERVAL: Duration = Duration::from_secs(").expect("it has an interval").1;
    let interval_s: u64 = interval.split(')').next().unwrap().parse().unwrap();
    assert!(Millis(interval_s * 1000) <= SCHEDULE.cron, "the local cron runs less often than the deployed one");
}

#[test]
fn the_architecture_page_has_the_numbers_of_the_schedule() {
    let bounds = |(shortest, longest): (Millis, Millis)| format!("{} to {}", short(shortest), short(longest));
    let rows = [
        ("first lease", short(SCHEDULE.first_lease)),
        ("lease after Kafka's acknowledgement", bounds(SCHEDULE.acknowledged_lease)),
        ("lease between attempts", bounds(SCHEDULE.attempt_lease)),
        ("batch", SCHEDULE.batch.to_string()),
        ("sweep beside requests", format!("every {}", short(SCHEDULE.beside_requests))),
        ("cron", format!("every {}", short(SCHEDULE.cron).replace("1 min", "minute"))),
        ("share of a campaign", format!("{} batches, then the next campaign gets its share", SCHEDULE.share)),
        ("calls of a run of the cron", format!("{} (`SWEEP_CALLS`)", SCHEDULE.cron_calls)),
    ];
    let table: String = rows.iter().map(|(what, value)| format!("| {what} | {value} |\n")).collect();
    let (_, section) = ARCHITECTURE.split_once("\n## Sweeper schedule\n").expect("there is the section");
    let (section, _) = section.split_once("\n## ").expect("there is a section after it");
    let found: String =
        section.lines().filter(|line| line.starts_with("| ")).skip(1).map(|l| format!("{l}\n")).collect();
    assert_eq!(found, table);
}

/// The schedule must fit together: a forward is over before the sweeper may take its entry, and so is a cron's step.
#[test]
fn the_times_of_the_schedule_fit_together() {
    assert!(SCHEDULE.attempt_lease.0 <= SCHEDULE.first_lease);
    assert!(SCHEDULE.first_lease <= SCHEDULE.cron);
    assert!(SCHEDULE.attempt_lease.0 < SCHEDULE.attempt_lease.1);
    assert!(SCHEDULE.attempt_lease.1 <= SCHEDULE.acknowledged_lease.0);
    assert!(SCHEDULE.acknowledged_lease.0 < SCHEDULE.acknowledged_lease.1);
    assert_eq!(SCHEDULE.acknowledged_lease_at(Millis(0)), SCHEDULE.acknowledged_lease.0);
    assert_eq!(SCHEDULE.acknowledged_lease_at(Millis(3_600_000)), Millis(3_600_000));
    assert_eq!(SCHEDULE.acknowledged_lease_at(Millis(u64::MAX)), SCHEDULE.acknowledged_lease.1);
}

fn examples(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            if fields.get("type").and_then(Value::as_str).is_some_and(|kind| kind.starts_with("urn:dropgate:problem:"))
            {
                found.push(value.clone());
            }
            fields.values().for_each(|value| examples(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| examples(value, found)),
        _ => {}
    }
}

/// The end-to-end test compares the members of each problem; here are the texts.
#[test]
fn the_problems_of_the_openapi_document_have_the_texts_of_the_gate() {
    let no_user_id = Auth::InsecureHeader.credentials(None).unwrap_err().problem();
    let problems = [
        Problem::SoldOut,
        Problem::Closed,
        Problem::NotOpen { opens_ms: 1_763_700_000_000, now_ms: 1_763_699_998_700 },
        Problem::Paused,
        Problem::UnknownCampaign,
        Problem::NoClaim,
        no_user_id,
        Problem::BadRequest("a campaign id is 1 to 64 characters out of a-z, 0-9 and '-'".to_owned()),
        Problem::NotFound,
        Problem::MethodNotAllowed { allowed: "POST, OPTIONS" },
        Problem::TooLarge { limit_bytes: BODY_LIMIT_BYTES },
        Problem::TooLong { limit_bytes: URL_LIMIT_BYTES },
        Problem::TooManyRequests,
        Problem::ChallengeFailed,
        Problem::Unavailable,
        Problem::Misconfigured("KAFKA_REST_URL is missing; expected the URL of the service, https://..".to_owned()),
    ];
    let bodies = problems.map(|problem| problem.response().body);
    assert_ne!(BAD_TOKEN.response().body, bodies[6]);
    let mut documented = Vec::new();
    examples(&serde_json::from_str(OPENAPI).unwrap(), &mut documented);
    let documented: BTreeSet<String> = documented.iter().map(Value::to_string).collect();
    assert_eq!(documented, BTreeSet::from(bodies));
}

/// An invocation log is a line for each request, whatever LOG_SAMPLE is, and holds addresses and headers of visitors.
#[test]
fn the_worker_keeps_its_own_log_lines_and_no_invocation_logs() {
    let wrangler = include_str!("../wrangler.toml");
    let logs = wrangler.split_once("[observability.logs]").unwrap().1;
    let logs = logs.split("\n[").next().unwrap();
    assert!(logs.contains("\nenabled = true\n") && logs.contains("\ninvocation_logs = false\n"), "{logs}");
}
