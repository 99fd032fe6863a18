//! A member of the issuers' group on the model: what `dropgate_issuer::consumer::KafkaIntake` is on librdkafka.
//!
//! In a real process, a callback that waits for a commit blocks the thread that polls. Here the wait is a pending
//! [`SimRecordSource::recv`]. If that future is dropped, the callback continues at the next call; what the application
//! does in between is equivalent to doing it just before the callback.

use super::adapter::AdapterRules;
use super::broker::Record;
use super::client::{Client, Event};
use super::server::Kafka;
use super::settings::MemberSettings;
use super::wire::{ClientId, Partitions};
use super::world::World;
use dropgate_issuer::kafka::assignment::{Assignment, Step};
use dropgate_issuer::kafka::silence::LOOK_EVERY;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long leaving the group may take before the process ends anyway; as in the issuer.
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumeError {
    pub label: &'static str,
    /// The consumer will never deliver again.
    pub fatal: bool,
}

/// A member of a group. Dropping it without [`SimRecordSource::leave`] is a crash of its process: the group notices
/// when the session expires.
pub struct SimRecordSource {
    kafka: Kafka,
    topic: String,
    settings: MemberSettings,
    /// The client that reads.
    id: Rc<Cell<ClientId>>,
    rules: AdapterRules,
    assignment: RefCell<Assignment>,
    /// A revoke whose commit is under way.
    callback: RefCell<Option<(Partitions, u64)>>,
    replacing: Cell<Replacing>,
    look_at: Cell<Instant>,
    news: RefCell<Rc<Notify>>,
}

/// How far the replacement of a client is that reads nothing.
#[derive(Debug, Clone, Copy, Default)]
enum Replacing {
    #[default]
    No,
    /// It commits where the next one begins.
    Commits(u64),
    /// It leaves the group.
    Leaves,
}

enum Polled {
    Item(Result<(i32, Record), ConsumeError>),
    Consumed,
    Nothing,
}

impl SimRecordSource {
    /// Joins a group and asks for a share of `topic`, which has `partitions` partitions.
    #[must_use]
    pub fn join(kafka: &Kafka, topic: &str, partitions: usize, settings: MemberSettings) -> Self {
        let source = Self {
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            id: Rc::default(),
            rules: settings.adapter,
            settings,
            assignment: RefCell::new(Assignment::new(partitions)),
            callback: RefCell::default(),
            replacing: Cell::default(),
            look_at: Cell::new(Instant::now() + LOOK_EVERY),
            news: RefCell::default(),
        };
        source.join_anew();
        source
    }

    fn join_anew(&self) {
        let (id, news) = self.kafka.change(|world, now| {
            let id = world.join(&self.topic, self.settings.clone(), now);
            let news = world.processes.get(&id).map(|process| Rc::clone(&process.client.news));
            (id, news.unwrap_or_default())
        });
        self.id.set(id);
        *self.news.borrow_mut() = news;
    }

    /// Controls the member's process.
    #[must_use]
    pub fn handle(&self) -> MemberHandle {
        MemberHandle { kafka: self.kafka.clone(), id: Rc::clone(&self.id) }
    }

    /// The next record, with its partition. Dropping the future loses none.
    ///
    /// # Errors
    /// [`ConsumeError`]
    pub async fn recv(&self) -> Result<(i32, Record), ConsumeError> {
        loop {
            match self.poll() {
                Polled::Item(item) => return item,
                Polled::Consumed => tokio::task::yield_now().await,
                Polled::Nothing => self.notified().await,
            }
        }
    }

    async fn notified(&self) {
        let news = Rc::clone(&self.news.borrow());
        news.notified().await;
    }

