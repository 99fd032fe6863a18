//! The operator's commands on real servers: their output, their changes and their exit status.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{System, programs, until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// Runs `issuer` with the stack's settings; `env` overrides them.
fn run_with(system: &System, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(programs().join("issuer"));
    command.args(args).envs(system.stack.endpoints.issuer_env());
    command.envs(env.iter().copied()).output().unwrap()
}

fn run(system: &System, args: &[&str]) -> Output {
    run_with(system, args, &[])
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The exit status is `status`, and the output contains all of `words`.
#[track_caller]
fn assert_output(output: &Output, status: i32, words: &[&str]) {
    let text = format!("{}{}", stdout(output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The count of the findings of `kind` in a report of `verify`.
fn finding_count(report: &Value, kind: &str) -> u64 {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().filter(|f| f["finding"] == kind).map(|f| f["count"].as_u64().unwrap()).sum()
}

async fn claim_all(system: &System, campaign: &str, prefix: &str, count: u32) {
    for n in 1..=count {
        assert_eq!(system.claim(campaign, &format!("{prefix}-{n}")).await.status, 202);
    }
}

async fn all_issued(system: &System, campaign: &str, rows: i64) {
    until("all are coupons", async || system.coupon_count(campaign).await.is_ok_and(|found| found == rows)).await;
    until("the outbox is empty", async || system.outbox_len(campaign).await == 0).await;
}

#[tokio::test]
async fn a_campaign_is_checked_run_and_exported() {
    let system = System::start("operator-campaign").await;

    // Before the drop.
    let checked = run(&system, &["check-config"]);
    assert_output(
        &checked,
        0,
        &["MySQL constraints", "refuses coupon N + 1", "Redis scripts", "Kafka topics", "settings"],
    );
    assert!(!stdout(&checked).contains('✗'), "{}", stdout(&checked));
    assert!(!stdout(&checked).contains(&system.stack.endpoints.redis_rest_token));
    assert_output(&run(&system, &["migrate", "--status"]), 0, &["0001", "0002", "0003", "applied"]);
    assert_output(&run(&system, &["migrate", "--dry-run"]), 0, &["the schema is up to date"]);
    let locking = run_with(&system, &["check-config"], &[("UPSTASH_KEY_LOCKING", "1")]);
    assert_output(&locking, 1, &["✗", "UPSTASH_KEY_LOCKING is for hosted Upstash only"]);

    let campaign = system.campaign(3);
    claim_all(&system, &campaign, "u", 2).await;

    // Paused: no new user is admitted, and admitted users stay admitted. Repeating it changes nothing.
    assert_output(
        &run(&system, &["campaign", "pause", &campaign]),
        0,
        &["is paused now, it was open", "the gate is up to date"],
    );
    assert_output(&run(&system, &["campaign", "pause", &campaign]), 0, &["is paused already"]);
    let paused = system.claim(&campaign, "late").await;
    assert_eq!((paused.status, paused.problem()), (503, "paused"));
    assert_eq!(system.claim(&campaign, "u-1").await.status, 200);
    assert_output(&run(&system, &["campaign", "resume", &campaign]), 0, &["is open now"]);
    assert_eq!(system.claim(&campaign, "u-3").await.status, 202);

    // Sold out, raised, never lowered.
    until("it is sold out", async || system.claim(&campaign, "u-4").await.status == 410).await;
    assert_output(&run(&system, &["campaign", "raise", &campaign, "--capacity", "5"]), 0, &["5 now, it had 3"]);
    assert_output(&run(&system, &["campaign", "raise", &campaign, "--capacity", "5"]), 0, &["5 already"]);
    assert_output(&run(&system, &["campaign", "raise", &campaign, "--capacity", "4"]), 1, &["4 is less"]);
    until("the gate sees the raise", async || system.claim(&campaign, "=1+1").await.status == 202).await;
    all_issued(&system, &campaign, 4).await;

    // Closed, and opened again only with --reopen.
    assert_output(&run(&system, &["campaign", "close", &campaign]), 0, &["is closed now"]);
    assert_output(&run(&system, &["campaign", "pause", &campaign]), 1, &["is closed", "--reopen"]);
    assert_eq!(system.claim(&campaign, "too-late").await.status, 410);

    assert_output(&run(&system, &["campaign", "list"]), 0, &["CAMPAIGN", &campaign, "closed"]);
    let listed = parsed(&run(&system, &["campaign", "list", "--json"]));
    assert_eq!(listed["version"], 1);
    let listed = listed["campaigns"].as_array().unwrap().iter().find(|c| c["campaign"] == campaign.as_str()).unwrap();
    assert_eq!((listed["capacity"].as_u64(), listed["issued"].as_u64()), (Some(5), Some(4)));
    assert_eq!(listed["state"], "closed");
    let shown = parsed(&run(&system, &["campaign", "show", &campaign, "--json"]));
    assert_eq!((&shown["redis"]["outbox"]["waiting"], &shown["redis"]["count"]), (&json!(0), &json!(4)));

    // Afterwards.
    until("the offsets are committed", async || {
        parsed(&run(&system, &["campaign", "show", &campaign, "--json"]))["kafka"]["lag"] == 0
    })
    .await;
    assert_output(&run(&system, &["verify", &campaign]), 0, &["VERDICT: holds"]);
    let verified = parsed(&run(&system, &["verify", &campaign, "--json"]));
    assert_eq!((&verified["verdict"], &verified["codes_checked"]), (&json!("holds"), &json!(true)));
    let other = [("COUPON_CODE_SECRET", "another secret of 16+")];
    assert_output(
        &run_with(&system, &["verify", &campaign], &other),
        3,
        &["VERDICT: unknown", "derived from the secret", "COUPON_CODE_SECRET_PREVIOUS"],
    );

    let csv = stdout(&run(&system, &["export", &campaign]));
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "slot,user,code,admitted_at,issued_at"));
    assert!(lines[1].starts_with("1,u-1,") && lines[4].starts_with("4,'=1+1,"), "{csv}");
    assert!(stdout(&run(&system, &["export", &campaign, "--raw"])).contains("\n4,=1+1,"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("winners.json");
    let exported = run(&system, &["export", &campaign, "--format", "json", "--out", file.to_str().unwrap()]);
    assert_output(&exported, 0, &[]);
    let winners: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let coupons = winners["coupons"].as_array().unwrap();
    assert_eq!((&winners["version"], coupons.len(), &coupons[3]["user"]), (&json!(1), 4, &json!("=1+1")));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left behind");
    assert_eq!(parsed(&run(&system, &["export", &campaign, "--format", "json", "--refusals"]))["refusals"], json!([]));

    // What a dashboard sees: the samples are taken every 15 s.
    let scrape = async || {
        let page = dropgate_devstack::http_client().get(format!("{}/metrics", system.stack.endpoints.issuer_url));
        page.send().await.unwrap().text().await.unwrap()
    };
    let line =
        |name: &str, value: &str| format!("\ndropgate_issuer_campaign_{name}{{campaign=\"{campaign}\"}} {value}\n");
    let lines = [line("coupons", "4.0"), line("slots", "4.0"), line("outbox_entries", "0.0"), line("capacity", "5.0")];
    until("the metrics show the campaign", async || {
        let page = scrape().await;
        lines.iter().all(|line| page.contains(line))
    })
    .await;

    scheduled(&system).await;
    bad_input(&system, &campaign);
    system.stop().await;
}

/// Created and published by one command; the states are those that visitors see.
async fn scheduled(system: &System) {
    let create = ["campaign", "create", "in-2099", "--capacity", "7", "--opens-at", "2099-01-01T00:00:00Z"];
    assert_output(
        &run_with(system, &[&create[..], &["--publish"]].concat(), &[("COUPON_CODE_SECRET", "")]),
        2,
        &["COUPON_CODE_SECRET is not set"],
    );
    assert_output(&run(system, &["campaign", "show", "in-2099"]), 2, &["MySQL has no campaign in-2099"]);
    let created = run_with(system, &[&create[..], &["--publish"]].concat(), &[("TZ", "KST-9")]);
    assert_output(
        &created,
        0,
        &[
            "campaign in-2099 created: scheduled",
            "opens at   2099-01-01 09:00:00 +09:00 (2099-01-01T00:00:00Z), in ",
            "in-2099 published",
            "next: issuer campaign show in-2099",
        ],
    );
    let shown = parsed(&run(system, &["campaign", "show", "in-2099", "--json"]));
    assert_eq!((&shown["version"], &shown["state"]), (&json!(1), &json!("not-open")));
    assert_output(&run(system, &["campaign", "list"]), 0, &["scheduled"]);
    let reschedule = |args: &[&str]| run(system, &[&["campaign", "reschedule", "in-2099"], args].concat());
    assert_output(&reschedule(&[]), 2, &["--opens-at"]);
    assert_output(&reschedule(&["--opens-at", "soon"]), 2, &["--opens-at", "RFC 3339"]);
    assert_output(&reschedule(&["--closes-at", "2020-01-01T00:00:00Z"]), 2, &["issuer campaign close in-2099"]);
    assert_output(&reschedule(&["--closes-at", "2098-01-01T00:00:00Z"]), 2, &["is not after its opening"]);
    let unknown = ["campaign", "reschedule", "nobody", "--opens-at", "now"];
    assert_output(&run(system, &unknown), 2, &["MySQL has no campaign nobody"]);
    assert_eq!(system.claim("in-2099", "early").await.problem(), "not-open");
    let opened = reschedule(&["--opens-at", "now", "--closes-at", "2100-01-01T00:00:00Z"]);
    assert_output(
        &opened,
        0,
        &["in-2099 is rescheduled: open", "warning: it opens now", "the gate is up to date", "next: "],
    );
    until("the gate has the new opening", async || system.claim("in-2099", "early").await.status == 202).await;
    assert_output(&reschedule(&["--opens-at", "now"]), 0, &["in-2099 has these times already"]);
    assert_output(&reschedule(&["--opens-at", "2099-01-01T00:00:00Z"]), 1, &["in-2099 has opened", "campaign pause"]);
    let past = run(system, &["campaign", "create", "past", "--capacity", "1", "--opens-at", "2020-01-01T00:00:00Z"]);
    assert_output(&past, 0, &["warning: --opens-at is in the past", "next: issuer campaign publish past"]);
    let shown = run(system, &["campaign", "show", "past"]);
    assert_output(&shown, 0, &["state      open", "not published", "next: issuer campaign publish past"]);
    assert_output(&run(system, &["campaign", "pause", "past"]), 0, &["next: issuer campaign resume past"]);
    let checked = parsed(&run(system, &["check-config", "--json"]));
    assert!(checked["version"] == 1 && checked["checks"].as_array().unwrap().len() > 5, "{checked}");

    // Refused credentials are no silence.
    let redis = [("UPSTASH_REDIS_REST_TOKEN", "another")];
    assert_output(&run_with(system, &["campaign", "pause", "past"], &redis), 2, &["check UPSTASH_REDIS_REST_TOKEN"]);
    assert_output(&run_with(system, &["verify", "past"], &redis), 2, &["VERDICT: unknown", "UPSTASH_REDIS_REST_TOKEN"]);
    let url = system.stack.endpoints.database_url.replacen("dropgate:", "dropgate:wrong-", 1);
    assert_ne!(url, system.stack.endpoints.database_url);
    assert_output(&run_with(system, &["campaign", "list"], &[("DATABASE_URL", &url)]), 2, &["check user and password"]);
}

fn bad_input(system: &System, campaign: &str) {
    for verb in [&["verify", "nobody"][..], &["export", "nobody"], &["campaign", "close", "nobody"]] {
        assert_output(&run(system, verb), 2, &["MySQL has no campaign nobody"]);
    }
    assert_output(&run(system, &["verify", "No Body"]), 2, &["No Body"]);
    assert_output(&run(system, &["dlq", "show", "seven"]), 2, &["PARTITION/OFFSET"]);
    assert_output(&run(system, &["dlq", "show", "0/999999"]), 1, &["has no record 0/999999"]);
    assert_output(&run(system, &["dlq", "list", "--since", "yesterday"]), 2, &["RFC 3339"]);

    // MySQL, Redis or Kafka down: the verdict is unknown, never "violated".
    let unused = format!("127.0.0.1:{}", free_port());
    let mysql = format!("mysql://u:s3cret@{unused}/d");
    for verb in [&["verify", campaign][..], &["campaign", "list"], &["export", campaign], &["migrate", "--status"]] {
        let failed = run_with(system, verb, &[("DATABASE_URL", &mysql)]);
        assert_output(&failed, 3, &["DATABASE_URL is mysql://127.0.0.1:"]);
        assert!(!String::from_utf8_lossy(&failed.stderr).contains("s3cret"));
    }
    let redis = format!("http://{unused}");
    let redis = [("UPSTASH_REDIS_REST_URL", redis.as_str())];
    assert_output(&run_with(system, &["verify", campaign], &redis), 3, &["VERDICT: unknown", "redis connect"]);
    assert_output(&run_with(system, &["reconcile", campaign, "--apply"], &redis), 3, &["VERDICT: unknown"]);
    let closed = run_with(system, &["campaign", "close", campaign], &redis);
    assert_output(&closed, 3, &["MySQL has the change, but the gate may not have it yet"]);
    let kafka = [("KAFKA_BOOTSTRAP", unused.as_str())];
    assert_output(&run_with(system, &["verify", campaign], &kafka), 3, &["VERDICT: unknown", "kafka"]);
    let failed = run_with(system, &["dlq", "list"], &kafka);
    assert_output(&failed, 3, &["kafka"]);
    assert!(!String::from_utf8_lossy(&failed.stderr).contains("librdkafka"), "{failed:?}");
    assert_output(&run_with(system, &["check-config"], &kafka), 1, &["✗  Kafka", "check failed"]);

    // A configuration file: the environment overrides its values, and unknown settings are named.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("issuer.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, format!("database_url = '{}'\n", system.stack.endpoints.database_url)).unwrap();
    let listed = run_with(system, &["campaign", "list", "--config", path], &[("DATABASE_URL", "")]);
    assert_output(&listed, 0, &[campaign]);
    std::fs::write(&file, "databse_url = 's3cret'\n").unwrap();
    let wrong = run(system, &["--config", path, "campaign", "list"]);
    assert_output(&wrong, 2, &["databse_url is not a setting; did you mean database_url?"]);
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("s3cret"));

    assert_output(&run(system, &["completions", "bash"]), 0, &["_issuer", "reconcile"]);

    // `issuer .. | head`: the reader is gone, and the command ends with the same status.
    for verb in [&["campaign", "list"][..], &["completions", "bash"], &["dlq", "list"]] {
        let mut command = Command::new(programs().join("issuer"));
        command.args(verb).envs(system.stack.endpoints.issuer_env()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_output(&child.wait_with_output().unwrap(), 0, &[]);
    }
}

/// I3: `reconcile` repairs what Redis missed while it was down.
#[tokio::test]
async fn reconcile_repairs_what_redis_missed() {
    let mut system = System::start("operator-reconcile").await;
    let campaign = system.campaign(100);

    // The rows are written while Redis is down, so that every confirmation is lost.
    let redis_pid = system.stack.process("redis").unwrap().pid().to_string();
    let url = system.url(&format!("/v1/campaigns/{campaign}/claims"));
    let http = dropgate_devstack::http_client();
    let ping = http
        .post(&system.stack.endpoints.redis_rest_url)
        .bearer_auth(&system.stack.endpoints.redis_rest_token)
        .json(&["PING"]);
    system
        .stack
        .without("mysql", false, async {
            for n in 1..=20 {
                let claim = http.post(&url).header("x-user-id", format!("u-{n}"));
                assert_eq!(claim.send().await.unwrap().status().as_u16(), 202);
            }
            assert!(Command::new("kill").arg(&redis_pid).status().unwrap().success());
            until("Redis is down", async || !ping.try_clone().unwrap().send().await.unwrap().status().is_success())
                .await;
            Ok(())
        })
        .await
        .unwrap();
    until("they are coupons", async || system.coupon_count(&campaign).await.is_ok_and(|rows| rows == 20)).await;
    assert_output(&run(&system, &["verify", &campaign]), 3, &["VERDICT: unknown", "redis"]);
    system.stack.without("redis", false, async { Ok(()) }).await.unwrap();
    until("Redis serves", async || ping.try_clone().unwrap().send().await.unwrap().status().is_success()).await;

    until("the records are committed", async || {
        finding_count(&parsed(&run(&system, &["verify", &campaign, "--json"])), "unconfirmed") == 20
    })
    .await;
    assert_eq!(system.outbox_len(&campaign).await, 20, "no confirmation was lost: the repair is not tested");
    let planned = run(&system, &["reconcile", &campaign]);
    assert_output(&planned, 4, &["confirm 20 claims", "nothing was changed", "VERDICT: under way"]);
    assert_eq!(system.outbox_len(&campaign).await, 20, "the dry run changed something");
    let users = stdout(&run(&system, &["verify", &campaign]));
    assert!(!users.contains("u-1"), "{users}");
    assert!(stdout(&run(&system, &["verify", &campaign, "--show-users"])).contains("u-1"));
    assert_output(&run(&system, &["reconcile", &campaign, "--apply"]), 0, &["20 claims confirmed", "VERDICT: holds"]);
    assert_eq!(system.outbox_len(&campaign).await, 0);
    until("the gate serves again", async || system.claim(&campaign, "u-7").await.status == 200).await;
    assert_eq!(system.claim(&campaign, "u-7").await.body["status"], "issued");

    // Claims without an outbox entry: no process will forward them.
    let claim = system.url(&format!("/v1/campaigns/{campaign}/claims"));
    system
        .stack
        .without("kafka-rest", false, async {
            for n in 1..=5 {
                let request = http.post(&claim).header("x-user-id", format!("stranded-{n}"));
                assert_eq!(request.send().await.unwrap().status().as_u16(), 202);
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_output(&run(&system, &["verify", &campaign]), 4, &["5 admitted claims whose row is still to come"]);
    system.redis(&["DEL", &format!("dg:{{{campaign}}}:outbox")]).await;
    assert_output(
        &run(&system, &["verify", &campaign]),
        1,
        &["VERDICT: violated", "I3  5 admitted claims without a row"],
    );
    assert_output(
        &run(&system, &["reconcile", &campaign, "--yes"]),
        4,
        &["5 outbox entries restored", "VERDICT: under way"],
    );
    system.stack.run_cron().await.unwrap();
    all_issued(&system, &campaign, 25).await;

    // Redis has lost one claim, and another differs from its row.
    let claims = format!("dg:{{{campaign}}}:claims");
    system.redis(&["HDEL", &claims, "u-1"]).await;
    system.redis(&["HSET", &claims, "u-2", "99:1:i"]).await;
    system.redis(&["HSET", &claims, "ghost", "98:1:i"]).await;
    let broken = parsed(&run(&system, &["verify", &campaign, "--json"]));
    assert_eq!(broken["verdict"], "violated");
    for kind in ["row_without_claim", "told_otherwise", "told_without_row"] {
        assert_eq!(finding_count(&broken, kind), 1, "{broken}");
    }
    assert_output(
        &run(&system, &["reconcile", &campaign, "--apply"]),
        1,
        &["published", "1 claims that Redis calls settled"],
    );
    system.redis(&["HDEL", &claims, "ghost"]).await;
    assert_output(&run(&system, &["reconcile", &campaign, "--apply"]), 0, &["VERDICT: holds"]);

    // Redis has lost everything.
    system.redis(&["FLUSHALL"]).await;
    // Its later claims cannot be compared before the campaign is published.
    system.redis(&["HSET", &claims, "since", "26:1763700000000:a"]).await;
    assert_output(&run(&system, &["verify", &campaign]), 3, &["Redis has no such campaign"]);
    let rebuilt = run(&system, &["reconcile", &campaign, "--apply"]);
    assert_output(&rebuilt, 4, &["publish the campaign", "1 outbox entries restored", "VERDICT: under way"]);
    assert_eq!(system.claim(&campaign, "u-7").await.status, 200);
    system.stack.run_cron().await.unwrap();
    all_issued(&system, &campaign, 26).await;
    system.stop().await;
}

async fn produce(system: &System, values: &[Value]) {
    let at = &system.stack.endpoints;
    let records: Vec<Value> = values.iter().map(|value| json!({ "value": value })).collect();
    let request = dropgate_devstack::http_client()
        .post(format!("{}/topics/coupon_create", at.kafka_rest_url))
        .bearer_auth(&at.kafka_rest_token)
        .header("content-type", "application/vnd.kafka.json.v2+json")
        .body(json!({ "records": records }).to_string());
    let response = system.send(request).await;
    assert_eq!(response.status, 200, "{response:?}");
}

/// Dead letters are kept, and become rows once their cause is repaired (I3, I6).
#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed() {
    let system = System::start("operator-dlq").await;
    let list = |args: &[&str]| {
        let listed = parsed(&run(&system, &[&["dlq", "list", "--json"], args].concat()));
        listed["dead_letters"].as_array().unwrap().len()
    };
    assert_output(&run(&system, &["dlq", "list"]), 0, &["no dead letters"]);

    let orphans: Vec<Value> = (1..=30)
        .map(|n| json!({"v": 1, "campaign": "orphan", "user": format!("user-{n}"), "slot": n, "admitted_at": 1_763_700_000_000_u64 + n}))
        .collect();
    produce(&system, &orphans).await;
    produce(&system, &[json!({"v": 1, "campaign": "orphan"}), json!({"v": 2})]).await;
    until("all are dead letters", async || list(&[]) == 32).await;
    assert_eq!(list(&["--cause", "unknown_campaign"]), 30);
    assert_eq!(list(&["--campaign", "orphan", "--limit", "7"]), 7);
    assert_eq!(list(&["--cause", "malformed"]), 1);
    assert_eq!((list(&["--since", "2020-01-01T00:00:00Z"]), list(&["--until", "2020-01-01T00:00:00Z"])), (32, 0));
    let table = stdout(&run(&system, &["dlq", "list"]));
    assert!(table.contains("unknown_campaign") && table.contains("us***(") && !table.contains("user-1"), "{table}");

    let listed = parsed(&run(&system, &["dlq", "list", "--json", "--cause", "malformed"]));
    let place = listed["dead_letters"][0]["place"].as_str().unwrap().to_owned();
    assert_output(
        &run(&system, &["dlq", "show", &place]),
        0,
        &["dropgate.cause = malformed", r#"payload   {"campaign":"orphan""#],
    );

    // Without the campaign, a replay ends in the dead-letter topic again; the new dead letters remain.
    let by_cause = ["dlq", "replay", "--cause", "unknown_campaign"];
    assert_output(
        &run(&system, &[&by_cause[..], &["--dry-run"]].concat()),
        0,
        &["30 dead letters would be sent again"],
    );
    assert_eq!(list(&["--remaining"]), 32);
    assert_output(&run(&system, &[&by_cause[..], &["--limit", "1"]].concat()), 0, &["1 dead letters were sent again"]);
    until("it is a dead letter again", async || list(&[]) == 33).await;
    assert_eq!(list(&["--cause", "unknown_campaign", "--remaining"]), 30);

    system.stack.run_issuer(&["campaign", "create", "orphan", "--capacity", "100"]).unwrap();
    system.stack.run_issuer(&["campaign", "publish", "orphan"]).unwrap();
    system.redis(&["HSET", "dg:{orphan}:claims", "user-3", "3:1763700000003:d"]).await;
    system.stack.run_issuer(&["campaign", "publish", "orphan"]).unwrap();
    assert_output(&run(&system, &["verify", "orphan"]), 4, &["1 admitted claims in the dead-letter topic"]);
    assert_output(&run(&system, &by_cause), 0, &["30 dead letters were sent again"]);
    until("they are coupons", async || system.coupon_count("orphan").await.unwrap() == 30).await;
    until("Redis has the confirmation", async || {
        system.redis(&["HGET", "dg:{orphan}:claims", "user-3"]).await == json!("3:1763700000003:i")
    })
    .await;
    assert_output(&run(&system, &by_cause), 0, &["no matching dead letters remain"]);
    assert_eq!(list(&["--remaining"]), 2, "records that cannot be decoded remain");

    // Replaying twice changes nothing (I6).
    assert_output(&run(&system, &[&by_cause[..], &["--again"]].concat()), 0, &["31 dead letters were sent again"]);
    until("Kafka is read to its end", async || {
        parsed(&run(&system, &["campaign", "show", "orphan", "--json"]))["kafka"]["lag"] == 0
    })
    .await;
    assert_eq!(system.coupon_count("orphan").await.unwrap(), 30);
    system.stop().await;
}
