use super::*;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Counts what it serves; answers with the count.
#[derive(Default)]
struct Counter(Cell<u64>);

impl Service for Counter {
    fn serve(&self, _: Request) -> Answer {
        self.0.set(self.0.get() + 1);
        let body = format!("count {}", self.0.get()).into_bytes();
        Box::pin(async move { (200, body) })
    }
}

struct World {
    network: Network,
    counter: Rc<Counter>,
    events: Rc<RefCell<Vec<Event>>>,
}

fn world(seed: u64) -> World {
    let events: Rc<RefCell<Vec<Event>>> = Rc::default();
    let sink = events.clone();
    let record = move |event: &Event| sink.borrow_mut().push(event.clone());
    let network = Network::new(Random::new(seed), Clock::starting_at(1_000), record);
    let counter = Rc::new(Counter::default());
    network.serve("redis.sim", counter.clone());
    World { network, counter, events }
}

impl World {
    fn strikes(&self) -> Vec<Strike> {
        let strike = |event: &Event| match event.what {
            What::Fault(strike) => Some(strike),
            _ => None,
        };
        self.events.borrow().iter().filter_map(strike).collect()
    }

    async fn post(&self, from: &str) -> Result<HttpResponse, SendFault> {
        let request = HttpRequest {
            url: "http://redis.sim/pipeline",
            headers: vec![("authorization", "Bearer token")],
            body: "[]".to_owned(),
            deadline_ms: 1_000,
        };
        self.network.port(from).post(request).await
    }

    fn hop(&self, change: impl FnOnce(&mut Hop)) {
        let mut hop = Hop::default();
        change(&mut hop);
        self.network.set_default(hop);
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, future);
}

#[test]
fn a_request_reaches_its_service_and_takes_its_time() {
    run(async {
        let world = world(1);
        let began = Instant::now();
        let response = world.post("gate").await.unwrap();
        assert_eq!(response, HttpResponse { status: 200, body: b"count 1".to_vec() });
        assert!((2..=10).contains(&began.elapsed().as_millis()));
        let whats: Vec<What> = world.events.borrow().iter().map(|event| event.what).collect();
        assert_eq!(whats, [What::Sent, What::Arrived, What::Answered(200)]);
        let request = Request {
            method: "GET",
            url: "https://a.sim:8443/x/y?q=1".to_owned(),
            headers: vec![("accept", "b".to_owned())],
            body: String::new(),
        };
        assert_eq!((request.host(), request.path(), request.header("accept")), ("a.sim:8443", "/x/y?q=1", Some("b")));
    });
}

#[test]
fn each_fault_says_whether_the_request_may_have_arrived() {
    run(async {
        type Change = fn(&mut Hop);
        let cases: [(Change, Strike, u64); 3] = [
            (|hop| hop.refuse = 1.0, Strike::Refused, 0),
            (|hop| hop.drop_before = 1.0, Strike::RequestLost, 0),
            (|hop| hop.drop_after = 1.0, Strike::AnswerLost, 1),
        ];
        for (change, strike, served) in cases {
            let mut labels = Vec::new();
            for seed in 0..20 {
                let world = world(seed);
                world.hop(change);
                let fault = world.post("gate").await.unwrap_err();
                assert_eq!(world.counter.0.get(), served, "{strike:?}");
                assert_eq!(world.strikes(), [strike]);
                assert_eq!(fault.may_have_arrived, strike != Strike::Refused);
                labels.push(fault.label);
            }
            labels.sort_unstable();
            labels.dedup();
            match strike {
                Strike::Refused => assert_eq!(labels, ["connect"]),
                _ => assert_eq!(labels, ["timeout", "transport"], "a loss is silent or a reset"),
            }
        }
    });
}

#[test]
fn a_host_that_nobody_serves_refuses_connections() {
    run(async {
        let world = world(1);
        world.network.stop("redis.sim");
        let fault = world.post("gate").await.unwrap_err();
        assert_eq!((fault.may_have_arrived, fault.label), (false, "connect"));
    });
}

