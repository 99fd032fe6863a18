//! Several sessions side by side, on the model and on the real server, one operation at a time.

use crate::operations::{Draw, Operation, Rows, rows_of};
use crate::real::Real;
use dropgate_issuer::store::ports::{Session, Store};
use dropgate_simulator::mysql::{Flavor, Server, Settings};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Every campaign id of the tests, in order.
pub const CAMPAIGNS: [&str; 4] = ["c1", "c2", "c3", "nowhere"];

/// What happened in one step.
#[derive(Debug)]
pub struct Step {
    session: usize,
    operation: Operation,
    /// What was answered in this step: to this session, or to others that had waited.
    answers: BTreeMap<usize, String>,
    /// Sessions that wait for a lock now.
    waiting: Vec<usize>,
}

/// Sessions, each with a task that carries out one operation after the other.
struct Sessions {
    operations: Vec<mpsc::UnboundedSender<Operation>>,
    answers: mpsc::UnboundedReceiver<(usize, String)>,
    waiting: Vec<usize>,
}

impl Sessions {
    async fn open<S: Store + 'static>(store: &S, count: usize) -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        let mut operations = Vec::new();
        for index in 0..count {
            let mut session = store.connect().await.unwrap();
            let (sender, mut queue) = mpsc::unbounded_channel::<Operation>();
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                while let Some(operation) = queue.recv().await {
                    let result = operation.run(&mut session).await;
                    let _ = answer.send((index, result));
                }
                let _ = session.rollback().await;
            });
            operations.push(sender);
        }
        Self { operations, answers, waiting: Vec::new() }
    }

    fn send(&mut self, session: usize, operation: &Operation) {
        self.operations[session].send(operation.clone()).unwrap();
        self.waiting.push(session);
    }

    fn answered(&mut self, session: usize) {
        self.waiting.retain(|other| *other != session);
    }
}

/// The model, and sessions on it.
pub struct Model {
    pub server: Server,
    sessions: Sessions,
    /// Waits for locks so far.
    waits: Rc<Cell<usize>>,
    pub deadlocks: Rc<Cell<usize>>,
    pub steps: Vec<Step>,
    in_transaction: Vec<bool>,
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
        let opened = Sessions::open(&server.store(4), sessions).await;
        let in_transaction = vec![false; sessions];
        Self { server, sessions: opened, waits, deadlocks, steps: Vec::new(), in_transaction, is_over: false }
    }

    /// Carries out an operation on a session that does not wait. Returns how many others went on by it.
    pub async fn step(&mut self, session: usize, operation: Operation) -> usize {
        let waits_before = self.waits.get();
        self.sessions.send(session, &operation);
        let mut answers = BTreeMap::new();
        // In virtual time: what is not answered by then waits for a lock.
        while let Ok(Some((index, answer))) = timeout(Duration::from_micros(1_500), self.sessions.answers.recv()).await
        {
            self.sessions.answered(index);
            answers.insert(index, answer);
        }
        match (&operation, answers.contains_key(&session)) {
            (Operation::Begin, true) => self.in_transaction[session] = true,
            (Operation::Commit | Operation::Rollback, true) => self.in_transaction[session] = false,
            _ => {}
        }
        let own_waits = usize::from(self.sessions.waiting.contains(&session));
        let others = answers.keys().filter(|index| **index != session).count();
        let waiting = self.sessions.waiting.clone();
        self.steps.push(Step { session, operation, answers, waiting });
        others + (self.waits.get() - waits_before).saturating_sub(own_waits)
    }

    pub fn idle(&self) -> Vec<usize> {
        (0..self.in_transaction.len()).filter(|index| !self.sessions.waiting.contains(index)).collect()
    }

    /// Draw steps.
    pub async fn random_steps(&mut self, random: &mut Draw, count: usize) {
        for _ in 0..count {
            let session = random.pick(&self.idle());
            let operation = Operation::draw(random, self.in_transaction[session]);
            if !self.comparable_step(session, operation).await {
                break;
            }
        }
    }

    /// A step, unless it lets two sessions go on at once: which is first is up to the real server's threads. Then this
    /// is the end: the step is forgotten.
    async fn comparable_step(&mut self, session: usize, operation: Operation) -> bool {
        if !self.is_over && self.step(session, operation).await > 1 {
            self.steps.pop();
            self.is_over = true;
        }
        !self.is_over
    }

    /// Rolls all back. False if the end came before.
    pub async fn finish(&mut self) -> bool {
        while let Some(session) = self.idle().into_iter().find(|index| self.in_transaction[*index]) {
            if !self.comparable_step(session, Operation::Rollback).await {
                break;
            }
        }
        !self.is_over
    }

    pub fn answer(&self, session: usize) -> &str {
        let answers = self.steps.iter().rev().find_map(|step| step.answers.get(&session));
        answers.unwrap()
    }

    pub fn rows(&self) -> Rows {
        rows_of(&self.server, &CAMPAIGNS)
    }
}

/// Repeats the steps on the real server, and compares every answer and who waits.
pub async fn replay(real: &mut Real, steps: &[Step], sessions: usize) {
    let store = real.store.clone();
    let mut on = Sessions::open(&store, sessions).await;
    let mut so_far = Vec::new();
    for step in steps {
        on.send(step.session, &step.operation);
        let mut answers = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            while let Ok((index, answer)) = on.answers.try_recv() {
                on.answered(index);
                answers.insert(index, answer);
            }
            if on.waiting == step.waiting && (on.waiting.is_empty() || real.waiting().await == on.waiting.len()) {
                break;
            }
            if Instant::now() > deadline
                || answers.iter().any(|(index, answer)| step.answers.get(index) != Some(answer))
            {
                break;
            }
            if let Ok(Some((index, answer))) = timeout(Duration::from_millis(2), on.answers.recv()).await {
                on.answered(index);
                answers.insert(index, answer);
            }
        }
        so_far.push(format!("{}: {:?} -> {answers:?}, waiting {:?}", step.session, step.operation, on.waiting));
        assert_eq!(
            (&answers, &on.waiting),
            (&step.answers, &step.waiting),
            "the real server differs from the model in the last of these steps:\n{}",
            so_far.join("\n")
        );
    }
}
