//! The gate alone on the real runtime: which tokens it accepts, its responses when those of Redis are faulty,
//! and users who close their connection.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::fault_proxy::{FaultProxy, ResponseFault};
use dropgate_tests::tokens::{JsonServer, sign};
use dropgate_tests::{Response, System, until};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECRET: &str = "a secret of more than thirty-two bytes";

async fn claim(system: &System, gate: &str, campaign: &str, header: (&str, &str)) -> Response {
    let url = format!("{gate}/v1/campaigns/{campaign}/claims");
    system.send(dropgate_devstack::http_client().post(url).header(header.0, header.1)).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn the_gate_on_the_real_runtime() {
    let system = System::start("gate").await;
    tokens(&system).await;
    keys(&system).await;
    faulty_responses(&system).await;
    disconnects(&system).await;
    holders_and_a_raise(&system).await;
    admission_needs_kafka(&system).await;
    logs_and_metrics(&system).await;
    system.stop().await;
}

/// Tokens signed with a secret: valid ones, and every way in which one can be invalid.
async fn tokens(system: &System) {
    let campaign = system.campaign(10);
    let vars = [("AUTH", "jwt-hs256"), ("JWT_SECRET", SECRET), ("JWT_ISSUER", "shop"), ("JWT_AUDIENCE", "dropgate")];
    let gate = system.stack.gate("gate-hs256", &vars, &[]).await.unwrap();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = json!({ "sub": "u1", "exp": now_s + 600, "iss": "shop", "aud": ["dropgate"] });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        json!({ "key": format!("hmac:{SECRET}"), "claims": claims })
    };
    let requested = json!([
        with("sub", json!("u1")),
        with("sub", json!("u2")),
        with("exp", json!(now_s - 60)),
        with("nbf", json!(now_s + 60)),
        with("aud", json!("another")),
        with("iss", json!("another")),
        { "key": format!("hmac:{}", "forged".repeat(6)), "claims": good },
        { "key": format!("hmac:{SECRET}"), "alg": "none", "claims": good },
        { "key": "rs256", "claims": good },
    ]);
    let (_, tokens) = sign(&requested);
    let (valid, invalid) = tokens.split_at(2);
    let admitted = claim(system, &gate.url, &campaign, ("authorization", &bearer(&valid[0]))).await;
    assert_eq!((admitted.status, admitted.body["slot"].as_u64()), (202, Some(1)));

    let cut = valid[0][..valid[0].len() - 3].to_owned();
    let unsigned = format!("{}.", valid[0].rsplit_once('.').unwrap().0);
    let long = "x".repeat(10_000);
    let mut bodies = BTreeSet::new();
    for token in invalid.iter().map(String::as_str).chain([&*cut, &unsigned, &long, "", "..", "a.b.c"]) {
        let response = claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await;
        assert_eq!(response.status, 401, "{token}");
        bodies.insert(response.body.to_string());
    }
    bodies.insert(claim(system, &gate.url, &campaign, ("x-user-id", "u1")).await.body.to_string());
    assert_eq!(bodies.len(), 1, "the response shows why a token is invalid: {bodies:?}");

    // A valid token of one user shows nothing of another's claim.
    let url = format!("{}/v1/campaigns/{campaign}/claims/me", gate.url);
    let own = async |token: &str| {
        system.send(dropgate_devstack::http_client().get(&url).header("authorization", bearer(token))).await
    };
    assert_eq!(own(&valid[0]).await.body["slot"], 1);
    let other = own(&valid[1]).await;
    assert_eq!((other.status, other.problem()), (404, "no-claim"));
}

