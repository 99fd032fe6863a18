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
use std::cell::RefCell;
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
    id: ClientId,
    rules: AdapterRules,
    assignment: RefCell<Assignment>,
    /// A revoke whose commit is under way.
    callback: RefCell<Option<(Partitions, u64)>>,
    news: Rc<Notify>,
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
        let (rules, assignment) = (settings.adapter, RefCell::new(Assignment::new(partitions)));
        let (id, news) = kafka.change(|world, now| {
            let id = world.join(topic, settings, now);
            let news = world.processes.get(&id).map(|process| Rc::clone(&process.client.news));
            (id, news.unwrap_or_default())
        });
        Self { kafka: kafka.clone(), id, rules, assignment, callback: RefCell::default(), news }
    }

    /// Controls the member's process.
    #[must_use]
    pub fn handle(&self) -> MemberHandle {
        MemberHandle { kafka: self.kafka.clone(), id: self.id }
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
                Polled::Nothing => self.news.notified().await,
            }
        }
    }

    fn poll(&self) -> Polled {
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
        // A callback that waits for its commit ends first.
        while self.callback.borrow().is_some() {
            self.serve().await;
        }
        if let Some(ticket) = self.with(Client::commit) {
            while self.with(|client, _| client.take_commit_result(ticket).is_none()) == Some(true) {
                self.news.notified().await;
            }
        }
        self.with(Client::close);
        while self.with(|client, _| client.closed) == Some(false) {
            self.serve().await;
        }
    }

    async fn serve(&self) {
        if matches!(self.poll(), Polled::Nothing) {
            self.news.notified().await;
        }
    }

    /// Calls the client, unless its process is suspended or killed.
    fn with<T>(&self, work: impl FnOnce(&mut Client, Instant) -> T) -> Option<T> {
        self.kafka.change(|world: &mut World, now| {
            let process = world.processes.get_mut(&self.id).filter(|process| !process.frozen)?;
            let done = work(&mut process.client, now);
            world.flush(self.id, now);
            Some(done)
        })
    }
}

impl Drop for SimRecordSource {
    fn drop(&mut self) {
        self.kafka.world.borrow_mut().kill(self.id);
    }
}

/// Controls a member's process.
#[derive(Clone)]
pub struct MemberHandle {
    kafka: Kafka,
    id: ClientId,
}

impl MemberHandle {
    /// SIGSTOP: no heartbeat, no poll. The caller suspends the other tasks of the process.
    pub fn freeze(&self) {
        self.kafka.change(|world, now| world.set_frozen(self.id, true, now));
    }

    /// SIGCONT: held events are processed in their order.
    pub fn thaw(&self) {
        self.kafka.change(|world, now| world.set_frozen(self.id, false, now));
    }

    /// SIGKILL: no LeaveGroup, no commit.
    pub fn kill(&self) {
        self.kafka.change(|world, _| world.kill(self.id));
    }

    /// No message passes between it and the broker until [`MemberHandle::restore_link`].
    pub fn cut_link(&self) {
        self.kafka.change(|world, now| world.set_cut(self.id, true, now));
    }

    /// Delivers held messages, except those whose request has timed out.
    pub fn restore_link(&self) {
        self.kafka.change(|world, now| world.set_cut(self.id, false, now));
    }

    /// The assignment as the client sees it.
    #[must_use]
    pub fn assignment(&self) -> Partitions {
        let world = self.kafka.world.borrow();
        world.processes.get(&self.id).map(|process| process.client.assignment().clone()).unwrap_or_default()
    }
}