    /// Looks at the ends of the partitions, if it is time. In a real process a task does it.
    fn look(&self, now: Instant) {
        if !self.rules.replace_silent || now < self.look_at.get() {
            return;
        }
        self.look_at.set(now + LOOK_EVERY);
        let expected = self.assignment.borrow_mut().expected();
        let ends = self.kafka.world.borrow().ends(self.id.get(), &expected);
        let mut assignment = self.assignment.borrow_mut();
        let Some(ends) = ends else { return assignment.not_looked() };
        let silent = assignment.looked(&ends, now);
        drop(assignment);
        if let Some(silent) = silent {
            self.kafka.world.borrow().log_fault("client: replaced", silent.to_string());
            let begins = self.with(|client, now| {
                client.discard_stored();
                silent.begin_at.map(|begin_at| client.commit_offsets_and_wait(begin_at, now))
            });
            match begins.flatten() {
                Some(ticket) => self.replacing.set(Replacing::Commits(ticket)),
                None => self.leave_to_replace(),
            }
        }
    }

    fn leave_to_replace(&self) {
        self.with(Client::close);
        self.replacing.set(Replacing::Leaves);
    }

    /// Goes on with the replacement of the client. False if nothing was done.
    fn replace(&self) -> bool {
        match self.replacing.get() {
            Replacing::No => return false,
            Replacing::Commits(ticket) => {
                if self.with(|client, _| client.take_commit_result(ticket).is_some()) != Some(true) {
                    return false;
                }
                self.leave_to_replace();
            }
            Replacing::Leaves => {
                if self.with(|client, _| client.closed) != Some(true) {
                    return false;
                }
                self.kafka.world.borrow_mut().kill(self.id.get());
                self.replacing.set(Replacing::No);
                self.join_anew();
            }
        }
        true
    }

    fn poll(&self) -> Polled {
        if self.replace() {
            return Polled::Consumed;
        }
        let polled = self.poll_client();
        if matches!(polled, Polled::Consumed) {
            self.look(Instant::now());
        }
        polled
    }

    fn poll_client(&self) -> Polled {
        self.with(|client, now| {
            let waiting = self.callback.borrow_mut().take();
            if let Some((partitions, ticket)) = waiting {
                if client.take_commit_result(ticket).is_none() {
                    *self.callback.borrow_mut() = Some((partitions, ticket));
                    return Polled::Nothing;
                }
                self.give_up(client, &partitions, now);
                return Polled::Consumed;
            }
            client.last_poll = now;
            match client.pop() {
                None => return Polled::Nothing,
                Some(Event::Record { partition, record, .. }) => return Polled::Item(Ok((partition, record))),
                Some(Event::Error { label, fatal }) => return Polled::Item(Err(ConsumeError { label, fatal })),
                Some(Event::Assign(partitions)) => {
                    let step = self.assignment.borrow_mut().assigned(&partitions);
                    match step.filter(|_| self.rules.resume_on_assign) {
                        Some(Step::Pause(partitions)) => client.set_paused(&partitions, true),
                        Some(Step::Resume(partitions)) => client.set_paused(&partitions, false),
                        _ => {}
                    }
                    client.incremental_assign(&partitions, now);
                }
                Some(Event::Revoke(partitions)) => {
                    let step = self.assignment.borrow().revoking(&partitions, client.lost);
                    if self.rules.commit_on_revoke && step == Some(Step::Commit) {
                        let ticket = client.commit(now);
                        *self.callback.borrow_mut() = Some((partitions, ticket));
                    } else {
                        self.give_up(client, &partitions, now);
                    }
                }
                Some(Event::Statistics { all, offsets }) => {
                    let step = self.assignment.borrow_mut().statistics(all, &offsets);
                    if self.rules.commit_back
                        && let Some(Step::CommitBack(offsets)) = step
                    {
                        client.commit_offsets(offsets, now);
                    }
                }
                Some(Event::CommitFailed(_)) => {}
            }
            Polled::Consumed
        })
        .unwrap_or(Polled::Nothing)
    }

    fn give_up(&self, client: &mut Client, partitions: &Partitions, now: Instant) {
        self.assignment.borrow_mut().revoked(partitions);
        client.incremental_unassign(partitions, now);
    }

    /// Partitions that were taken away since the last call.
    pub fn revoked(&self) -> Vec<i32> {
        let revoked = self.assignment.borrow_mut().take_revoked();
        if self.rules.report_revoked { revoked } else { Vec::new() }
    }

