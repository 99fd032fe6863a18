//! The gate on the real runtime, alone: whom it believes, what visitors hear when Redis's answers are
//! spoilt, and what becomes of those who hang up.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::chaos::{Chaos, Fault};
use dropgate_tests::tokens::{Document, sign};
use dropgate_tests::{Answer, System, programs, until};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SECRET: &str = "a secret of more than thirty-two bytes";

async fn claim(system: &System, gate: &str, campaign: &str, header: (&str, &str)) -> Answer {
    let url = format!("{gate}/v1/campaigns/{campaign}/claims");
    system.send(dropgate_local::http_client().post(url).header(header.0, header.1)).await
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn the_gate_on_the_real_runtime() {
    let system = System::start("gate").await;
    tokens(&system).await;
    keys(&system).await;
    spoilt_answers(&system).await;
    hang_ups(&system).await;
    holders_and_a_raise(&system).await;
    kafka_has_the_word(&system).await;
    figures(&system).await;
    system.stop().await;
}

/// Tokens signed with a secret, and all the ways in which one can be wrong.
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
    let asked = json!([
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
    let (_, tokens) = sign(&asked);
    let (good, bad) = tokens.split_at(2);
    let admitted = claim(system, &gate.url, &campaign, ("authorization", &bearer(&good[0]))).await;
    assert_eq!((admitted.status, admitted.body["slot"].as_u64()), (202, Some(1)));

    let cut = good[0][..good[0].len() - 3].to_owned();
    let unsigned = format!("{}.", good[0].rsplit_once('.').unwrap().0);
    let long = "x".repeat(10_000);
    let mut answers = BTreeSet::new();
    for token in bad.iter().map(String::as_str).chain([&*cut, &unsigned, &long, "", "..", "a.b.c"]) {
        let answer = claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await;
        assert_eq!(answer.status, 401, "{token}");
        answers.insert(answer.body.to_string());
    }
    answers.insert(claim(system, &gate.url, &campaign, ("x-user-id", "u1")).await.body.to_string());
    assert_eq!(answers.len(), 1, "what is wrong with a token can be learnt: {answers:?}");

    // A good token of one user shows nothing of another's claim.
    let url = format!("{}/v1/campaigns/{campaign}/claims/me", gate.url);
    let own = async |token: &str| {
        system.send(dropgate_local::http_client().get(&url).header("authorization", bearer(token))).await
    };
    assert_eq!(own(&good[0]).await.body["slot"], 1);
    let other = own(&good[1]).await;
    assert_eq!((other.status, other.problem()), (404, "no-claim"));
}

/// Public keys of every kind by the runtime's own cryptography, fetched once, and a rotation.
async fn keys(system: &System) {
    let campaign = system.campaign(10);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let of =
        |key: &str, user: &str| json!({ "key": key, "claims": { "sub": user, "exp": now_s + 600, "aud": "dropgate" } });
    let confused = json!({ "key": "hmac:public", "claims": { "sub": "u9", "exp": now_s + 600, "aud": "dropgate" } });
    let asked =
        json!([of("rs256", "u1"), of("es256", "u2"), of("eddsa", "u3"), of("new", "u4"), confused, of("es256", "u5")]);
    let (sets, tokens) = sign(&asked);
    let served = Document::serve(&sets["old"]).await;
    let vars = [("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", &*served.url), ("JWT_AUDIENCE", "dropgate")];
    let gate = system.stack.gate("gate-jwks", &vars, &[]).await.unwrap();

    let first = join_all(
        tokens[..3]
            .iter()
            .map(async |token| claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await.status),
    )
    .await;
    assert_eq!(first, [202; 3]);
    assert_eq!(served.asked(), 1, "the keys were fetched more than once for all who came at once");

    // An HMAC whose secret is the public key, a key that nobody knows, another's signature.
    let swapped = format!("{}.{}", tokens[5].rsplit_once('.').unwrap().0, tokens[1].rsplit_once('.').unwrap().1);
    for token in [&tokens[4], &swapped] {
        assert_eq!(claim(system, &gate.url, &campaign, ("authorization", &bearer(token))).await.status, 401);
    }
    // A key that comes later is found, by a gate that asks anew.
    served.set(&sets["rotated"]);
    until("the new key is believed", async || {
        let answer = claim(system, &gate.url, &campaign, ("authorization", &bearer(&tokens[3]))).await;
        assert!(matches!(answer.status, 401 | 202), "{answer:?}");
        answer.status == 202
    })
    .await;
    assert!(served.asked() <= 3, "a key that nobody knows makes the gate ask and ask: {}", served.asked());
}

/// Redis carries out what it is asked, and the answer is spoilt: nobody is refused, and asking again
/// gives the slot that was given (I5, I8).
async fn spoilt_answers(system: &System) {
    let campaign = system.campaign(100);
    let chaos = Chaos::before(&system.stack.endpoints.redis_rest_url).await;
    let vars = [("AUTH", "insecure-header"), ("UPSTASH_REDIS_REST_URL", &*chaos.url), ("REDIS_DEADLINE_MS", "300")];
    let gate = system.stack.gate("gate-spoilt", &vars, &[]).await.unwrap();
    assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "first")).await.status, 202);

    let faults = [Fault::Late(Duration::from_millis(900)), Fault::Garbage, Fault::Close];
    for (n, fault) in faults.into_iter().enumerate() {
        let user = format!("spoilt-{n}");
        let before = chaos.struck();
        chaos.set(fault);
        let answer = claim(system, &gate.url, &campaign, ("x-user-id", &user)).await;
        assert_eq!((answer.status, answer.problem()), (503, "unavailable"), "{fault:?}");
        assert!(answer.retry_after.is_some());
        assert!(chaos.struck() > before, "{fault:?} did not strike");
        chaos.set(Fault::None);
        let held = system.redis(&["HGET", &format!("dg:{{{campaign}}}:claims"), &user]).await;
        let slot: u64 = held.as_str().unwrap().split(':').next().unwrap().parse().unwrap();
        let again = claim(system, &gate.url, &campaign, ("x-user-id", &user)).await;
        assert_eq!((again.status, again.body["slot"].as_u64()), (200, Some(slot)), "{fault:?}");
    }
}