#[test]
fn a_request_whose_caller_gave_up_still_arrives() {
    run(async {
        let world = world(1);
        world.hop(|hop| (hop.late, hop.late_ms) = (1.0, 5_000..=5_000));
        let began = Instant::now();
        let fault = world.post("gate").await.unwrap_err();
        assert_eq!((fault.label, fault.may_have_arrived), ("timeout", true));
        assert_eq!(began.elapsed().as_millis(), 1_000);
        assert_eq!(world.counter.0.get(), 0);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(world.counter.0.get(), 1);
        assert!(world.strikes().contains(&Strike::ArrivedTooLate));
    });
}

#[test]
fn a_caller_that_vanishes_leaves_its_request_on_its_way() {
    run(async {
        let world = world(1);
        assert!(timeout(Duration::from_millis(0), world.post("gate")).await.is_err());
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.counter.0.get(), 1);
    });
}

#[test]
fn a_duplicate_is_served_and_its_answer_discarded() {
    run(async {
        let world = world(1);
        world.hop(|hop| (hop.duplicate, hop.late_ms) = (1.0, 30..=30));
        assert_eq!(world.post("gate").await.unwrap().body, b"count 1");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.counter.0.get(), 2);
        assert_eq!(world.strikes(), [Strike::Duplicated]);
    });
}

#[test]
fn garbage_and_status_500_come_before_and_after_the_effect() {
    run(async {
        let mut seen = Vec::new();
        for seed in 0..40 {
            let world = world(seed);
            world.hop(|hop| match seed % 2 {
                0 => hop.garbage = 1.0,
                _ => hop.status_500 = 1.0,
            });
            let response = world.post("gate").await.unwrap();
            let [strike] = world.strikes()[..] else { panic!("{:?}", world.strikes()) };
            let served = world.counter.0.get();
            match strike {
                Strike::Garbled => assert!(served == 1 && response.status == 200 && response.body != b"count 1"),
                Strike::Status500Before => assert!(served == 0 && response.status == 500),
                Strike::Status500After => assert!(served == 1 && response.status == 500),
                other => panic!("{other:?}"),
            }
            seen.push(strike);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [Strike::Garbled, Strike::Status500Before, Strike::Status500After]);
    });
}

#[test]
fn a_seed_gives_the_same_events_and_one_party_does_not_shift_another() {
    let events_of = |seed: u64, with_neighbour: bool| {
        let kept: Rc<RefCell<Vec<(u64, What)>>> = Rc::default();
        let result = kept.clone();
        run(async move {
            let world = world(seed);
            world.hop(|hop| {
                (hop.drop_before, hop.drop_after, hop.duplicate, hop.garbage) = (0.2, 0.2, 0.2, 0.2);
                (hop.late, hop.late_ms, hop.status_500, hop.refuse) = (0.3, 1..=2_000, 0.1, 0.1);
            });
            for _ in 0..50 {
                if with_neighbour {
                    let _ = world.post("issuer").await;
                }
                let _ = world.post("gate").await;
            }
            sleep(Duration::from_secs(10)).await;
            let gate = |event: &&Event| &*event.from == "gate";
            let first = |event: &Event| (event.request, event.what);
            kept.borrow_mut().extend(world.events.borrow().iter().filter(gate).map(first));
        });
        result.take()
    };
    assert_eq!(events_of(3, false), events_of(3, false));
    assert_ne!(events_of(3, false), events_of(4, false));
    let faults = |events: Vec<(u64, What)>| -> Vec<What> {
        events.into_iter().map(|(_, what)| what).filter(|what| matches!(what, What::Fault(_))).collect()
    };
    let sorted = |mut whats: Vec<What>| {
        whats.sort_unstable();
        whats
    };
    assert_eq!(sorted(faults(events_of(3, false))), sorted(faults(events_of(3, true))));
}

#[test]
fn a_hop_of_its_own_goes_before_the_default() {
    run(async {
        let world = world(1);
        world.hop(|hop| hop.refuse = 1.0);
        world.network.set_hop("gate", "redis.sim", Some(Hop::default()));
        assert!(world.post("gate").await.is_ok());
        assert!(world.post("issuer").await.is_err());
        world.network.set_hop("gate", "redis.sim", None);
        assert!(world.post("gate").await.is_err());
    });
}