/// Public keys of every kind, verified by the runtime's own cryptography: fetched once, then rotated.
async fn keys(system: &System) {
    let campaign = system.campaign(10);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let of =
        |key: &str, user: &str| json!({ "key": key, "claims": { "sub": user, "exp": now_s + 600, "aud": "dropgate" } });
    let confused = json!({ "key": "hmac:public", "claims": { "sub": "u9", "exp": now_s + 600, "aud": "dropgate" } });
    let requested =
        json!([of("rs256", "u1"), of("es256", "u2"), of("eddsa", "u3"), of("new", "u4"), confused, of("es256", "u5")]);
    let (sets, tokens) = sign(&requested);
    let jwks = JsonServer::serve(&sets["old"]).await;
    let vars = [("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", &*jwks.url), ("JWT_AUDIENCE", "dropgate")];
    let gate = system.stack.gate("gate-jwks", &vars, &[]).await.unwrap();

    let first = join_all(
        tokens[..3]
            .iter()
            .map(async |token| claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await.status),
    )
    .await;
    assert_eq!(first, [202; 3]);
    assert_eq!(jwks.request_count(), 1, "the keys were fetched more than once for concurrent requests");

    // An HMAC whose secret is the public key, and the signature of another token.
    let swapped = format!("{}.{}", tokens[5].rsplit_once('.').unwrap().0, tokens[1].rsplit_once('.').unwrap().1);
    for token in [&tokens[4], &swapped] {
        assert_eq!(claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await.status, 401);
    }
    // A new key is found: the gate fetches the set again.
    jwks.set(&sets["rotated"]);
    until("the new key is accepted", async || {
        let response = claim(system, &gate.url, &campaign, ("authorization", &bearer(&tokens[3]))).await;
        assert!(matches!(response.status, 401 | 202), "{response:?}");
        response.status == 202
    })
    .await;
    assert!(jwks.request_count() <= 3, "an unknown key caused many fetches: {}", jwks.request_count());
}

/// Redis runs the script, but its response is faulty: no user is refused, and a repeated claim returns the slot
/// that was assigned (I5, I8).
async fn faulty_responses(system: &System) {
    let campaign = system.campaign(100);
    let proxy = FaultProxy::in_front_of(&system.stack.endpoints.redis_rest_url).await;
    let vars = [("AUTH", "insecure-header"), ("UPSTASH_REDIS_REST_URL", &*proxy.url), ("REDIS_DEADLINE_MS", "300")];
    let gate = system.stack.gate("gate-faulty-responses", &vars, &[]).await.unwrap();
    assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "first")).await.status, 202);

    let faults = [ResponseFault::Delay(Duration::from_millis(900)), ResponseFault::Garbage, ResponseFault::Close];
    for (n, fault) in faults.into_iter().enumerate() {
        let user = format!("faulty-{n}");
        let before = proxy.injected();
        proxy.inject(fault);
        let response = claim(system, &gate.url, &campaign, ("x-user-id", &user)).await;
        assert_eq!((response.status, response.problem()), (503, "unavailable"), "{fault:?}");
        assert!(response.retry_after.is_some());
        assert!(proxy.injected() > before, "{fault:?} was not injected");
        proxy.inject(ResponseFault::None);
        let held = system.redis(&["HGET", &format!("dg:{{{campaign}}}:claims"), &user]).await;
        let slot: u64 = held.as_str().unwrap().split(':').next().unwrap().parse().unwrap();
        let again = claim(system, &gate.url, &campaign, ("x-user-id", &user)).await;
        assert_eq!((again.status, again.body["slot"].as_u64()), (200, Some(slot)), "{fault:?}");
    }
}