/// A visitor who sends his claim and leaves without waiting.
async fn hang_up(gate: &str, campaign: &str, user: &str, after: Duration) {
    let mut stream = tokio::net::TcpStream::connect(gate.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!(
        "POST /v1/campaigns/{campaign}/claims HTTP/1.1\r\nhost: gate\r\nx-user-id: {user}\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    let answered = tokio::time::timeout(after, stream.read(&mut byte)).await;
    assert!(answered.is_err(), "{user} was answered before he could hang up");
}

/// Visitors who hang up while Redis decides about them and others: the others get their answers, and
/// nobody loses a slot.
async fn hang_ups(system: &System) {
    const EACH: usize = 150;
    let campaign = system.campaign(2 * u32::try_from(EACH).unwrap());
    let chaos = Chaos::before(&system.stack.endpoints.redis_rest_url).await;
    let vars = [("AUTH", "insecure-header"), ("UPSTASH_REDIS_REST_URL", &*chaos.url), ("LOG_SAMPLE", "0")];
    let gate = system.stack.gate("gate-hang-ups", &vars, &[]).await.unwrap();
    chaos.set(Fault::Late(Duration::from_millis(400)));
    let leaving = join_all((0..EACH).map(|n| {
        let (gate, campaign) = (&gate.url, &campaign);
        async move {
            hang_up(gate, campaign, &format!("leaving-{n}"), Duration::from_millis(1 + n as u64)).await;
        }
    }));
    let staying = join_all(
        (0..EACH).map(async |n| claim(system, &gate.url, &campaign, ("x-user-id", &format!("staying-{n}"))).await),
    );
    let (_, staying) = tokio::join!(leaving, staying);
    assert!(chaos.struck() > 0, "nothing was slow: nobody hung up during a decision");
    assert!(staying.iter().all(|answer| answer.status == 202), "{staying:?}");
    chaos.set(Fault::None);

    // Those who left ask again: each gets one slot, the one he has if he has one.
    let back = join_all(
        (0..EACH).map(async |n| claim(system, &gate.url, &campaign, ("x-user-id", &format!("leaving-{n}"))).await),
    )
    .await;
    assert!(back.iter().all(|answer| matches!(answer.status, 200 | 202)), "{back:?}");
    assert!(back.iter().any(|answer| answer.status == 200), "nobody was admitted before he left");
    let slots: BTreeSet<u64> =
        staying.iter().chain(&back).map(|answer| answer.body["slot"].as_u64().unwrap()).collect();
    assert_eq!(slots, (1..=2 * EACH as u64).collect());
    let last = claim(system, &gate.url, &campaign, ("x-user-id", "one-too-many")).await;
    assert_eq!((last.status, last.problem()), (410, "sold-out"));
    until("all of them are coupons", async || {
        system.rows(&campaign).await.is_ok_and(|rows| rows == 2 * i64::try_from(EACH).unwrap())
    })
    .await;
}

/// After sold-out: holders hear of their slots from any isolate, strangers cost nothing, and a raised
/// capacity is seen within two seconds.
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
        // Two to learn that it is sold out and who holds a slot, then the memory answers.
        for n in 0..3 {
            assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", &format!("early-{n}"))).await.status, 410);
        }
    }
    let before = evals().await;
    let begun = std::time::Instant::now();
    let mut strangers = 0;
    while begun.elapsed() < Duration::from_millis(1_500) {
        for gate in [&one, &two] {
            let answer = claim(system, &gate.url, &campaign, ("x-user-id", &format!("stranger-{strangers}"))).await;
            assert_eq!((answer.status, answer.problem()), (410, "sold-out"));
            strangers += 1;
        }
    }
    // Sweeps are calls too: one every five seconds and isolate at most.
    let spent = evals().await - before;
    assert!(strangers > 200 && spent <= 8, "{strangers} strangers cost {spent} calls");

    for n in 0..5 {
        for gate in [&one, &two] {
            let answer = claim(system, &gate.url, &campaign, ("x-user-id", &format!("holder-{n}"))).await;
            assert_eq!((answer.status, answer.body["slot"].as_u64()), (200, Some(n + 1)));
        }
    }

    let url = format!("{}/v1/campaigns/{campaign}", two.url);
    let look = async || system.send(dropgate_local::http_client().request(Method::GET, &url)).await;
    assert_eq!(look().await.body["state"], "sold-out");
    system.redis(&["HSET", &format!("dg:{{{campaign}}}:meta"), "capacity", "7"]).await;
    let raised = std::time::Instant::now();
    let mut admitted = [false; 2];
    let mut shown = false;
    while admitted != [true; 2] || !shown {
        assert!(raised.elapsed() < Duration::from_secs(2), "a raised capacity was not seen within two seconds");
        for (at, gate) in [&one, &two].into_iter().enumerate() {
            if !admitted[at] {
                let answer = claim(system, &gate.url, &campaign, ("x-user-id", &format!("raised-{at}"))).await;
                admitted[at] = answer.status == 202;
                assert!(matches!(answer.status, 202 | 410), "{answer:?}");
            }
        }
        shown = look().await.body["capacity"] == 7;
    }
}

