//! The driver against a scripted edge: it answers late, not at all, or closes the connection.
// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_burst::load::client::Endpoint;
use dropgate_burst::load::driver::{RetryBehavior, open, send};
use dropgate_burst::load::identity::{Crowd, Identity};
use dropgate_burst::load::ledger::{Attempt, Ledger};
use dropgate_burst::load::outcome::{ClaimOutcome, UndecidedReason};
use dropgate_burst::load::progress::LiveCounters;
use dropgate_burst::load::schedule::{Arrival, ArrivalPattern, Plan, plan};
use dropgate_burst::report::figures::figures;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

/// What the edge does with a request.
enum Act {
    Answer(String),
    AnswerAfter(Duration, String),
    AnswerAndHangUp(String),
    AnswerWhenAllAreIn(Arc<Barrier>, String),
    HangUp,
    Hang,
}
use Act::{Answer, AnswerAfter, AnswerAndHangUp, AnswerWhenAllAreIn, Hang, HangUp};

/// Decides by the user and by the number of their earlier requests.
type Script = Arc<dyn Fn(&str, usize) -> Act + Send + Sync>;

#[derive(Default)]
struct Seen {
    by_user: Mutex<HashMap<String, usize>>,
    connections: AtomicUsize,
}

async fn edge(script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (script, seen): (Script, _) = (Arc::new(script), Arc::new(Seen::default()));
    let shared = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, SeqCst);
            tokio::spawn(serve(stream, script.clone(), shared.clone()));
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Seen>) -> Option<()> {
    loop {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        let head = String::from_utf8(bytes).unwrap();
        assert!(head.starts_with("POST /v1/campaigns/c/claims HTTP/1.1\r\n"), "{head}");
        let user = head.lines().find_map(|line| line.strip_prefix("x-user-id: ")).unwrap();
        let before = {
            let mut by_user = seen.by_user.lock().unwrap();
            let count = by_user.entry(user.to_owned()).or_default();
            *count += 1;
            *count - 1
        };
        let (text, hang_up) = match script(user, before) {
            Answer(text) => (text, false),
            AnswerAndHangUp(text) => (text, true),
            AnswerAfter(pause, text) => {
                tokio::time::sleep(pause).await;
                (text, false)
            }
            AnswerWhenAllAreIn(barrier, text) => {
                barrier.wait().await;
                (text, false)
            }
            HangUp => return None,
            Hang => std::future::pending().await,
        };
        stream.write_all(text.as_bytes()).await.ok()?;
        if hang_up {
            return None;
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn claim(status: &str, user: &str) -> String {
    let slot = user.trim_start_matches("u-");
    let body = format!(r#"{{"status":"admitted","campaign":"c","slot":{slot},"code":"CODE","admitted_at":1}}"#);
    http(status, "", &body)
}

fn sold_out() -> String {
    http("410 Gone", "", r#"{"type":"urn:dropgate:problem:sold-out"}"#)
}

fn busy() -> String {
    http("503 Service Unavailable", "retry-after: 1\r\n", r#"{"type":"urn:dropgate:problem:unavailable"}"#)
}

const RETRY: RetryBehavior = RetryBehavior {
    max_attempts: 3,
    default_pause: Duration::from_millis(5),
    retry_after_cap: Duration::from_millis(20),
    jitter: Duration::from_millis(5),
    seed: 1,
};

async fn burst(
    address: SocketAddr,
    users: u32,
    arrivals: Vec<Arrival>,
    connections: usize,
    timeout: Duration,
) -> Ledger {
    let endpoint =
        Arc::new(Endpoint::new(&format!("http://{address}"), "c", Identity::InsecureHeader, timeout).unwrap());
    let connections = open(&endpoint, connections, Duration::from_secs(5)).await.unwrap();
    let sending =
        send(endpoint, Crowd::new("u-", users), arrivals, RETRY, connections, Arc::new(LiveCounters::default()));
    tokio::time::timeout(Duration::from_secs(20), sending).await.expect("the burst ends by itself")
}

fn crowd(users: u32, over_ms: u64) -> Vec<Arrival> {
    plan(&Plan { users, repeats: 0.0, over: Duration::from_millis(over_ms), pattern: ArrivalPattern::Even, seed: 1 })
}

fn at_once(users: &[u32]) -> Vec<Arrival> {
    users.iter().map(|user| Arrival { due_us: 0, user: *user, repeat: false }).collect()
}

fn attempts_of(ledger: &Ledger, claim: u32) -> Vec<&Attempt> {
    ledger.attempts.iter().filter(|attempt| attempt.claim == claim).collect()
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn every_claim_is_sent_once_and_its_answer_kept() {
    let (address, seen) = edge(|user, before| match (user, before) {
        ("u-1" | "u-2", 0) => Answer(claim("202 Accepted", user)),
        ("u-1" | "u-2", _) => Answer(claim("200 OK", user)),
        _ => Answer(sold_out()),
    })
    .await;
    let ledger = burst(address, 4, at_once(&[0, 1, 0, 2, 3]), 2, LONG).await;
    assert_eq!(seen.by_user.lock().unwrap().values().sum::<usize>(), 5);
    assert_eq!(ledger.attempts.len(), 5);
    let figures = figures(&ledger, None, 2, Vec::new());
    let ends = figures.ends;
    assert_eq!((ends.admitted, ends.already, ends.sold_out, ends.undecided), (2, 1, 2, 0));
    assert_eq!((figures.users_in, figures.asked_again, figures.repeats_alike), (2, 0, 1));
    assert_eq!(figures.winners.iter().map(|w| w.slot).collect::<Vec<_>>(), [1, 2]);
    assert!(figures.sold_out_us.is_some());
    // Keep-alive: five requests went over the two connections.
    assert_eq!(seen.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn arrivals_go_on_while_every_answer_hangs() {
    // No request is answered before all forty arrived, some users twice: a driver that waits for a
    // response before it sends the next request never gets there.
    let barrier = Arc::new(Barrier::new(40));
    let (address, _) = edge(move |user, _| AnswerWhenAllAreIn(barrier.clone(), claim("200 OK", user))).await;
    let arrivals = plan(&Plan {
        users: 32,
        repeats: 0.25,
        over: Duration::from_millis(50),
        pattern: ArrivalPattern::Poisson,
        seed: 1,
    });
    assert_eq!(arrivals.len(), 40);
    let ledger = burst(address, 32, arrivals, 40, LONG).await;
    assert_eq!(ledger.attempts.len(), 40);
    assert!(ledger.attempts.iter().all(|attempt| attempt.outcome.promise().is_some()));
}

#[tokio::test]
async fn claims_are_sent_when_they_are_due() {
    let (address, _) = edge(|_, _| Answer(sold_out())).await;
    let ledger = burst(address, 100, crowd(100, 500), 100, LONG).await;
    for (claim, arrival) in (0..).zip(&ledger.arrivals) {
        assert!(attempts_of(&ledger, claim)[0].sent_us >= arrival.due_us, "claim {claim} was sent before it was due");
    }
    let sent_late = figures(&ledger, None, 1, Vec::new()).sent_late;
    // The median: a busy machine delays some, a late driver delays all.
    assert!(sent_late.p50_us < 10_000, "{sent_late:?}");
}

#[tokio::test]
async fn a_stall_shows_in_the_latency_of_all_claims_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(400);
    let (address, _) = edge(|user, _| match user {
        "u-1" => AnswerAfter(STALL, claim("202 Accepted", user)),
        _ => Answer(sold_out()),
    })
    .await;
    let ledger = burst(address, 100, crowd(100, 200), 1, LONG).await;
    let stall_us = u64::try_from(STALL.as_micros()).unwrap();
    for (claim, arrival) in (0..).zip(&ledger.arrivals) {
        let [attempt] = attempts_of(&ledger, claim)[..] else { panic!("claim {claim}") };
        // Each waited for the rest of the stall when it was due.
        assert!(attempt.answered_us - arrival.due_us >= stall_us - arrival.due_us, "claim {claim}: {attempt:?}");
        assert!(attempt.sent_us >= arrival.due_us, "claim {claim} was sent before it was due");
    }
    let figures = figures(&ledger, None, 1, Vec::new());
    assert!(figures.latency.p50_us >= 250_000, "{:?}", figures.latency);
    // Measured from the sending of the requests there was hardly a stall: coordinated omission.
    let quick = ledger.attempts.iter().filter(|attempt| attempt.answered_us - attempt.sent_us < 200_000).count();
    assert!(quick >= 90, "{quick}");
    assert!(figures.sent_late.p50_us >= 250_000);
}

#[tokio::test]
async fn undecided_claims_are_retried_and_their_clock_continues() {
    let (address, seen) = edge(|user, before| match (user, before) {
        ("u-1", 0 | 1) => Answer(busy()),
        ("u-1", _) => Answer(claim("202 Accepted", user)),
        ("u-2", _) => Answer(busy()),
        _ => Answer(sold_out()),
    })
    .await;
    let ledger = burst(address, 3, at_once(&[0, 1, 2]), 3, LONG).await;
    let reasons = |claim| {
        attempts_of(&ledger, claim).iter().map(|attempt| attempt.outcome.undecided_reason()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(0), [Some(UndecidedReason::Unavailable), Some(UndecidedReason::Unavailable), None]);
    assert_eq!(reasons(1), [Some(UndecidedReason::Unavailable); 3], "gives up after three tries");
    assert_eq!(seen.by_user.lock().unwrap()["u-2"], 3);
    // Retry-After is followed, up to the cap; latency counts from the first due time.
    let first = attempts_of(&ledger, 0);
    for pair in first.windows(2) {
        assert!(pair[1].sent_us >= pair[0].answered_us + 20_000, "{pair:?}");
    }
    let figures = figures(&ledger, None, 1, Vec::new());
    assert_eq!((figures.asked_again, figures.ends.undecided), (4, 1));
    assert_eq!(figures.undecided, [("503", 5)]);
    assert!(figures.latency_admitted.max_us >= 40_000, "{:?}", figures.latency_admitted);
}

#[tokio::test]
async fn a_broken_connection_is_an_unknown_outcome_and_is_reopened() {
    let (address, seen) = edge(|user, before| match before {
        0 => HangUp,
        _ => Answer(claim("200 OK", user)),
    })
    .await;
    let ledger = burst(address, 2, at_once(&[0, 1]), 1, LONG).await;
    for claim in 0..2 {
        let outcomes: Vec<_> =
            attempts_of(&ledger, claim).iter().map(|attempt| attempt.outcome.undecided_reason()).collect();
        assert_eq!(outcomes, [Some(UndecidedReason::Broken), None]);
    }
    assert_eq!(seen.connections.load(SeqCst), 3, "the first, and one after each break");
}

#[tokio::test]
async fn an_edge_that_closes_idle_connections_loses_no_claim() {
    let (address, seen) = edge(|user, _| AnswerAndHangUp(claim("202 Accepted", user))).await;
    let ledger = burst(address, 20, crowd(20, 200), 2, LONG).await;
    assert!(seen.connections.load(SeqCst) >= 20);
    let decided = ledger.last_attempts().iter().flatten().filter(|attempt| attempt.outcome.promise().is_some()).count();
    assert_eq!(decided, 20);
}

#[tokio::test]
async fn no_answer_in_time_is_an_unknown_outcome() {
    let (address, _) = edge(|user, before| match (user, before) {
        ("u-1", 0) => Hang,
        _ => Answer(claim("200 OK", user)),
    })
    .await;
    let ledger = burst(address, 1, at_once(&[0]), 1, Duration::from_millis(200)).await;
    let tries = attempts_of(&ledger, 0);
    assert_eq!(tries[0].outcome, ClaimOutcome::undecided(UndecidedReason::Timeout));
    assert!(tries[0].answered_us - tries[0].sent_us >= 200_000);
    assert!(tries[1].outcome.promise().is_some());
}

#[tokio::test]
async fn a_truncated_response_is_an_unknown_outcome() {
    let truncated = "HTTP/1.1 202 Accepted\r\ncontent-length: 500\r\n\r\n{\"slot\":";
    let (address, _) = edge(move |user, before| match before {
        0 => AnswerAndHangUp(truncated.to_owned()),
        _ => Answer(claim("200 OK", user)),
    })
    .await;
    let ledger = burst(address, 1, at_once(&[0]), 1, LONG).await;
    let outcomes: Vec<_> = attempts_of(&ledger, 0).iter().map(|attempt| attempt.outcome.undecided_reason()).collect();
    assert_eq!(outcomes, [Some(UndecidedReason::Broken), None]);
}

#[tokio::test]
async fn an_unreachable_edge_is_reported_before_anything_is_sent() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = Endpoint::new(&format!("http://{free}"), "c", Identity::InsecureHeader, LONG).unwrap();
    assert!(open(&endpoint, 4, Duration::from_secs(5)).await.is_err());
}
