//! Claims that wait by thousands in one isolate, on the real runtime: each gets an answer, whoever else hangs up and
//! however long Redis takes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::fault_proxy::{FaultProxy, ResponseFault};
use dropgate_tests::{System, until};
use futures_util::future::join_all;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection of one user, opened before the claims begin.
struct Visitor {
    user: String,
    stream: TcpStream,
}

async fn visitors(gate: &str, prefix: &str, count: usize) -> Vec<Visitor> {
    let address = gate.strip_prefix("http://").unwrap();
    let mut opened = Vec::with_capacity(count);
    for n in 0..count {
        opened.push(Visitor { user: format!("{prefix}-{n}"), stream: TcpStream::connect(address).await.unwrap() });
    }
    opened
}

impl Visitor {
    async fn send(&mut self, campaign: &str) {
        let request = format!(
            "POST /v1/campaigns/{campaign}/claims HTTP/1.1\r\nhost: gate\r\nx-user-id: {}\r\ncontent-length: 0\r\n\r\n",
            self.user
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Status, slot, and whether there is a Retry-After.
    async fn answer(&mut self) -> (u16, Option<u64>, bool) {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let field = |name: &str| {
                    head.lines()
                        .find_map(|line| line.to_lowercase().strip_prefix(name).map(str::trim).map(str::to_owned))
                };
                if body.len() >= field("content-length:").unwrap().parse().unwrap() {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    let body: Value = serde_json::from_str(body).unwrap_or_default();
                    return (status, body["slot"].as_u64(), field("retry-after:").is_some());
                }
            }
            assert!(self.stream.read_buf(&mut bytes).await.unwrap() > 0, "{} got no answer", self.user);
        }
    }

    async fn claim(&mut self, campaign: &str) -> (u16, Option<u64>, bool) {
        self.send(campaign).await;
        self.answer().await
    }

    /// Repeats the claim until it is decided. Returns the slot and how often the outcome was unknown.
    async fn claim_until_decided(mut self, campaign: &str) -> (u64, u32) {
        let mut unknown = 0;
        loop {
            match self.claim(campaign).await {
                (200 | 202, Some(slot), _) => return (slot, unknown),
                (503, None, true) => unknown += 1,
                other => panic!("{}: {other:?}", self.user),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test]
async fn thousands_wait_and_each_gets_an_answer() {
    const CROWD: usize = 3_000;
    const LEAVING: usize = 1_000;
    let system = System::start("waiting").await;
    let campaign = system.campaign(u32::try_from(2 * (CROWD + LEAVING)).unwrap());
    let proxy = FaultProxy::in_front_of(&system.stack.endpoints.redis_rest_url).await;
    let vars = [
        ("AUTH", "insecure-header"),
        ("UPSTASH_REDIS_REST_URL", &*proxy.url),
        ("LOG_SAMPLE", "0"),
        ("REDIS_DEADLINE_MS", "1500"),
    ];
    let gate = system.stack.gate("gate-waiting", &vars, &[]).await.unwrap();
    let mut first = visitors(&gate.url, "first", 1).await;
    assert_eq!(first[0].claim(&campaign).await.0, 202);

    // Redis at a distance.
    proxy.inject(ResponseFault::Delay(Duration::from_millis(280)));
    let crowd = visitors(&gate.url, "crowd", CROWD).await;
    let decided = join_all(crowd.into_iter().map(async |visitor| visitor.claim_until_decided(&campaign).await)).await;
    let slots: BTreeSet<u64> = decided.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots.len(), CROWD, "two users have one slot");
    let calls = proxy.injected();
    assert!(calls > 0 && u64::from(calls) < CROWD as u64 / 4, "{calls} calls: claims did not share them");

    // Every second visitor hangs up while all wait.
    proxy.inject(ResponseFault::Delay(Duration::from_millis(600)));
    let mut mixed = visitors(&gate.url, "mixed", 2 * LEAVING).await;
    for visitor in &mut mixed {
        visitor.send(&campaign).await;
    }
    let staying: Vec<Visitor> = mixed.into_iter().enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, one)| one).collect();
    let answers = join_all(staying.into_iter().map(async |mut visitor| {
        let answer = visitor.answer().await;
        assert!(matches!(answer, (202, Some(_), _) | (503, None, true)), "{}: {answer:?}", visitor.user);
        visitor.claim_until_decided(&campaign).await
    }));
    assert_eq!(answers.await.len(), LEAVING);

    // Redis never answers.
    proxy.inject(ResponseFault::Delay(Duration::from_secs(3_600)));
    let waiting = visitors(&gate.url, "never", CROWD).await;
    let mut tally = BTreeMap::<_, usize>::new();
    for answer in join_all(waiting.into_iter().map(async |mut visitor| visitor.claim(&campaign).await)).await {
        *tally.entry(answer).or_default() += 1;
    }
    assert_eq!(tally, BTreeMap::from([((503, None, true), CROWD)]));

    // It is back, and so is the gate.
    proxy.inject(ResponseFault::None);
    until("a claim is admitted", async || {
        let mut last = visitors(&gate.url, "last", 1).await;
        matches!(last[0].claim(&campaign).await.0, 200 | 202)
    })
    .await;
    let log = std::fs::read_to_string(system.stack.paths.logs().join("gate-waiting.log")).unwrap();
    // Everything that the gate itself logs is JSON.
    let runtime: Vec<&str> = log.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(runtime.is_empty(), "the runtime complains: {:?}", &runtime[..runtime.len().min(10)]);
    system.stop().await;
}
