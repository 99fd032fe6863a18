//! A group member inside its process: librdkafka's consumer, as a state machine without I/O.
//!
//! Its main thread runs as long as the process: heartbeats, commits and joins do not depend on the application. Rebalance
//! callbacks, records and errors wait in one queue until the application polls.
//!
//! | rule | source (librdkafka 2.12.1, src/; rust-rdkafka 0.39.0) |
//! |---|---|
//! | the session ends on the client's side too, after `session.timeout.ms` without a good answer: all partitions are lost | rdkafka_cgrp.c `rd_kafka_cgrp_session_timeout_check`; only in the steady state |
//! | unknown member, illegal generation: all partitions are lost, the member joins anew | rdkafka_cgrp.c `rd_kafka_cgrp_handle_Heartbeat` |
//! | a member that has not polled for `max.poll.interval.ms` leaves (a static member only stops its heartbeats), loses all partitions, and joins again when it polls | rdkafka_cgrp.c `rd_kafka_cgrp_max_poll_interval_check_tmr_cb`, `rd_kafka_cgrp_join` |
//! | at "rebalance in progress" the member joins again with what it owns, at most once a second; records flow meanwhile | rdkafka_cgrp.c `rd_kafka_cgrp_group_is_rebalancing`, `rd_kafka_cgrp_join_state_serve` |
//! | after sync, removed partitions are revoked first; then follows an assign, which may be empty; then, if partitions were revoked, a new join at once | rdkafka_cgrp.c `rd_kafka_cgrp_handle_assignment_cooperative`, `rd_kafka_cgrp_incr_unassign_done` |
//! | while a callback waits to be polled, *all* partitions of the member are paused by librdkafka, and heartbeats go on | rdkafka_cgrp.c `rd_kafka_rebalance_op_incr` |
//! | stored offsets are committed every `auto.commit.interval.ms`, in the steady state only | rdkafka_cgrp.c `rd_kafka_cgrp_offset_commit_tmr_cb` |
//! | a commit of a lost assignment is not sent; at unassign the mark is cleared first, so the last stored offsets are sent, and the broker rejects them | rdkafka_cgrp.c `rd_kafka_cgrp_incremental_unassign`, `rd_kafka_cgrp_offsets_commit` |
//! | a commit without a coordinator waits for one, `session.timeout.ms` at most | rdkafka_cgrp.c `rd_kafka_cgrp_defer_offset_commit` |
//! | committed offsets are asked for when no commit is under way, one question at a time | rdkafka_assignment.c `rd_kafka_assignment_serve_pending` |
//! | the second member with an instance id ends the first for good | rdkafka_cgrp.c, `FENCED_INSTANCE_ID` |
//! | `close` revokes everything through the callback, and leaves the group unless it is a static member | rdkafka_cgrp.c `rd_kafka_cgrp_terminate0`, `rd_kafka_cgrp_leave_maybe`; base_consumer.rs `Drop` |
//! | a subscribed topic that is gone: its partitions are lost at the next look at the metadata | rdkafka_cgrp.c `rd_kafka_cgrp_metadata_update_check` |
//! | metadata with a lower leader epoch than the one known is ignored, also that of a new topic of the same name: every fetch fails, and is repeated without an event | rdkafka_topic.c `rd_kafka_toppar_leader_update`; rdkafka_fetcher.c `rd_kafka_fetch_reply_handle_partition_error` |
//! | a poll handles one event; after a callback, statistics or a commit result it yields once | stream_consumer.rs `MessageStream::poll_next` |
//!
//! Not modelled: several brokers and leaders, followers to read from, transactions, throttling, several topics.

mod assignment;
mod commits;
mod fetch;
mod joining;
mod metadata;

use super::broker::{Record, TopicMetadata};
use super::settings::MemberSettings;
use super::toppar::Toppar;
use super::wire::{Answer, ClientId, ErrorCode, MemberInfo, Outcome, Partitions, Request};
use dropgate_issuer::kafka::assignment::Offsets;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Between two looks of the main thread at its timers.
pub const TICK: Duration = Duration::from_millis(500);
const JOIN_EVERY: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Where a member is in the protocol: librdkafka's "join state".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JoinState {
    #[default]
    Init,
    WaitMetadata,
    WaitJoin,
    WaitSync,
    WaitAssignCall,
    WaitUnassignCall,
    WaitUnassign,
    WaitIncrementalUnassign,
    Steady,
}

/// An event in the application's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Record { partition: i32, version: u64, record: Record },
    Assign(Partitions),
    Revoke(Partitions),
    Statistics { all: usize, offsets: BTreeMap<i32, Offsets> },
    CommitFailed(ErrorCode),
    Error { label: &'static str, fatal: bool },
}

