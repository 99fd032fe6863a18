//! Several sessions side by side, on the model and on the real server, one act at a time.

use crate::operations::{Draw, Operation, Rows, rows_of};
use crate::real::Real;
use dropgate_issuer::store::ports::{Session, Store};
use dropgate_simulator::mysql::{Flavor, Server, Settings, TableLock};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Every campaign id of the tests, in order.
pub const CAMPAIGNS: [&str; 4] = ["c1", "c2", "c3", "nowhere"];

/// What is done in one step.
#[derive(Debug, Clone)]
pub enum Act {
    /// A session carries out an operation.
    On(usize, Operation),
    /// A session that waits drops the future of its statement, and is discarded.
    Abandon(usize),
    /// Time passes until somebody has an answer.
    Wait,
    /// Somebody else locks tables.
    Lock(TableLock),
    Unlock,
    ReadOnly(bool),
}

/// What came of it.
#[derive(Debug)]
pub struct Step {
    act: Act,
    /// What was answered in this step: to the session that acted, or to others that had waited.
    answers: BTreeMap<usize, String>,
    /// Sessions that wait for an answer now.
    waiting: Vec<usize>,
    /// Statements that wait in the server, also those whose client has gone.
    waits: usize,
    /// Two went on at once: which is first is up to the real server's threads, so the answers count in any order.
    is_race: bool,
}

enum Message {
    Run(Operation),
    Abandon,
}

/// Sessions, each with a task that carries out one operation after the other.
struct Sessions {
    messages: Vec<mpsc::UnboundedSender<Message>>,
    answers: mpsc::UnboundedReceiver<(usize, String)>,
    waiting: Vec<usize>,
}

impl Sessions {
    /// `abandon` is what becomes of a session within a statement.
    async fn open<S: Store + 'static>(store: &S, count: usize, abandon: fn(S::Session)) -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        let mut messages = Vec::new();
        for index in 0..count {
            let (sender, mut queue) = mpsc::unbounded_channel::<Message>();
            let (store, answer) = (store.clone(), answer.clone());
            let mut session = store.connect().await.unwrap();
            tokio::task::spawn_local(async move {
                while let Some(Message::Run(operation)) = queue.recv().await {
                    let answered = tokio::select! {
                        result = operation.run(&mut session) => Some(result),
                        _ = queue.recv() => None,
                    };
                    if answered.is_none() {
                        abandon(std::mem::replace(&mut session, store.connect().await.unwrap()));
                    }
                    let _ = answer.send((index, answered.unwrap_or_else(|| "abandoned".to_owned())));
                }
            });
            messages.push(sender);
        }
        Self { messages, answers, waiting: Vec::new() }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::On(session, operation) => {
                let _ = self.messages[*session].send(Message::Run(operation.clone()));
                self.waiting.push(*session);
            }
            Act::Abandon(session) => {
                let _ = self.messages[*session].send(Message::Abandon);
            }
            _ => {}
        }
    }

    fn answered(&mut self, session: usize) {
        self.waiting.retain(|other| *other != session);
    }
}

/// The model, and sessions on it.
pub struct Model {
    pub server: Server,
    pub steps: Vec<Step>,
    pub deadlocks: Rc<Cell<usize>>,
    sessions: Sessions,
    /// Waits for locks so far.
    waits: Rc<Cell<usize>>,
    in_transaction: Vec<bool>,
    lock: Option<JoinHandle<()>>,
    is_over: bool,
}

