//! An isolate of the gate: the real core on the simulated network and clock, and the visitors' side of it.

use crate::clock::Clock;
use crate::history::Answer;
use crate::network::Port;
use crate::random::Random;
use crate::tasks::Tasks;
use dropgate_edge::counters::Point;
use dropgate_edge::gate::{Begun, Gate};
use dropgate_edge::http::request::Request;
use dropgate_edge::identity::jwks::{PublicKey, PublicKeys};
use dropgate_edge::platform::{Limiter, Platform, Wake};
use dropgate_edge::settings::Settings;
use dropgate_shared::fault::Fault;
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use dropgate_shared::time::Millis;
use serde_json::Value;
use std::cell::RefCell;
use std::future::{Future, pending};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

/// How long a visitor waits for an answer. Longer than the gate lets a claim wait.
const VISITOR_DEADLINE: Duration = Duration::from_secs(25);

/// The network of an isolate. There is no key set in the simulation: visitors name themselves.
#[derive(Clone)]
pub struct GateNetwork(pub Port);

impl Http for GateNetwork {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        self.0.post(request).await
    }
}

impl PublicKeys for GateNetwork {
    async fn get(&self, _url: &str, _deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        pending().await
    }

    async fn verify(&self, _key: &PublicKey, _message: &[u8], _signature: &[u8]) -> Result<bool, Fault> {
        pending().await
    }
}

/// What an isolate's requests have around them.
#[derive(Clone)]
pub struct SimulatedPlatform {
    clock: Clock,
    random: Rc<RefCell<Random>>,
    tasks: Tasks,
    log: Rc<dyn Fn(&Value)>,
}

impl Platform for SimulatedPlatform {
    fn now(&self) -> Millis {
        Millis(self.clock.now_ms())
    }

    fn random(&self) -> f64 {
        (self.random.borrow_mut().next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    async fn sleep(&self, ms: u32) {
        sleep(Duration::from_millis(ms.into())).await;
    }

    fn pause(&self, limit: Millis) -> (Wake, impl Future<Output = ()>) {
        let ended = Rc::new(Notify::new());
        let wake = Rc::clone(&ended);
        let limit = Duration::from_millis(limit.0);
        (Wake::new(move || wake.notify_one()), async move {
            let _ = timeout(limit, ended.notified()).await;
        })
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(work);
    }

    async fn within(&self, _limiter: Limiter, _key: &str) -> Result<bool, Fault> {
        Ok(true)
    }

    fn log(&self, line: &Value) {
        (self.log)(line);
    }

    fn log_error(&self, line: &Value) {
        (self.log)(line);
    }

    fn write_metrics(&self, _points: &[Point]) {}
}

/// An isolate.
pub struct Isolate {
    gate: Rc<Gate<GateNetwork>>,
    platform: SimulatedPlatform,
    tasks: Tasks,
}

impl Isolate {
    #[must_use]
    pub fn new(settings: Settings, port: Port, clock: Clock, random: Random, log: Rc<dyn Fn(&Value)>) -> Self {
        let tasks = Tasks::default();
        let gate = Rc::new(Gate::new(settings, GateNetwork(port)));
        let platform = SimulatedPlatform { clock, random: Rc::new(RefCell::new(random)), tasks: tasks.clone(), log };
        Self { gate, platform, tasks }
    }

    /// Sends a request as `user`. With `hang_up_after` the visitor leaves then, and the request is cancelled,
    /// as the runtime does; what it handed to `waitUntil` goes on.
    pub fn request(
        &self,
        method: &'static str,
        path: String,
        user: Option<String>,
        hang_up_after: Option<Duration>,
    ) -> impl Future<Output = Answer> + 'static {
        let (gate, platform, tasks) = (Rc::clone(&self.gate), self.platform.clone(), self.tasks.clone());
        async move {
            let (sender, receiver) = oneshot::channel();
            tasks.spawn(async move {
                let header = |name: &str| if name == "x-user-id" { user.clone() } else { None };
                let url = format!("https://gate.example{path}");
                let begun = gate.begin(&Request { method, url: &url, header: &header }, &platform);
                let answered = async {
                    match begun {
                        Begun::Done(response) => Answer::read(response.status, &response.body),
                        Begun::Pending(pending) => {
                            let response = Rc::clone(&gate).finish(pending, platform.clone()).await;
                            Answer::read(response.status, &response.body)
                        }
                    }
                };
                let answer = match hang_up_after {
                    None => answered.await,
                    Some(after) => timeout(after, answered).await.unwrap_or(Answer::Unknown),
                };
                let _ = sender.send(answer);
            });
            match timeout(VISITOR_DEADLINE, receiver).await {
                Ok(Ok(answer)) => answer,
                // Evicted, or too slow.
                Ok(Err(_)) | Err(_) => Answer::Unknown,
            }
        }
    }

    /// One run of the cron.
    pub fn cron(&self) {
        let (gate, platform) = (Rc::clone(&self.gate), self.platform.clone());
        self.tasks.spawn(async move { gate.sweep(&platform).await });
    }

    /// The isolate ends, with all that it does.
    pub fn evict(&self) {
        self.tasks.kill();
    }
}