/// How the answer to a commit that the application waits for ended.
pub type CommitResult = Result<(), ErrorCode>;

/// A request that goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub request: Request,
    /// How long it is waited for.
    pub wait: Duration,
    pub member_id: String,
}

impl Outgoing {
    fn new(request: Request, wait: Duration, member_id: &str) -> Self {
        Self { request, wait, member_id: member_id.to_owned() }
    }
}

#[derive(Debug)]
pub struct Client {
    pub id: ClientId,
    pub settings: MemberSettings,
    pub topic: String,
    pub member_id: String,
    pub join_state: JoinState,
    pub queue: VecDeque<Event>,
    pub out: Vec<Outgoing>,
    pub last_poll: Instant,
    /// Wakes the application.
    pub news: Rc<Notify>,
    pub fatal: bool,
    pub closed: bool,
    /// The present assignment is lost: another member may own it.
    pub lost: bool,
    toppars: BTreeMap<i32, Toppar>,
    metadata: Option<TopicMetadata>,
    /// The highest that was seen.
    leader_epoch: i32,
    missing_reported: bool,
    fetching: bool,
    fetch_at: Instant,
    generation: i32,
    owned_generation: i32,
    /// Assigned by the group (librdkafka: group assignment).
    group_assignment: Partitions,
    /// Accepted by the application (librdkafka: assignment).
    assignment: Partitions,
    pending: Partitions,
    queried: Partitions,
    removed: Partitions,
    assignment_version: u64,
    next_assign: Option<Partitions>,
    rejoin: bool,
    leads: Option<(i32, Vec<MemberInfo>)>,
    known_partitions: Option<i32>,
    join_at: Option<Instant>,
    heartbeat_under_way: bool,
    heartbeat_at: Instant,
    session_ends: Option<Instant>,
    coordinator: bool,
    looking_for_coordinator: bool,
    coordinator_at: Instant,
    commits: u32,
    deferred: VecDeque<(Instant, Request)>,
    tickets: BTreeMap<u64, Option<CommitResult>>,
    next_ticket: u64,
    poll_exceeded: bool,
    poll_watched: bool,
    terminating: bool,
    leave_when_unassigned: bool,
    leaving: bool,
    metadata_under_way: bool,
    commit_at: Instant,
    statistics_at: Instant,
    metadata_at: Instant,
    connected: bool,
    missing_since: Option<Instant>,
}

impl Client {
    pub fn new(id: ClientId, topic: &str, settings: MemberSettings, now: Instant) -> Self {
        Self {
            id,
            topic: topic.to_owned(),
            member_id: String::new(),
            join_state: JoinState::Init,
            queue: VecDeque::new(),
            out: Vec::new(),
            last_poll: now,
            news: Rc::new(Notify::new()),
            fatal: false,
            closed: false,
            lost: false,
            toppars: BTreeMap::new(),
            metadata: None,
            leader_epoch: 0,
            missing_reported: false,
            fetching: false,
            fetch_at: now,
            generation: -1,
            owned_generation: -1,
            group_assignment: Partitions::new(),
            assignment: Partitions::new(),
            pending: Partitions::new(),
            queried: Partitions::new(),
            removed: Partitions::new(),
            assignment_version: 0,
            next_assign: None,
            rejoin: false,
            leads: None,
            known_partitions: None,
            join_at: None,
            heartbeat_under_way: false,
            heartbeat_at: now,
            session_ends: None,
            coordinator: false,
            looking_for_coordinator: false,
            coordinator_at: now,
            commits: 0,
            deferred: VecDeque::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            poll_exceeded: false,
            poll_watched: false,
            terminating: false,
            leave_when_unassigned: false,
            leaving: false,
            metadata_under_way: false,
            commit_at: now + settings.auto_commit_interval,
            statistics_at: now + settings.statistics_interval,
            metadata_at: now + settings.metadata_refresh_interval,
            connected: true,
            missing_since: None,
            settings,
        }
    }

    // ---- what the application calls

    /// The next event in the queue. Records from before a version barrier are dropped.
    pub fn pop(&mut self) -> Option<Event> {
        while let Some(event) = self.queue.pop_front() {
            if let Event::Record { partition, version, record } = &event {
                let Some(toppar) = self.toppars.get_mut(partition).filter(|toppar| toppar.version == *version) else {
                    continue;
                };
                toppar.app = Some(record.offset + 1);
            }
            return Some(event);
        }
        None
    }

    pub fn assignment(&self) -> &Partitions {
        &self.assignment
    }

