//! The cron over a Redis of outboxes: many campaigns, few calls.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use common::TestPlatform;
use dropgate_edge::gate::Gate;
use dropgate_edge::identity::jwks::{PublicKey, PublicKeys};
use dropgate_edge::outbox::schedule::SCHEDULE;
use dropgate_edge::settings::Settings;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;

/// Redis's clock.
const NOW_MS: u64 = 10_000_000;
/// The lease of what was taken lies beyond the test.
const LEASED_MS: u64 = 2 * NOW_MS;

/// An outbox: due times in order, and whether its claims are gone.
#[derive(Default, Clone)]
struct Outbox {
    due_ms: Vec<u64>,
    claims_gone: bool,
}

#[derive(Clone)]
struct Outboxes {
    all: Rc<RefCell<Vec<Outbox>>>,
    calls: Rc<RefCell<usize>>,
    /// The campaign of each step.
    steps: Rc<RefCell<Vec<usize>>>,
}

fn index(key: &str) -> usize {
    key.trim_start_matches("dg:{c").split('}').next().unwrap().parse().unwrap()
}

impl Outboxes {
    fn new(all: Vec<Outbox>) -> Self {
        Self { all: Rc::new(RefCell::new(all)), calls: Rc::default(), steps: Rc::default() }
    }

    fn gate(&self) -> Rc<Gate<Self>> {
        let settings = Settings::read(|name| {
            let value = match name {
                "ENVIRONMENT" => "development",
                "UPSTASH_REDIS_REST_URL" => "http://redis",
                "UPSTASH_REDIS_REST_TOKEN" => "token",
                "KAFKA_REST_URL" => "http://kafka",
                "COUPON_CODE_SECRET" => "0123456789abcdef",
                "AUTH" => "insecure-header",
                _ => return None,
            };
            Some(value.to_owned())
        });
        Rc::new(Gate::new(settings.unwrap(), self.clone()))
    }

    fn due(&self) -> usize {
        self.all.borrow().iter().flat_map(|one| &one.due_ms).filter(|due| **due <= NOW_MS).count()
    }

    fn take(&self, campaign: usize, limit: usize) -> Value {
        self.steps.borrow_mut().push(campaign);
        let outbox = &mut self.all.borrow_mut()[campaign];
        outbox.due_ms.sort_unstable();
        let mut reply = vec![outbox.due_ms.len().to_string(), NOW_MS.to_string(), String::new()];
        let lease = if outbox.claims_gone { NOW_MS } else { LEASED_MS };
        for (n, due) in outbox.due_ms.iter_mut().take_while(|due| **due <= NOW_MS).take(limit).enumerate() {
            *due = lease;
            reply.push(format!("u{n}"));
            reply.push(if outbox.claims_gone { String::new() } else { "1:900:a".to_owned() });
        }
        json!(reply)
    }

    fn redis(&self, command: &Value) -> Value {
        let word = |n: usize| command[n].as_str().unwrap_or_default();
        let outbox = |key: &str| self.all.borrow()[index(key)].due_ms.clone();
        match word(0) {
            "TIME" => json!([(NOW_MS / 1000).to_string(), "0"]),
            "ZCARD" => json!(outbox(word(1)).len()),
            "ZRANGE" => {
                json!(outbox(word(1)).iter().min().map(|due| vec!["u".to_owned(), due.to_string()]).unwrap_or_default())
            }
            _ if command.to_string().contains("SMEMBERS") => {
                json!((0..self.all.borrow().len()).map(|n| format!("c{n}")).collect::<Vec<_>>())
            }
            _ if word(2) == "3" => self.take(index(word(4)), word(6).parse().unwrap()),
            _ => json!(NOW_MS.to_string()),
        }
    }
}

