//! The network between the parties: delays, losses, duplicates and garbage, on virtual time.
//!
//! A request travels in a task of its own, so what happens to it does not depend on the caller: a request whose
//! caller has given up still arrives, as on a real network. Runs inside a `LocalSet`.
//!
//! Each request draws its dice from a generator of its own, seeded by the stream of its caller and service. One
//! party's traffic does not shift the faults of another.

use crate::clock::Clock;
use crate::random::Random;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A request that owns its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Request {
    /// The path with its query, from the slash on.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self.after_scheme();
        rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or("/")
    }

    #[must_use]
    pub fn host(&self) -> &str {
        self.after_scheme().split('/').next().unwrap_or_default()
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn after_scheme(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest)
    }
}

/// A status and a body, some time later.
pub type Answer = Pin<Box<dyn Future<Output = (u16, Vec<u8>)>>>;

/// Something that answers requests. The effect may take place in the call or in the future.
pub trait Service {
    fn serve(&self, request: Request) -> Answer;
}

/// How requests between two parties fare. Probabilities are 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Hop {
    /// Each way.
    pub delay_ms: RangeInclusive<u64>,
    /// Share of the requests, and of the answers, that take `late_ms` more. This is also what reorders them.
    pub late: f64,
    pub late_ms: RangeInclusive<u64>,
    /// Connection refused: the request certainly never left.
    pub refuse: f64,
    /// The request is lost.
    pub drop_before: f64,
    /// The service has served it, and its answer is lost.
    pub drop_after: f64,
    /// The request arrives once more, `late_ms` later; the second answer goes nowhere.
    pub duplicate: f64,
    /// The service has served it, and its answer comes cut, or as something else with status 200.
    pub garbage: f64,
    /// Something in between answers 500, as often before the service as after it.
    pub status_500: f64,
}

impl Default for Hop {
    /// A good network: 1 to 5 ms each way.
    fn default() -> Self {
        Self {
            delay_ms: 1..=5,
            late: 0.0,
            late_ms: 0..=0,
            refuse: 0.0,
            drop_before: 0.0,
            drop_after: 0.0,
            duplicate: 0.0,
            garbage: 0.0,
            status_500: 0.0,
        }
    }
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at_ms: u64,
    pub from: Rc<str>,
    pub to: Rc<str>,
    /// Counts the requests of this network.
    pub request: u64,
    pub what: What,
}

/// A step of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Sent,
    /// The service begins to serve it.
    Arrived,
    /// The caller has the answer.
    Answered(u16),
    /// The caller has given up.
    TimedOut,
    Fault(Strike),
}

/// A fault that struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    Refused,
    RequestLost,
    AnswerLost,
    Duplicated,
    Garbled,
    Status500Before,
    Status500After,
    Late,
    /// The request arrived after its caller had given up.
    ArrivedTooLate,
}

/// The network. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Network(Rc<Inner>);

/// From a party to a host.
type Way = (Rc<str>, Rc<str>);

struct Inner {
    clock: Clock,
    random: Random,
    streams: RefCell<BTreeMap<Way, Random>>,
    services: RefCell<BTreeMap<Rc<str>, Rc<dyn Service>>>,
    default: RefCell<Hop>,
    hops: RefCell<BTreeMap<Way, Hop>>,
    requests: Cell<u64>,
    sink: Box<dyn Fn(&Event)>,
}

impl Network {
    /// A network without services, every hop good. `sink` gets every event.
    #[must_use]
    pub fn new(random: Random, clock: Clock, sink: impl Fn(&Event) + 'static) -> Self {
        Self(Rc::new(Inner {
            clock,
            random,
            streams: RefCell::default(),
            services: RefCell::default(),
            default: RefCell::default(),
            hops: RefCell::default(),
            requests: Cell::new(0),
            sink: Box::new(sink),
        }))
    }

    /// Requests to `host` (with its port, if the URL has one) go to `service` from now on.
    pub fn serve(&self, host: &str, service: Rc<dyn Service>) {
        self.0.services.borrow_mut().insert(host.into(), service);
    }

    /// Nothing listens at `host` any more: connections are refused.
    pub fn stop(&self, host: &str) {
        self.0.services.borrow_mut().remove(host);
    }

    /// How all requests fare that have no hop of their own.
    pub fn set_default(&self, hop: Hop) {
        *self.0.default.borrow_mut() = hop;
    }

    /// How requests of the party `from` to `host` fare; `None`: as the default.
    pub fn set_hop(&self, from: &str, host: &str, hop: Option<Hop>) {
        let key = (from.into(), host.into());
        let mut hops = self.0.hops.borrow_mut();
        match hop {
            Some(hop) => drop(hops.insert(key, hop)),
            None => drop(hops.remove(&key)),
        }
    }

    /// The network as the party `name` sees it.
    #[must_use]
    pub fn port(&self, name: &str) -> Port {
        Port { network: self.clone(), name: name.into() }
    }
}

/// One party's access to the network.
#[derive(Clone)]
pub struct Port {
    network: Network,
    name: Rc<str>,
}