/// A user who sends a claim and closes the connection without a response.
async fn claim_and_disconnect(gate: &str, campaign: &str, user: &str, after: Duration) {
    let mut stream = tokio::net::TcpStream::connect(gate.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!(
        "POST /v1/campaigns/{campaign}/claims HTTP/1.1\r\nhost: gate\r\nx-user-id: {user}\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    let response = tokio::time::timeout(after, stream.read(&mut byte)).await;
    assert!(response.is_err(), "{user} got a response before the disconnect");
}

/// Users disconnect while Redis decides their claims and others: the others get their responses, and no user
/// loses a slot.
async fn disconnects(system: &System) {
    const EACH: usize = 150;
    let campaign = system.campaign(2 * u32::try_from(EACH).unwrap());
    let proxy = FaultProxy::in_front_of(&system.stack.endpoints.redis_rest_url).await;
    let vars = [("AUTH", "insecure-header"), ("UPSTASH_REDIS_REST_URL", &*proxy.url), ("LOG_SAMPLE", "0")];
    let gate = system.stack.gate("gate-disconnects", &vars, &[]).await.unwrap();
    proxy.inject(ResponseFault::Delay(Duration::from_millis(400)));
    let leaving = join_all((0..EACH).map(|n| {
        let (gate, campaign) = (&gate.url, &campaign);
        async move {
            claim_and_disconnect(gate, campaign, &format!("leaving-{n}"), Duration::from_millis(1 + n as u64)).await;
        }
    }));
    let staying = join_all(
        (0..EACH).map(async |n| claim(system, &gate.url, &campaign, ("x-user-id", &format!("staying-{n}"))).await),
    );
    let (_, staying) = tokio::join!(leaving, staying);
    assert!(proxy.injected() > 0, "no response was delayed: no disconnect happened during a decision");
    assert!(staying.iter().all(|response| response.status == 202), "{staying:?}");
    proxy.inject(ResponseFault::None);

    // Those who left claim again: each gets one slot, their own if they were admitted.
    let returned = join_all(
        (0..EACH).map(async |n| claim(system, &gate.url, &campaign, ("x-user-id", &format!("leaving-{n}"))).await),
    )
    .await;
    assert!(returned.iter().all(|response| matches!(response.status, 200 | 202)), "{returned:?}");
    assert!(returned.iter().any(|response| response.status == 200), "no user was admitted before the disconnect");
    let slots: BTreeSet<u64> =
        staying.iter().chain(&returned).map(|response| response.body["slot"].as_u64().unwrap()).collect();
    assert_eq!(slots, (1..=2 * EACH as u64).collect());
    let last = claim(system, &gate.url, &campaign, ("x-user-id", "one-too-many")).await;
    assert_eq!((last.status, last.problem()), (410, "sold-out"));
    until("all of them are coupons", async || {
        system.coupon_count(&campaign).await.is_ok_and(|rows| rows == 2 * i64::try_from(EACH).unwrap())
    })
    .await;
}

/// After sold-out: every isolate returns the slots of holders, claims of others cost no call to Redis, and a
/// raised capacity is visible within two seconds.
async fn holders_and_a_raise(system: &System) {
    let campaign = system.campaign(5);
    let vars = [("AUTH", "insecure-header"), ("LOG_SAMPLE", "0")];
    let one = system.stack.gate("gate-one", &vars, &[]).await.unwrap();
    let two = system.stack.gate("gate-two", &vars, &[]).await.unwrap();
    for n in 0..5 {
        assert_eq!(claim(system, &one.url, &campaign, ("x-user-id", &format!("holder-{n}"))).await.status, 202);
    }
    let evals = async || {
        let info = system.redis(&["INFO", "commandstats"]).await;
        let line = info.as_str().unwrap().lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap().to_owned();
        line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse::<u64>().unwrap()
    };
    for gate in [&one, &two] {
        // Two calls to learn that it is sold out and who holds a slot, then the cache responds.
        for n in 0..3 {
            assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", &format!("early-{n}"))).await.status, 410);
        }
    }
    let before = evals().await;
    let begun = std::time::Instant::now();
    let mut newcomers = 0;
    while begun.elapsed() < Duration::from_millis(1_500) {
        for gate in [&one, &two] {
            let response = claim(system, &gate.url, &campaign, ("x-user-id", &format!("newcomer-{newcomers}"))).await;
            assert_eq!((response.status, response.problem()), (410, "sold-out"));
            newcomers += 1;
        }
    }
    // The sweeper calls Redis too: at most once every 5 s per isolate.
    let calls = evals().await - before;
    assert!(newcomers > 200 && calls <= 8, "{newcomers} newcomers cost {calls} calls");

    for n in 0..5 {
        for gate in [&one, &two] {
            let response = claim(system, &gate.url, &campaign, ("x-user-id", &format!("holder-{n}"))).await;
            assert_eq!((response.status, response.body["slot"].as_u64()), (200, Some(n + 1)));
        }
    }

    let url = format!("{}/v1/campaigns/{campaign}", two.url);
    let campaign_now = async || system.send(dropgate_devstack::http_client().request(Method::GET, &url)).await;
    assert_eq!(campaign_now().await.body["state"], "sold-out");
    system.redis(&["HSET", &format!("dg:{{{campaign}}}:meta"), "capacity", "7"]).await;
    let raised = std::time::Instant::now();
    let mut admitted = [false; 2];
    let mut shown = false;
    while admitted != [true; 2] || !shown {
        assert!(raised.elapsed() < Duration::from_secs(2), "a raised capacity was not visible within two seconds");
        for (at, gate) in [&one, &two].into_iter().enumerate() {
            if !admitted[at] {
                let response = claim(system, &gate.url, &campaign, ("x-user-id", &format!("raised-{at}"))).await;
                admitted[at] = response.status == 202;
                assert!(matches!(response.status, 202 | 410), "{response:?}");
            }
        }
        shown = campaign_now().await.body["capacity"] == 7;
    }
}

/// `ADMIT_ACK=kafka` with a real Kafka: every user who gets "admitted" has a record in the topic.
async fn admission_needs_kafka(system: &System) {
    let campaign = system.campaign(50);
    let proxy = FaultProxy::in_front_of(&system.stack.endpoints.kafka_rest_url).await;
    let vars = [
        ("AUTH", "insecure-header"),
        ("ADMIT_ACK", "kafka"),
        ("KAFKA_REST_URL", &*proxy.url),
        ("KAFKA_DEADLINE_MS", "500"),
    ];
    let gate = system.stack.gate("gate-kafka-ack", &vars, &[]).await.unwrap();
    let users: Vec<String> = (0..20).map(|n| format!("u-{n}")).collect();
    let all = async || {
        join_all(users.iter().map(async |user| claim(system, &gate.url, &campaign, ("x-user-id", user)).await)).await
    };
    proxy.inject(ResponseFault::Close);
    assert!(all().await.iter().all(|response| response.status == 503 && response.retry_after.is_some()));
    assert!(proxy.injected() > 0);
    proxy.inject(ResponseFault::None);
    let responses = all().await;
    assert!(responses.iter().all(|response| response.status == 200), "{responses:?}");
    until("each has one coupon", async || system.coupon_count(&campaign).await.is_ok_and(|rows| rows == 20)).await;
    until("the outbox is empty", async || system.outbox_len(&campaign).await == 0).await;
}

/// What the gate reports to its operator: log lines for a share of the requests, metrics once a second where
/// they are enabled, and never the ids of users.
async fn logs_and_metrics(system: &System) {
    let campaign = system.campaign(1);
    let vars = [("AUTH", "insecure-header"), ("LOG_SAMPLE", "1")];
    let gate = system.stack.gate("gate-metrics", &vars, &["METRICS"]).await.unwrap();
    let log = || std::fs::read_to_string(system.stack.paths.logs().join("gate-metrics.log")).unwrap();
    let points = |log: &str| -> Vec<Value> {
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["blobs"].is_array())
            .collect()
    };
    let count = |label: &str| {
        let text = log();
        points(&text)
            .iter()
            .filter(|point| point["blobs"][2] == label)
            .filter_map(|p| p["doubles"][0].as_u64())
            .sum::<u64>()
    };
    assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "somebody-secret")).await.status, 202);
    let mut rejected = 0;
    until("the metrics of the rejections are written", async || {
        assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "another-secret")).await.status, 410);
        rejected += 1;
        count("sold-out") > 3
    })
    .await;
    assert_eq!(count("admitted"), 1);
    assert!(count("sold-out") <= rejected);
    let text = log();
    assert!(text.contains(r#""outcome":"admitted""#) && text.contains("/v1/campaigns/{id}/claims"));
    assert!(!text.contains("secret"), "the log contains a user id");
}