/// `ADMIT_ACK=kafka` with a real Kafka: whoever hears "admitted" has a record in the topic.
async fn kafka_has_the_word(system: &System) {
    let campaign = system.campaign(50);
    let chaos = Chaos::before(&system.stack.endpoints.kafka_rest_url).await;
    let vars = [
        ("AUTH", "insecure-header"),
        ("ADMIT_ACK", "kafka"),
        ("KAFKA_REST_URL", &*chaos.url),
        ("KAFKA_DEADLINE_MS", "500"),
    ];
    let gate = system.stack.gate("gate-kafka-ack", &vars, &[]).await.unwrap();
    let users: Vec<String> = (0..20).map(|n| format!("u-{n}")).collect();
    let all = async || {
        join_all(users.iter().map(async |user| claim(system, &gate.url, &campaign, ("x-user-id", user)).await)).await
    };
    chaos.set(Fault::Close);
    assert!(all().await.iter().all(|answer| answer.status == 503 && answer.retry_after.is_some()));
    assert!(chaos.struck() > 0);
    chaos.set(Fault::None);
    let answers = all().await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    until("each has one coupon", async || system.rows(&campaign).await.is_ok_and(|rows| rows == 20)).await;
    until("the outbox is empty", async || system.waiting(&campaign).await == 0).await;
}

/// What the gate tells its operator: a line for each fault, lines for a share of the requests, figures once
/// a second where they are wanted; and never who the visitors are.
async fn figures(system: &System) {
    let campaign = system.campaign(1);
    let vars = [("AUTH", "insecure-header"), ("LOG_SAMPLE", "1")];
    let gate = system.stack.gate("gate-figures", &vars, &["METRICS"]).await.unwrap();
    let log = || std::fs::read_to_string(programs().parent().unwrap().join("e2e/gate/log/gate-figures.log")).unwrap();
    let points = |log: &str| -> Vec<Value> {
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["blobs"].is_array())
            .collect()
    };
    let told = |label: &str| {
        let text = log();
        points(&text)
            .iter()
            .filter(|point| point["blobs"][2] == label)
            .filter_map(|p| p["doubles"][0].as_u64())
            .sum::<u64>()
    };
    assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "somebody-secret")).await.status, 202);
    let mut refused = 0;
    until("the figures of what was refused are written", async || {
        assert_eq!(claim(system, &gate.url, &campaign, ("x-user-id", "another-secret")).await.status, 410);
        refused += 1;
        told("sold-out") > 3
    })
    .await;
    assert_eq!(told("admitted"), 1);
    assert!(told("sold-out") <= refused);
    let text = log();
    assert!(text.contains(r#""outcome":"admitted""#) && text.contains("/v1/campaigns/{id}/claims"));
    assert!(!text.contains("secret"), "a user's id is in the log");
}