impl Model {
    pub async fn new(flavor: Flavor, sessions: usize) -> Self {
        let (waits, deadlocks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (seen, dead) = (waits.clone(), deadlocks.clone());
        let sink = Box::new(move |kind: &'static str, _: &'static str| match kind {
            "lock_wait" => seen.set(seen.get() + 1),
            "deadlock" => dead.set(dead.get() + 1),
            _ => {}
        });
        let server = Server::new(Settings { flavor, statement_ms: 0, ..Settings::default() }, sink);
        let opened = Sessions::open(&server.store(4), sessions, Session::discard).await;
        Self {
            server,
            steps: Vec::new(),
            deadlocks,
            sessions: opened,
            waits,
            in_transaction: vec![false; sessions],
            lock: None,
            is_over: false,
        }
    }

    /// An operation on a session that does not wait.
    pub async fn on(&mut self, session: usize, operation: Operation) {
        self.act(Act::On(session, operation)).await;
    }

    pub async fn act(&mut self, act: Act) {
        let waits_before = self.waits.get();
        self.sessions.act(&act);
        match &act {
            Act::Lock(lock) => {
                let (server, lock) = (self.server.clone(), *lock);
                let hold = async move { server.hold_table(lock, Duration::from_secs(3_600)).await };
                self.lock = Some(tokio::task::spawn_local(hold));
            }
            Act::Unlock => self.lock.take().unwrap().abort(),
            Act::ReadOnly(is_read_only) => self.server.set_read_only(*is_read_only),
            _ => {}
        }
        let mut answers = BTreeMap::new();
        // In virtual time: what is not answered by then waits.
        let mut patience =
            if matches!(act, Act::Wait) { Duration::from_secs(60) } else { Duration::from_micros(1_500) };
        while let Ok(Some((index, answer))) = timeout(patience, self.sessions.answers.recv()).await {
            self.sessions.answered(index);
            answers.insert(index, answer);
            patience = Duration::from_micros(1_500);
        }
        let actor = match &act {
            Act::On(session, operation) => {
                match (operation, answers.contains_key(session)) {
                    (Operation::Begin, true) => self.in_transaction[*session] = true,
                    (Operation::Commit | Operation::Rollback, true) => self.in_transaction[*session] = false,
                    _ => {}
                }
                Some(*session)
            }
            Act::Abandon(session) => {
                self.in_transaction[*session] = false;
                Some(*session)
            }
            _ => None,
        };
        let waiting = self.sessions.waiting.clone();
        let own_waits = usize::from(actor.is_some_and(|actor| waiting.contains(&actor)));
        let others = answers.keys().filter(|index| Some(**index) != actor).count();
        let is_race = others + (self.waits.get() - waits_before).saturating_sub(own_waits) > 1;
        let waits = waiting.len().max(self.server.waiting());
        self.steps.push(Step { act, answers, waiting, waits, is_race });
    }

    fn idle(&self) -> Vec<usize> {
        (0..self.in_transaction.len()).filter(|index| !self.sessions.waiting.contains(index)).collect()
    }

    /// Random steps, up to a race.
    pub async fn random_steps(&mut self, draw: &mut Draw, count: usize) {
        for _ in 0..count {
            let session = draw.pick(&self.idle());
            let operation = Operation::draw(draw, self.in_transaction[session]);
            if !self.step_without_race(session, operation).await {
                break;
            }
        }
    }

    /// A step, unless it makes a race: then it is forgotten, and this is the end.
    async fn step_without_race(&mut self, session: usize, operation: Operation) -> bool {
        if !self.is_over {
            self.on(session, operation).await;
            self.is_over = self.steps.pop_if(|step| step.is_race).is_some();
        }
        !self.is_over
    }

    /// Rolls all back. False if the end came before.
    pub async fn finish(&mut self) -> bool {
        while let Some(session) = self.idle().into_iter().find(|index| self.in_transaction[*index]) {
            if !self.step_without_race(session, Operation::Rollback).await {
                break;
            }
        }
        !self.is_over
    }

    /// What a session was answered last.
    pub fn answer(&self, session: usize) -> &str {
        self.steps.iter().rev().find_map(|step| step.answers.get(&session)).unwrap()
    }

    /// Whether a session waits.
    pub fn waits(&self, session: usize) -> bool {
        self.sessions.waiting.contains(&session)
    }

    pub fn rows(&self) -> Rows {
        rows_of(&self.server, &CAMPAIGNS)
    }
}

/// Repeats the steps on the real server, and compares every answer and who waits.
pub async fn replay(real: &mut Real, steps: &[Step], sessions: usize) {
    let store = real.store.clone();
    // The issuer would kill the statement, if it reached the server. The model is of a server that it does not reach.
    let mut on = Sessions::open(&store, sessions, std::mem::forget).await;
    let mut so_far = Vec::new();
    for step in steps {
        match &step.act {
            Act::Lock(lock) => real.lock(*lock).await,
            Act::Unlock => real.unlock().await,
            Act::ReadOnly(is_read_only) => real.set_read_only(*is_read_only).await,
            act => on.act(act),
        }
        let mut answers = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let are_as_many = on.waiting.len() == step.waiting.len();
            if are_as_many && (step.waits == 0 || real.waiting().await == step.waits) {
                break;
            }
            if let Ok(Some((index, answer))) = timeout(Duration::from_millis(1), on.answers.recv()).await {
                on.answered(index);
                answers.insert(index, answer);
            }
        }
        so_far.push(format!("{:?} -> {answers:?}, waiting {:?}", step.act, on.waiting));
        let is_same = if step.is_race {
            let sorted = |answers: &BTreeMap<usize, String>| {
                let mut answers: Vec<String> = answers.values().cloned().collect();
                answers.sort();
                answers
            };
            sorted(&answers) == sorted(&step.answers)
        } else {
            answers == step.answers && on.waiting == step.waiting
        };
        assert!(
            is_same,
            "the last of these steps should be {:?}, waiting {:?}:\n{}",
            step.answers,
            step.waiting,
            so_far.join("\n")
        );
    }
}