impl Http for Outboxes {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        *self.calls.borrow_mut() += 1;
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let answer = if request.url.starts_with("http://kafka") {
            let records = body["records"].as_array().unwrap().len();
            json!({ "offsets": vec![json!({ "partition": 0, "offset": 1 }); records] })
        } else if request.url.ends_with("/pipeline") {
            json!(body.as_array().unwrap().iter().map(|one| json!({ "result": self.redis(one) })).collect::<Vec<_>>())
        } else {
            json!({ "result": self.redis(&body) })
        };
        Ok(HttpResponse { status: 200, body: answer.to_string().into() })
    }
}

impl PublicKeys for Outboxes {
    async fn get(&self, _url: &str, _deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        panic!("the cron needs no key")
    }

    async fn verify(&self, _key: &PublicKey, _message: &[u8], _signature: &[u8]) -> Result<bool, Fault> {
        panic!("the cron needs no key")
    }
}

fn outbox(entries: usize, due_ms: u64) -> Outbox {
    Outbox { due_ms: vec![due_ms; entries], claims_gone: false }
}

/// I9: 62 campaigns were published, and the runtime grants an event 50 calls.
#[tokio::test(start_paused = true)]
async fn the_only_campaign_with_something_due_is_reached_at_once() {
    for last in [0, 30, 61] {
        let mut all = vec![outbox(1, LEASED_MS); 62];
        all[last] = outbox(3, NOW_MS - 1);
        let network = Outboxes::new(all);
        network.gate().sweep(&TestPlatform::new()).await;
        assert_eq!((network.due(), &*network.steps.borrow()), (0, &vec![last]));
        assert!(*network.calls.borrow() <= 50);
    }
}

#[tokio::test(start_paused = true)]
async fn every_campaign_gets_its_turn_within_few_runs_and_few_calls() {
    let network = Outboxes::new(vec![outbox(5, NOW_MS - 1); 62]);
    for run in 1..=5 {
        network.calls.replace(0);
        network.gate().sweep(&TestPlatform::new()).await;
        assert!(*network.calls.borrow() <= 50, "{} calls", network.calls.borrow());
        assert!(network.due() <= 5 * (62_usize.saturating_sub(14 * run)), "after {run} runs: {}", network.due());
    }
    assert_eq!(network.due(), 0);
}

/// A campaign with a flood of due entries gets a share, not everything.
#[tokio::test(start_paused = true)]
async fn a_flooded_campaign_does_not_delay_the_others() {
    let mut all = vec![outbox(5, NOW_MS - 1); 6];
    all[0] = outbox(20_000, NOW_MS - 1_000);
    let network = Outboxes::new(all);
    network.gate().sweep(&TestPlatform::new()).await;
    assert!(network.all.borrow()[1..].iter().all(|one| one.due_ms.iter().all(|due| *due > NOW_MS)));
    // What is left of the event's calls is the flooded campaign's.
    assert!(network.steps.borrow().iter().filter(|step| **step == 0).count() > SCHEDULE.share as usize);
    assert!(*network.calls.borrow() <= 50);
}

/// Many flooded campaigns, always the same ones, are overdue for longer than this event's calls suffice.
#[tokio::test(start_paused = true)]
async fn a_campaign_behind_many_flooded_ones_is_reached() {
    let mut all = vec![outbox(100_000, NOW_MS - 1_000); 30];
    all.push(outbox(1, NOW_MS - 1));
    let network = Outboxes::new(all);
    for run in 0..30 {
        let platform = TestPlatform::new();
        platform.random.set(f64::from(run) * 0.37 % 1.0);
        network.gate().sweep(&platform).await;
    }
    assert_eq!(network.all.borrow()[30].due_ms, [LEASED_MS]);
}

/// Claims that are gone are due again at once; a run takes each once, and ends.
#[tokio::test(start_paused = true)]
async fn entries_without_a_claim_do_not_keep_a_run_going() {
    let gone = Outbox { claims_gone: true, ..outbox(2 * SCHEDULE.batch, NOW_MS - 1_000) };
    let network = Outboxes::new(vec![gone, outbox(1, NOW_MS - 1)]);
    network.gate().sweep(&TestPlatform::new()).await;
    assert_eq!(*network.steps.borrow(), [0, 0, 1]);
}
