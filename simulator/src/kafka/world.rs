//! The broker, its clients and the messages in transit between them, as one queue of events ordered by time.

use super::broker::{NewRecord, ProduceError, Topics};
use super::client::{Client, Outgoing, TICK};
use super::group::{Group, Return};
use super::settings::{BrokerSettings, MemberSettings};
use super::wire::{Answer, ClientId, Envelope, ErrorCode, FetchFrom, Outcome, Partitions, Request};
use dropgate_issuer::kafka::silence::Ends;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Faults that took effect: kind and place.
pub type FaultLog = Rc<RefCell<Vec<(&'static str, String)>>>;

/// Whether the broker can be reached, for everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Availability {
    #[default]
    Up,
    /// Connections fail. When the broker is up again, it reloads its groups.
    Down,
    /// The broker is suspended: requests wait until it continues.
    Hangs,
}

enum Event {
    Arrives(Envelope),
    Answered(Return, Outcome),
    TimedOut(Return),
    Tick(ClientId),
    Group(String),
    Unpark,
}

impl Event {
    fn client(&self) -> Option<ClientId> {
        match self {
            Self::Answered(to, _) | Self::TimedOut(to) => Some(to.client),
            Self::Tick(client) => Some(*client),
            Self::Arrives(_) | Self::Group(_) | Self::Unpark => None,
        }
    }
}

/// A client's process, and the network between it and the broker.
pub struct Process {
    pub client: Client,
    /// Stopped (SIGSTOP): nothing runs, events are held.
    pub frozen: bool,
    held: VecDeque<Event>,
    /// No message passes. Held messages are delivered when the link is restored, unless their request has timed out.
    cut: bool,
    held_out: Vec<Envelope>,
    held_in: Vec<(Return, Outcome)>,
    in_flight: BTreeMap<u64, Request>,
    last_arrival: Instant,
    last_answer: Instant,
}

pub struct World {
    pub settings: BrokerSettings,
    pub topics: Topics,
    pub processes: BTreeMap<ClientId, Process>,
    pub faults: FaultLog,
    pub latency: Box<dyn FnMut() -> Duration>,
    groups: BTreeMap<String, Group>,
    availability: Availability,
    begin: Instant,
    agenda: BTreeMap<(Instant, u64), Event>,
    group_at: BTreeMap<String, Instant>,
    sequence: u64,
    clients: ClientId,
    stalled: VecDeque<Envelope>,
    parked: Vec<(Instant, Envelope)>,
}

impl World {
    pub fn new(settings: BrokerSettings, now: Instant) -> Self {
        let topics = Topics::new(settings.max_record_bytes);
        Self {
            settings,
            topics,
            processes: BTreeMap::new(),
            faults: FaultLog::default(),
            latency: Box::new(|| Duration::from_millis(1)),
            groups: BTreeMap::new(),
            availability: Availability::Up,
            begin: now,
            agenda: BTreeMap::new(),
            group_at: BTreeMap::new(),
            sequence: 0,
            clients: 0,
            stalled: VecDeque::new(),
            parked: Vec::new(),
        }
    }