    /// Pauses or resumes partitions for the application. Unknown partitions are skipped.
    pub fn set_paused(&mut self, partitions: &Partitions, paused: bool) {
        let known = self.metadata.map_or(0, |topic| topic.partitions);
        for partition in partitions.iter().filter(|partition| (0..known).contains(*partition)) {
            let toppar = self.toppars.entry(*partition).or_default();
            if paused { toppar.pause(true) } else { toppar.resume(true) }
        }
        self.purge();
    }

    /// Stores offsets. False if none of them could be: those partitions are not assigned.
    pub fn store(&mut self, offsets: &[(i32, i64)]) -> bool {
        let mut stored = 0;
        for (partition, offset) in offsets {
            if let Some(toppar) = self.toppars.get_mut(partition).filter(|toppar| toppar.assigned) {
                toppar.stored = Some(*offset);
                stored += 1;
            }
        }
        offsets.is_empty() || stored > 0
    }

    /// Nothing that is stored will be committed.
    pub fn discard_stored(&mut self) {
        self.toppars.values_mut().for_each(|toppar| toppar.stored = None);
    }

    /// Commits the stored offsets. [`Client::take_commit_result`] returns the result for the ticket.
    pub fn commit(&mut self, now: Instant) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert(ticket, None);
        let offsets = self.to_commit();
        if self.lost && !self.assignment.is_empty() {
            self.tickets.insert(ticket, Some(Err(ErrorCode::UnknownMemberId)));
        } else if offsets.is_empty() {
            self.tickets.insert(ticket, Some(Ok(())));
        } else {
            self.send_commit(offsets, Some(ticket), now);
        }
        ticket
    }

    /// Commits these offsets, lower or not.
    pub fn commit_offsets(&mut self, offsets: BTreeMap<i32, i64>, now: Instant) {
        self.send_commit(offsets, None, now);
    }

    /// The same; [`Client::take_commit_result`] returns the result for the ticket.
    pub fn commit_offsets_and_wait(&mut self, offsets: BTreeMap<i32, i64>, now: Instant) -> u64 {
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, None);
        self.send_commit(offsets, Some(self.next_ticket), now);
        self.next_ticket
    }

    pub fn take_commit_result(&mut self, ticket: u64) -> Option<CommitResult> {
        let result = self.tickets.get(&ticket)?.clone()?;
        self.tickets.remove(&ticket);
        Some(result)
    }

    /// The callback accepts `partitions`.
    pub fn incremental_assign(&mut self, partitions: &Partitions, now: Instant) {
        if self.fatal || self.terminating {
            if self.join_state == JoinState::WaitAssignCall {
                self.join_state = JoinState::WaitUnassignCall;
            }
            self.next_assign = None;
            self.unassign_all();
        } else {
            for partition in partitions {
                self.toppars.entry(*partition).or_default().assign();
            }
            self.assignment.extend(partitions);
            self.pending.extend(partitions);
            self.assignment_version += 1;
            if self.join_state == JoinState::WaitAssignCall {
                self.set_lib_paused(false);
                self.join_state = JoinState::Steady;
                self.poll_watched = true;
            }
            self.lost = false;
        }
        self.serve_assignment(now);
    }

    /// The callback returns `partitions`.
    pub fn incremental_unassign(&mut self, partitions: &Partitions, now: Instant) {
        if self.fatal || self.terminating {
            self.unassign_all();
        } else {
            for partition in partitions {
                if self.assignment.remove(partition) {
                    self.pending.remove(partition);
                    self.queried.remove(partition);
                    self.removed.insert(*partition);
                }
            }
            self.assignment_version += 1;
            if self.join_state == JoinState::WaitUnassignCall {
                self.set_lib_paused(false);
                self.join_state = JoinState::WaitIncrementalUnassign;
            }
            self.lost = false;
        }
        self.serve_assignment(now);
    }

    /// Closes the consumer: what is assigned is revoked through the callback, then the group is left.
    pub fn close(&mut self, now: Instant) {
        self.terminating = true;
        self.poll_watched = false;
        self.known_partitions = None;
        self.leads = None;
        self.leave_when_unassigned = !self.member_id.is_empty();
        if !self.lost {
            self.revoke_all(false);
        }
        if !self.waits_for_callback() {
            self.unassign_all();
        }
        self.serve_assignment(now);
    }

    // ---- the main thread

    /// Runs the timers.
    pub fn tick(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if self.terminating {
            return self.try_terminate();
        }
        if self.join_state == JoinState::Steady && self.session_ends.is_some_and(|ends| ends <= now) {
            self.session_ends = None;
            self.member_id.clear();
            self.lose_all();
        }
        if !self.coordinator && !self.looking_for_coordinator && self.coordinator_at <= now {
            self.looking_for_coordinator = true;
            self.send(Request::FindCoordinator);
        }
        self.expire_deferred(now);
        if self.poll_watched && !self.poll_exceeded && now > self.last_poll + self.settings.max_poll_interval {
            self.exceed_poll_interval();
        }
        if self.commit_at <= now {
            self.commit_at = now + self.settings.auto_commit_interval;
            if self.join_state == JoinState::Steady && !self.lost {
                let offsets = self.to_commit();
                if !offsets.is_empty() {
                    self.send_commit(offsets, None, now);
                }
            }
        }
        if self.statistics_at <= now {
            self.statistics_at = now + self.settings.statistics_interval;
            self.push_statistics();
        }
        if self.metadata_at <= now && !self.metadata_under_way {
            self.ask_metadata(now);
        }
        self.serve(now);
    }

    /// Sends what the present state asks for: a join, a heartbeat, fetches.
    pub fn serve(&mut self, now: Instant) {
        if self.fatal || self.terminating || self.closed {
            return;
        }
        match self.join_state {
            JoinState::Init if self.coordinator && !self.leaving && self.join_at.is_none_or(|at| at <= now) => {
                self.join(now);
            }
            JoinState::Steady | JoinState::WaitAssignCall | JoinState::WaitUnassignCall
                if self.coordinator && !self.heartbeat_under_way && !self.poll_exceeded && self.heartbeat_at <= now =>
            {
                self.heartbeat_at = now + self.settings.heartbeat_interval;
                self.heartbeat_under_way = true;
                let generation = self.generation;
                let request = Request::Heartbeat { generation };
                self.out.push(Outgoing::new(request, self.settings.session_timeout, &self.member_id));
            }
            _ => {}
        }
        self.fetch(now);
    }

    /// Handles the answer to a request.
    pub fn on_answer(&mut self, request: Request, outcome: Outcome, now: Instant) {
        if self.closed {
            return;
        }
        match outcome {
            Err(ErrorCode::Transport) => self.disconnected(&request, now),
            _ => self.connected = true,
        }
        match (request, outcome) {
            (Request::FindCoordinator, outcome) => {
                self.looking_for_coordinator = false;
                self.coordinator = outcome.is_ok();
                if self.coordinator {
                    for (_, request) in std::mem::take(&mut self.deferred) {
                        self.send(request);
                    }
                    self.serve_assignment(now);
                }
            }
            (Request::Metadata { purpose }, outcome) => self.on_metadata(purpose, outcome, now),
            (Request::Join { .. }, outcome) => self.on_join(outcome),
            (Request::Sync { .. }, outcome) => self.on_sync(outcome, now),
            (Request::Heartbeat { .. }, outcome) => self.on_heartbeat(outcome, now),
            (Request::Leave, _) => {
                self.leaving = false;
                self.try_terminate();
            }
            (request @ Request::Commit { .. }, outcome) => self.on_commit(request, outcome, now),
            (Request::OffsetFetch { partitions, assignment_version }, outcome) => {
                self.on_offsets(partitions, assignment_version, outcome, now);
            }
            (Request::ListOffsets { partition, version, .. }, outcome) => {
                let begin = if let Ok(Answer::Offset(begin)) = outcome { Some(begin) } else { None };
                if let Some(toppar) = self.toppars.get_mut(&partition) {
                    toppar.looked_up(version, begin, now + TICK);
                }
            }
            (Request::Fetch { from, .. }, outcome) => self.on_fetch(&from, outcome, now),
        }
        self.serve(now);
    }

    fn send(&mut self, request: Request) {
        let wait = match request {
            Request::Join { .. } => self.settings.max_poll_interval + Duration::from_secs(3),
            Request::Sync { .. } => self.settings.session_timeout + Duration::from_secs(3),
            _ => self.settings.socket_timeout,
        };
        self.out.push(Outgoing::new(request, wait, &self.member_id));
    }

    fn push(&mut self, event: Event) {
        self.queue.push_back(event);
        self.news.notify_one();
    }

    fn disconnected(&mut self, request: &Request, now: Instant) {
        if std::mem::take(&mut self.connected) {
            self.push(Event::Error { label: "BrokerTransportFailure", fatal: false });
            self.push(Event::Error { label: "AllBrokersDown", fatal: false });
        }
        let group = !matches!(
            request,
            Request::Fetch { .. } | Request::ListOffsets { .. } | Request::Metadata { .. } | Request::FindCoordinator
        );
        if group {
            self.coordinator = false;
        }
        self.coordinator_at = now + RETRY_EVERY;
    }

    fn fail(&mut self, label: &'static str) {
        self.fatal = true;
        self.push(Event::Error { label, fatal: true });
    }
}