impl Port {
    /// Sends a request and waits for its answer, `deadline_ms` at most.
    ///
    /// # Errors
    /// As [`Http::post`].
    pub async fn exchange(&self, request: Request, deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        let travel = self.depart(&request);
        let trip = travel.trip.clone();
        let (answer, waiting) = oneshot::channel();
        tokio::task::spawn_local(travel.run(request, answer));
        // An answer that is lost leaves the caller waiting.
        let arrival = async {
            match waiting.await {
                Ok(result) => result,
                Err(_) => pending().await,
            }
        };
        match timeout(Duration::from_millis(deadline_ms.into()), arrival).await {
            Ok(Ok(response)) => {
                trip.record(What::Answered(response.status));
                Ok(response)
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => {
                trip.record(What::TimedOut);
                Err(fault(true, "timeout", "no answer within the deadline"))
            }
        }
    }

    fn depart(&self, request: &Request) -> Travel {
        let inner = &self.network.0;
        let to: Rc<str> = request.host().into();
        let key = (self.name.clone(), to.clone());
        let number = inner.requests.get();
        inner.requests.set(number + 1);
        let hop = inner.hops.borrow().get(&key).unwrap_or(&inner.default.borrow()).clone();
        let mut streams = inner.streams.borrow_mut();
        let stream = streams.entry(key).or_insert_with(|| inner.random.split(&format!("{} to {to}", self.name)));
        let service = inner.services.borrow().get(&to).cloned();
        let trip = Trip { network: self.network.clone(), from: self.name.clone(), to, request: number };
        trip.record(What::Sent);
        Travel { service, dice: Random::new(stream.next_u64()), hop, trip }
    }
}

impl Http for Port {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let owned = Request {
            method: "POST",
            url: request.url.to_owned(),
            headers: request.headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            body: request.body,
        };
        self.exchange(owned, request.deadline_ms).await
    }
}

fn fault(may_have_arrived: bool, label: &'static str, detail: &str) -> SendFault {
    SendFault { may_have_arrived, label, detail: detail.to_owned() }
}

/// Which request this is.
#[derive(Clone)]
struct Trip {
    network: Network,
    from: Rc<str>,
    to: Rc<str>,
    request: u64,
}

impl Trip {
    fn record(&self, what: What) {
        let inner = &self.network.0;
        (inner.sink)(&Event {
            at_ms: inner.clock.now_ms(),
            from: self.from.clone(),
            to: self.to.clone(),
            request: self.request,
            what,
        });
    }

    fn strike(&self, strike: Strike) {
        self.record(What::Fault(strike));
    }
}

/// A request on its way.
struct Travel {
    service: Option<Rc<dyn Service>>,
    hop: Hop,
    dice: Random,
    trip: Trip,
}

type Reply = oneshot::Sender<Result<HttpResponse, SendFault>>;

impl Travel {
    async fn run(mut self, request: Request, reply: Reply) {
        let Self { hop, dice, .. } = &mut self;
        // All dice are cast before anything happens, so that no fault shifts the others.
        let refuse = dice.chance(hop.refuse);
        let drop_before = dice.chance(hop.drop_before);
        let drop_after = dice.chance(hop.drop_after);
        let duplicate = dice.chance(hop.duplicate);
        let garbage = dice.chance(hop.garbage);
        let status_500 = dice.chance(hop.status_500);
        let half = dice.chance(0.5);
        let reset = dice.chance(0.5);
        let again_after_ms = dice.range(hop.late_ms.clone());

        self.pass().await;
        let service = match self.service.clone() {
            Some(service) if !refuse => service,
            _ => {
                self.trip.strike(Strike::Refused);
                return answer(reply, Err(fault(false, "connect", "connection refused")));
            }
        };
        if status_500 && half {
            self.trip.strike(Strike::Status500Before);
            self.pass().await;
            return answer(reply, Ok(proxy_error()));
        }
        if drop_before {
            self.trip.strike(Strike::RequestLost);
            return self.lose(reply, reset).await;
        }
        if duplicate {
            let (service, request, trip) = (service.clone(), request.clone(), self.trip.clone());
            tokio::task::spawn_local(async move {
                sleep(Duration::from_millis(again_after_ms)).await;
                trip.strike(Strike::Duplicated);
                service.serve(request).await;
            });
        }
        if reply.is_closed() {
            self.trip.strike(Strike::ArrivedTooLate);
        }
        self.trip.record(What::Arrived);
        let (status, body) = service.serve(request).await;
        if drop_after {
            self.trip.strike(Strike::AnswerLost);
            return self.lose(reply, reset).await;
        }
        let mut response = HttpResponse { status, body };
        if status_500 {
            self.trip.strike(Strike::Status500After);
            response = proxy_error();
        } else if garbage {
            self.trip.strike(Strike::Garbled);
            match half {
                true => response.body.truncate(response.body.len() / 2),
                false => response = HttpResponse { status: 200, body: b"<html>maintenance</html>".to_vec() },
            }
        }
        self.pass().await;
        answer(reply, Ok(response));
    }

    /// One way.
    async fn pass(&mut self) {
        let late = self.dice.chance(self.hop.late);
        let mut delay_ms = self.dice.range(self.hop.delay_ms.clone());
        let late_ms = self.dice.range(self.hop.late_ms.clone());
        if late {
            self.trip.strike(Strike::Late);
            delay_ms += late_ms;
        }
        sleep(Duration::from_millis(delay_ms)).await;
    }

    /// The caller sees a reset connection, or waits for nothing.
    async fn lose(&mut self, reply: Reply, reset: bool) {
        if reset {
            self.pass().await;
            answer(reply, Err(fault(true, "transport", "connection reset")));
        }
    }
}

fn answer(reply: Reply, result: Result<HttpResponse, SendFault>) {
    // The caller may have given up.
    let _ = reply.send(result);
}

fn proxy_error() -> HttpResponse {
    HttpResponse { status: 500, body: b"<html>Internal Server Error</html>".to_vec() }
}

#[cfg(test)]
mod tests;