    /// Pauses or resumes the assigned partitions.
    pub fn set_paused(&self, paused: bool) {
        self.assignment.borrow_mut().set_paused(paused);
        self.with(|client, _| client.set_paused(&client.assignment().clone(), paused));
    }

    /// Stores offsets. Partitions that are not assigned are skipped; false if none is (librdkafka: error `State`).
    pub fn store(&self, next: &[(i32, i64)]) -> bool {
        self.with(|client, _| client.store(next)).unwrap_or(true)
    }

    #[must_use]
    pub fn rules(&self) -> AdapterRules {
        self.rules
    }

    /// Why the client was replaced, until records arrive.
    #[must_use]
    pub fn unread(&self) -> Option<String> {
        self.assignment.borrow().silence().map(ToString::to_string)
    }

    /// The lag of each owned partition, where it is known.
    #[must_use]
    pub fn lags(&self) -> Vec<(i32, Option<u64>)> {
        self.assignment.borrow().lags()
    }

    /// What is assigned.
    #[must_use]
    pub fn owned(&self) -> Partitions {
        self.assignment.borrow().owned().clone()
    }

    /// How many partitions there are.
    #[must_use]
    pub fn all(&self) -> usize {
        self.assignment.borrow().all()
    }

    /// Commits what is stored and leaves the group. Waits for both, within a bound.
    pub async fn leave(self) {
        // After the deadline the process ends, whatever is left.
        let _ = tokio::time::timeout(LEAVE_DEADLINE, self.close()).await;
    }

    async fn close(&self) {
        while !matches!(self.replacing.get(), Replacing::No) {
            self.serve().await;
        }
        // A callback that waits for its commit ends first.
        while self.callback.borrow().is_some() {
            self.serve().await;
        }
        if let Some(ticket) = self.with(Client::commit) {
            while self.with(|client, _| client.take_commit_result(ticket).is_none()) == Some(true) {
                self.notified().await;
            }
        }
        self.with(Client::close);
        while self.with(|client, _| client.closed) == Some(false) {
            self.serve().await;
        }
    }

    async fn serve(&self) {
        if matches!(self.poll(), Polled::Nothing) {
            self.notified().await;
        }
    }

    /// Calls the client, unless its process is suspended or killed.
    fn with<T>(&self, work: impl FnOnce(&mut Client, Instant) -> T) -> Option<T> {
        self.kafka.change(|world: &mut World, now| {
            let process = world.processes.get_mut(&self.id.get()).filter(|process| !process.frozen)?;
            let done = work(&mut process.client, now);
            world.flush(self.id.get(), now);
            Some(done)
        })
    }
}

impl Drop for SimRecordSource {
    fn drop(&mut self) {
        self.kafka.world.borrow_mut().kill(self.id.get());
    }
}

/// Controls a member's process.
#[derive(Clone)]
pub struct MemberHandle {
    kafka: Kafka,
    id: Rc<Cell<ClientId>>,
}

impl MemberHandle {
    /// SIGSTOP: no heartbeat, no poll. The caller suspends the other tasks of the process.
    pub fn freeze(&self) {
        self.kafka.change(|world, now| world.set_frozen(self.id.get(), true, now));
    }

    /// SIGCONT: held events are processed in their order.
    pub fn thaw(&self) {
        self.kafka.change(|world, now| world.set_frozen(self.id.get(), false, now));
    }

    /// SIGKILL: no LeaveGroup, no commit.
    pub fn kill(&self) {
        self.kafka.change(|world, _| world.kill(self.id.get()));
    }

    /// No message passes between it and the broker until [`MemberHandle::restore_link`].
    pub fn cut_link(&self) {
        self.kafka.change(|world, now| world.set_cut(self.id.get(), true, now));
    }

    /// Delivers held messages, except those whose request has timed out.
    pub fn restore_link(&self) {
        self.kafka.change(|world, now| world.set_cut(self.id.get(), false, now));
    }

    /// The assignment as the client sees it.
    #[must_use]
    pub fn assignment(&self) -> Partitions {
        let world = self.kafka.world.borrow();
        world.processes.get(&self.id.get()).map(|process| process.client.assignment().clone()).unwrap_or_default()
    }
}