    pub fn now_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.begin).as_millis();
        self.settings.epoch_ms + u64::try_from(since).unwrap_or(u64::MAX)
    }

    pub fn log_fault(&self, kind: &'static str, place: impl Into<String>) {
        self.faults.borrow_mut().push((kind, place.into()));
    }

    /// Runs all events that are due. Returns the time of the next one.
    pub fn step(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let entry = self.agenda.first_entry()?;
            let at = entry.key().0;
            if at > now {
                return Some(at);
            }
            let event = entry.remove();
            self.handle(event, now);
        }
    }

    fn plan(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.agenda.insert((at, self.sequence), event);
    }

    fn handle(&mut self, event: Event, now: Instant) {
        if let Some(process) = event.client().and_then(|client| self.processes.get_mut(&client))
            && process.frozen
        {
            process.held.push_back(event);
            return;
        }
        match event {
            Event::Arrives(envelope) => self.arrives(envelope, now),
            Event::Answered(to, outcome) => self.answered(to, outcome, now),
            Event::TimedOut(to) => {
                let place = self.processes.get_mut(&to.client).and_then(|process| {
                    process.held_out.retain(|envelope| envelope.id != to.id);
                    process.in_flight.get(&to.id).map(Request::name)
                });
                if let Some(place) = place {
                    self.log_fault("kafka: no answer in time", place);
                    self.deliver(to, Err(ErrorCode::Transport), now);
                }
            }
            Event::Tick(client) => {
                let Some(process) = self.processes.get_mut(&client).filter(|process| !process.client.closed) else {
                    return;
                };
                process.client.tick(now);
                self.plan(now + TICK, Event::Tick(client));
                self.flush(client, now);
            }
            Event::Group(name) => {
                if self.group_at.get(&name).is_some_and(|at| *at <= now) {
                    self.group_at.remove(&name);
                    self.serve_group(&name, now);
                }
            }
            Event::Unpark => self.unpark(now),
        }
    }

    // ---- clients

    pub fn join(&mut self, topic: &str, settings: MemberSettings, now: Instant) -> ClientId {
        self.clients += 1;
        let id = self.clients;
        let process = Process {
            client: Client::new(id, topic, settings, now),
            frozen: false,
            held: VecDeque::new(),
            cut: false,
            held_out: Vec::new(),
            held_in: Vec::new(),
            in_flight: BTreeMap::new(),
            last_arrival: now,
            last_answer: now,
        };
        self.processes.insert(id, process);
        self.plan(now, Event::Tick(id));
        id
    }

    /// Sends the requests in a client's outbox.
    pub fn flush(&mut self, id: ClientId, now: Instant) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        for Outgoing { request, wait, member_id } in std::mem::take(&mut process.client.out) {
            self.sequence += 1;
            let settings = &process.client.settings;
            let envelope = Envelope {
                client: id,
                id: self.sequence,
                topic: process.client.topic.clone(),
                group: settings.group.clone(),
                member_id,
                instance_id: settings.instance_id.clone(),
                session_timeout: settings.session_timeout,
                rebalance_timeout: settings.max_poll_interval,
                request: request.clone(),
            };
            let to = Return::of(&envelope);
            process.in_flight.insert(envelope.id, request);
            self.sequence += 1;
            self.agenda.insert((now + wait, self.sequence), Event::TimedOut(to));
            if self.availability == Availability::Down {
                self.faults.borrow_mut().push(("kafka: down", envelope.request.name().to_owned()));
                let at = now + (self.latency)();
                self.sequence += 1;
                self.agenda.insert((at, self.sequence), Event::Answered(to, Err(ErrorCode::Transport)));
            } else if process.cut {
                self.faults.borrow_mut().push(("kafka: link cut", envelope.request.name().to_owned()));
                process.held_out.push(envelope);
            } else {
                // One connection keeps its order.
                let at = (now + (self.latency)()).max(process.last_arrival);
                process.last_arrival = at;
                self.sequence += 1;
                self.agenda.insert((at, self.sequence), Event::Arrives(envelope));
            }
        }
    }

    fn answered(&mut self, to: Return, outcome: Outcome, now: Instant) {
        if let Some(process) = self.processes.get_mut(&to.client)
            && process.cut
            && outcome != Err(ErrorCode::Transport)
        {
            process.held_in.push((to, outcome));
            return;
        }
        self.deliver(to, outcome, now);
    }

    fn deliver(&mut self, to: Return, outcome: Outcome, now: Instant) {
        let Some(process) = self.processes.get_mut(&to.client) else {
            return;
        };
        if let Some(request) = process.in_flight.remove(&to.id) {
            process.client.on_answer(request, outcome, now);
            self.flush(to.client, now);
        }
    }

    pub fn set_frozen(&mut self, id: ClientId, frozen: bool, now: Instant) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        process.frozen = frozen;
        if frozen {
            return self.log_fault("process: frozen", format!("member {id}"));
        }
        process.client.news.notify_one();
        for event in std::mem::take(&mut process.held) {
            self.plan(now, event);
        }
    }

    /// First and next offset of each of these partitions, if the client's process reaches the broker.
    pub fn ends(&self, id: ClientId, partitions: &Partitions) -> Option<BTreeMap<i32, Ends>> {
        let process = self.processes.get(&id).filter(|process| !process.frozen && !process.cut)?;
        let of = |partition: &i32| {
            let (begin, end) = self.topics.ends(&process.client.topic, *partition)?;
            Some((*partition, Ends { begin, end }))
        };
        if self.availability == Availability::Up { partitions.iter().map(of).collect() } else { None }
    }

    pub fn set_cut(&mut self, id: ClientId, cut: bool, now: Instant) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        process.cut = cut;
        if cut {
            return;
        }
        let (out, back) = (std::mem::take(&mut process.held_out), std::mem::take(&mut process.held_in));
        for envelope in out {
            self.plan(now, Event::Arrives(envelope));
        }
        for (to, outcome) in back {
            self.plan(now, Event::Answered(to, outcome));
        }
    }

    /// Ends a client's process without notice to the broker.
    pub fn kill(&mut self, id: ClientId) {
        if let Some(process) = self.processes.remove(&id)
            && !process.client.closed
        {
            self.log_fault("process: killed", format!("member {id}"));
        }
    }

    // ---- the broker

    pub fn availability(&self) -> Availability {
        self.availability
    }

    pub fn set_availability(&mut self, availability: Availability, now: Instant) {
        let before = std::mem::replace(&mut self.availability, availability);
        match (before, availability) {
            (_, Availability::Down) if before != Availability::Down => {
                self.stalled.clear();
                self.parked.clear();
                let of = |(client, process): (&ClientId, &Process)| {
                    process.in_flight.keys().map(|id| Return { client: *client, id: *id }).collect::<Vec<_>>()
                };
                let waiting: Vec<Return> = self.processes.iter().flat_map(of).collect();
                for to in waiting {
                    self.log_fault("kafka: down", "a request under way");
                    self.answer_later(to, Err(ErrorCode::Transport), now);
                }
                self.groups.values_mut().for_each(Group::crash);
            }
            (Availability::Down, _) => {
                self.topics.elect_leaders();
                self.groups.values_mut().for_each(|group| group.reload(now));
            }
            _ => {}
        }
        if availability == Availability::Up {
            for name in self.groups.keys().cloned().collect::<Vec<_>>() {
                self.serve_group(&name, now);
            }
            for envelope in std::mem::take(&mut self.stalled) {
                self.process(envelope, now);
            }
            self.unpark(now);
        }
    }

    pub fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }

    pub fn delete_topic(&mut self, name: &str, now: Instant) -> bool {
        let deleted = self.topics.delete(name);
        if deleted {
            self.log_fault("kafka: topic deleted", name);
            if !self.settings.offsets_outlive_topic {
                self.groups.values_mut().for_each(|group| group.forget_topic(name));
            }
            self.unpark(now);
        }
        deleted
    }

    /// Appends a record and answers fetches that wait for records.
    ///
    /// # Errors
    /// [`ProduceError`]
    pub fn produce(&mut self, topic: &str, record: NewRecord, now: Instant) -> Result<(i32, i64), ProduceError> {
        let now_ms = self.now_ms(now);
        let place = self.topics.produce(topic, record, now_ms)?;
        self.unpark(now);
        Ok(place)
    }

    fn answer_later(&mut self, to: Return, outcome: Outcome, now: Instant) {
        let mut at = now + (self.latency)();
        if let Some(process) = self.processes.get_mut(&to.client) {
            at = at.max(process.last_answer);
            process.last_answer = at;
        }
        self.plan(at, Event::Answered(to, outcome));
    }

    fn arrives(&mut self, envelope: Envelope, now: Instant) {
        match self.availability {
            Availability::Up => self.process(envelope, now),
            Availability::Down => {
                self.log_fault("kafka: down", envelope.request.name());
                self.answer_later(Return::of(&envelope), Err(ErrorCode::Transport), now);
            }
            Availability::Hangs => {
                self.log_fault("kafka: hangs", envelope.request.name());
                self.stalled.push_back(envelope);
            }
        }
    }

    fn process(&mut self, envelope: Envelope, now: Instant) {
        let to = Return::of(&envelope);
        let topic = self.topics.metadata(&envelope.topic);
        let outcome = match &envelope.request {
            Request::FindCoordinator => Ok(Answer::Coordinator),
            Request::Metadata { .. } => Ok(Answer::Metadata(topic)),
            Request::ListOffsets { partition, leader_epoch, .. } => {
                let ends = self.topics.ends(&envelope.topic, *partition);
                let wrong_epoch = topic.and_then(|topic| wrong_epoch(*leader_epoch, topic.leader_epoch));
                match (ends, wrong_epoch) {
                    (None, _) => Err(ErrorCode::UnknownTopicOrPartition),
                    (_, Some(error)) => Err(error),
                    (Some((begin, _)), None) => Ok(Answer::Offset(begin)),
                }
            }
            Request::Fetch { .. } => {
                self.fetch(envelope, now);
                return;
            }
            Request::Commit { .. } if topic.is_none() => Err(ErrorCode::UnknownTopicOrPartition),
            _ => {
                let (name, delay) = (envelope.group.clone(), self.settings.initial_rebalance_delay);
                let answers = self.group(&name).handle(envelope, delay, now);
                for (to, outcome) in answers {
                    self.answer_later(to, outcome, now);
                }
                self.plan_group(&name, now);
                return;
            }
        };
        self.answer_later(to, outcome, now);
    }

    fn serve_group(&mut self, name: &str, now: Instant) {
        if self.availability != Availability::Up {
            return;
        }
        let group = self.group(name);
        let answers = group.serve(now);
        for id in std::mem::take(&mut group.expired) {
            self.log_fault("kafka: session ended", id);
        }
        for (to, outcome) in answers {
            self.answer_later(to, outcome, now);
        }
        self.plan_group(name, now);
    }

    fn plan_group(&mut self, name: &str, now: Instant) {
        let Some(at) = self.group(name).next_at().map(|at| at.max(now)) else {
            return;
        };
        if self.group_at.get(name).is_none_or(|planned| *planned > at) {
            self.group_at.insert(name.to_owned(), at);
            self.plan(at, Event::Group(name.to_owned()));
        }
    }

    fn fetch(&mut self, envelope: Envelope, now: Instant) {
        let Request::Fetch { wait, .. } = envelope.request else {
            return;
        };
        match self.read(&envelope, false) {
            Some(answer) => self.answer_later(Return::of(&envelope), Ok(answer), now),
            None => {
                self.parked.push((now + wait, envelope));
                self.plan(now + wait, Event::Unpark);
            }
        }
    }

    /// Answers the waiting fetches that have records or errors, and those whose wait is over.
    fn unpark(&mut self, now: Instant) {
        if self.availability != Availability::Up {
            return;
        }
        for (until, envelope) in std::mem::take(&mut self.parked) {
            match self.read(&envelope, until <= now) {
                Some(answer) => self.answer_later(Return::of(&envelope), Ok(answer), now),
                None => self.parked.push((until, envelope)),
            }
        }
    }

    fn read(&self, envelope: &Envelope, even_if_empty: bool) -> Option<Answer> {
        let Request::Fetch { topic_id, leader_epoch, from, .. } = &envelope.request else {
            return None;
        };
        let current = self.topics.metadata(&envelope.topic).filter(|topic| topic.id == *topic_id);
        let wrong_epoch = match current {
            None => Some(ErrorCode::UnknownTopicId),
            Some(topic) => wrong_epoch(*leader_epoch, topic.leader_epoch),
        };
        let mut answer = BTreeMap::new();
        let mut worth = even_if_empty;
        for FetchFrom { partition, offset, .. } in from {
            let slice = self.topics.read(&envelope.topic, *partition, *offset, self.settings.fetch_records);
            let result = match (slice, wrong_epoch.clone()) {
                (_, Some(error)) => Err(error),
                (None, _) => Err(ErrorCode::UnknownTopicOrPartition),
                (Some(slice), _) if *offset < slice.start || *offset > slice.end => Err(ErrorCode::OffsetOutOfRange),
                (Some(slice), _) => Ok(slice),
            };
            worth |= result.as_ref().map_or(true, |slice| !slice.records.is_empty());
            answer.insert(*partition, result);
        }
        worth.then_some(Answer::Fetched(answer))
    }
}

/// What is wrong with the leader epoch of a request, if it is.
fn wrong_epoch(asked: i32, current: i32) -> Option<ErrorCode> {
    match asked.cmp(&current) {
        Ordering::Less => Some(ErrorCode::FencedLeaderEpoch),
        Ordering::Equal => None,
        Ordering::Greater => Some(ErrorCode::UnknownLeaderEpoch),
    }
}
