//! The broker's side of a consumer group: the classic protocol, as a state machine without I/O.
//!
//! | rule | source (apache/kafka 4.x, group-coordinator `GroupMetadataManager.java` unless noted) |
//! |---|---|
//! | a dynamic member receives an id first, and joins with it | KIP-394; `classicGroupJoinNewDynamicMember` |
//! | a join puts the group into preparation; it ends when all members have joined again, or after the longest `max.poll.interval.ms` among them, without those who have not | `prepareRebalance`, `completeClassicGroupJoin` |
//! | an empty group waits `group.initial.rebalance.delay.ms` for others first | `tryCompleteInitialRebalanceElseSchedule` |
//! | the leader is the first to join, and stays | `ClassicGroup.maybeElectNewJoinedLeader` |
//! | followers wait in sync until the leader has sent the assignment | `classicGroupSync` |
//! | a heartbeat in preparation is answered "rebalance in progress"; it counts all the same | `classicGroupHeartbeat` |
//! | a member without a heartbeat for its `session.timeout.ms` is removed, unless it waits in join or sync | `expireClassicGroupMemberHeartbeat`, `ClassicGroupMember.hasSatisfiedHeartbeat` |
//! | a member with the instance id of another replaces it at once; in a stable group no partition moves; the older one is fenced | KIP-345; `updateStaticMemberThenRebalanceOrCompleteJoin` |
//! | static members that have not joined again in time stay until their session ends | `completeClassicGroupJoin` |
//! | a commit needs a valid member and generation, and is rejected between join and sync; a group without members accepts it from any client | `ClassicGroup.validateOffsetCommit` |
//! | a commit counts as a heartbeat | as above |

use super::wire::{Answer, ClientId, Envelope, ErrorCode, MemberInfo, Outcome, Partitions, Request, Subscription};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return {
    pub client: ClientId,
    pub id: u64,
}

impl Return {
    pub fn of(envelope: &Envelope) -> Self {
        Self { client: envelope.client, id: envelope.id }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Empty,
    Preparing,
    Completing,
    Stable,
}

#[derive(Debug)]
struct Member {
    instance_id: Option<String>,
    subscription: Subscription,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    expires: Instant,
    in_join: Option<Return>,
    in_sync: Option<Return>,
    assignment: Partitions,
}

/// A group and the offsets it has committed.
#[derive(Debug, Default)]
pub struct Group {
    pub state: State,
    pub generation: i32,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// In the order of joining.
    order: Vec<String>,
    instances: BTreeMap<String, String>,
    /// Ids that were handed out and not yet used.
    pending: BTreeMap<String, Instant>,
    ids: u64,
    ready_at: Option<Instant>,
    give_up_at: Option<Instant>,
    offsets: BTreeMap<(String, i32), i64>,
    /// Members whose session has expired, for the fault log.
    pub expired: Vec<String>,
    outbox: Vec<(Return, Outcome)>,
}

impl Group {
    /// Handles a request. Returns the answers that can be sent now.
    pub fn handle(&mut self, envelope: Envelope, initial_delay: Duration, now: Instant) -> Vec<(Return, Outcome)> {
        let to = Return::of(&envelope);
        let answer = match &envelope.request {
            Request::Join { .. } => self.join(envelope, initial_delay, now),
            Request::Sync { generation, assignments } => self.sync(&envelope, *generation, assignments, now),
            Request::Heartbeat { generation } => Some(self.heartbeat(&envelope, *generation, now)),
            Request::Leave => {
                self.remove(&envelope.member_id, now);
                Some(Ok(Answer::Done))
            }
            Request::Commit { generation, offsets, .. } => Some(self.commit(&envelope, *generation, offsets, now)),
            Request::OffsetFetch { partitions, .. } => {
                let offset = |partition: &i32| (*partition, self.committed(&envelope.topic, *partition));
                Some(Ok(Answer::Offsets(partitions.iter().map(offset).collect())))
            }
            _ => None,
        };
        self.outbox.extend(answer.map(|answer| (to, answer)));
        std::mem::take(&mut self.outbox)
    }

    /// Expires sessions and waits. Returns the answers that can be sent now.
    pub fn serve(&mut self, now: Instant) -> Vec<(Return, Outcome)> {
        self.pending.retain(|_, until| *until > now);
        let silent = |member: &Member| member.in_join.is_none() && member.in_sync.is_none() && member.expires <= now;
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| silent(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id, now);
            self.expired.push(id);
        }
        if self.state == State::Preparing {
            if self.ready_at.is_some_and(|at| at <= now) {
                self.ready_at = None;
            }
            if self.give_up_at.is_some_and(|at| at <= now) {
                self.complete(now);
            } else {
                self.complete_if_all_joined(now);
            }
        }
        std::mem::take(&mut self.outbox)
    }

    /// When [`Group::serve`] has to run next.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let sessions = self.members.values().filter(|m| m.in_join.is_none() && m.in_sync.is_none()).map(|m| m.expires);
        let waits = [self.ready_at, self.give_up_at].into_iter().flatten();
        sessions.chain(waits.filter(|_| self.state == State::Preparing)).chain(self.pending.values().copied()).min()
    }

    /// The broker has crashed: a rebalance in progress is lost, and the last stable state will be loaded. Members that
    /// were not part of it have to join again.
    pub fn crash(&mut self) {
        if self.state == State::Completing {
            self.generation -= 1;
        }
        for member in self.members.values_mut() {
            (member.in_join, member.in_sync) = (None, None);
        }
        if matches!(self.state, State::Preparing | State::Completing) {
            let members = &mut self.members;
            members.retain(|_, member| !member.assignment.is_empty());
            self.order.retain(|id| members.contains_key(id));
            self.instances.retain(|_, id| members.contains_key(id));
            self.leader = self.order.first().cloned();
            self.state = if members.is_empty() { State::Empty } else { State::Stable };
        }
        self.pending.clear();
        (self.ready_at, self.give_up_at) = (None, None);
        self.outbox.clear();
    }

    /// The broker has loaded the group: every session starts again.
    pub fn reload(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.expires = now + member.session_timeout;
        }
    }

    #[must_use]
    pub fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.offsets.get(&(topic.to_owned(), partition)).copied()
    }

    /// Sets an offset, as an administrator can.
    pub fn set_offset(&mut self, topic: &str, partition: i32, offset: i64) {
        self.offsets.insert((topic.to_owned(), partition), offset);
    }

    pub fn forget_topic(&mut self, topic: &str) {
        self.offsets.retain(|(of, _), _| of != topic);
    }

    /// Members and what each has, for oracles.
    #[must_use]
    pub fn assignment(&self) -> BTreeMap<String, Partitions> {
        self.members.iter().map(|(id, member)| (id.clone(), member.assignment.clone())).collect()
    }

    fn join(&mut self, envelope: Envelope, initial_delay: Duration, now: Instant) -> Option<Outcome> {
        let to = Return::of(&envelope);
        let Request::Join { subscription } = envelope.request else {
            return None;
        };
        let mut member = Member {
            instance_id: envelope.instance_id.clone(),
            subscription,
            session_timeout: envelope.session_timeout,
            rebalance_timeout: envelope.rebalance_timeout,
            expires: now + envelope.session_timeout,
            in_join: Some(to),
            in_sync: None,
            assignment: Partitions::new(),
        };
        let id = envelope.member_id;
        if let Some(instance_id) = envelope.instance_id {
            match self.instances.get(&instance_id).cloned() {
                Some(old) if id.is_empty() => return self.replace(&old, instance_id, member, now),
                Some(known) if known != id => return Some(Err(ErrorCode::FencedInstanceId)),
                Some(_) => {}
                None if id.is_empty() => {
                    let id = self.new_id(&instance_id);
                    self.instances.insert(instance_id, id.clone());
                    self.add(id, member, initial_delay, now);
                    return None;
                }
                None => return Some(Err(ErrorCode::UnknownMemberId)),
            }
        } else if id.is_empty() {
            let id = self.new_id("member");
            self.pending.insert(id.clone(), now + member.session_timeout);
            return Some(Err(ErrorCode::MemberIdRequired(id)));
        } else if self.pending.remove(&id).is_some() {
            self.add(id, member, initial_delay, now);
            return None;
        }
        let Some(known) = self.members.get_mut(&id) else {
            return Some(Err(ErrorCode::UnknownMemberId));
        };
        let same = known.subscription == member.subscription;
        let leads = self.leader.as_ref() == Some(&id);
        match self.state {
            State::Completing if same => return Some(Ok(self.joined(&id))),
            State::Stable if same && !leads => return Some(Ok(self.joined(&id))),
            State::Empty => return Some(Err(ErrorCode::UnknownMemberId)),
            _ => {}
        }
        member.assignment = std::mem::take(&mut known.assignment);
        *known = member;
        self.prepare(now);
        None
    }

    fn new_id(&mut self, prefix: &str) -> String {
        self.ids += 1;
        format!("{prefix}-{:06}", self.ids)
    }

    fn add(&mut self, id: String, member: Member, initial_delay: Duration, now: Instant) {
        if self.state == State::Empty && !initial_delay.is_zero() {
            self.ready_at = Some(now + initial_delay);
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.order.push(id.clone());
        self.members.insert(id, member);
        self.prepare(now);
    }

    /// A process with this instance id has started again.
    fn replace(&mut self, old: &str, instance_id: String, member: Member, now: Instant) -> Option<Outcome> {
        let to = member.in_join;
        let id = self.new_id(&instance_id);
        let mut before = self.members.remove(old)?;
        let waiting = [before.in_join.take(), before.in_sync.take()];
        self.outbox.extend(waiting.into_iter().flatten().map(|to| (to, Err(ErrorCode::FencedInstanceId))));
        self.instances.insert(instance_id, id.clone());
        self.order.iter_mut().filter(|one| *one == old).for_each(|one| one.clone_from(&id));
        let led = self.leader.as_deref() == Some(old);
        if led {
            self.leader = Some(id.clone());
        }
        let stable = self.state == State::Stable;
        let in_join = if stable { None } else { to };
        self.members.insert(id.clone(), Member { assignment: before.assignment, in_join, ..member });
        if stable {
            // A leader that restarts becomes a follower for this generation: the assignment exists (KIP-814).
            return Some(Ok(Answer::Joined { member_id: id, generation: self.generation, members: Vec::new() }));
        }
        self.prepare(now);
        None
    }

    fn prepare(&mut self, now: Instant) {
        if self.state == State::Completing {
            for member in self.members.values_mut() {
                let waiting = member.in_sync.take();
                self.outbox.extend(waiting.map(|to| (to, Err(ErrorCode::RebalanceInProgress))));
            }
        }
        if self.state != State::Preparing {
            self.state = State::Preparing;
            let longest = self.members.values().map(|member| member.rebalance_timeout).max();
            self.give_up_at = longest.map(|longest| now + longest);
        }
        self.complete_if_all_joined(now);
    }

    fn complete_if_all_joined(&mut self, now: Instant) {
        let all = self.members.values().all(|member| member.in_join.is_some()) && self.pending.is_empty();
        if self.state == State::Preparing && all && self.ready_at.is_none() {
            self.complete(now);
        }
    }

    fn complete(&mut self, now: Instant) {
        let late = |member: &Member| member.in_join.is_none() && member.instance_id.is_none();
        self.members.retain(|_, member| !late(member));
        self.order.retain(|id| self.members.contains_key(id));
        (self.ready_at, self.give_up_at) = (None, None);
        self.generation += 1;
        let joined = |id: &String| self.members.get(id).is_some_and(|member| member.in_join.is_some());
        if !self.leader.as_ref().is_some_and(&joined) {
            self.leader = self.order.iter().find(|id| joined(id)).cloned();
        }
        if self.members.is_empty() {
            (self.state, self.leader) = (State::Empty, None);
            return;
        }
        if self.leader.is_none() {
            // Only static members, none of which has joined: they stay until their sessions expire.
            self.state = State::Stable;
            return;
        }
        self.state = State::Completing;
        for id in self.order.clone() {
            let answer = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id)
                && let Some(to) = member.in_join.take()
            {
                member.expires = now + member.session_timeout;
                self.outbox.push((to, Ok(answer)));
            }
        }
    }

    fn joined(&self, id: &str) -> Answer {
        let leads = self.leader.as_deref() == Some(id);
        let of = |(id, member): (&String, &Member)| MemberInfo {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            subscription: member.subscription.clone(),
        };
        let by_order = self.order.iter().filter_map(|id| self.members.get_key_value(id));
        let members = if leads { by_order.map(of).collect() } else { Vec::new() };
        Answer::Joined { member_id: id.to_owned(), generation: self.generation, members }
    }

    fn sync(
        &mut self,
        envelope: &Envelope,
        generation: i32,
        assignments: &BTreeMap<String, Partitions>,
        now: Instant,
    ) -> Option<Outcome> {
        if let Err(error) = self.known(envelope, generation) {
            return Some(Err(error));
        }
        let leads = self.leader.as_ref() == Some(&envelope.member_id);
        let member = self.members.get_mut(&envelope.member_id)?;
        member.expires = now + member.session_timeout;
        match self.state {
            State::Empty => Some(Err(ErrorCode::UnknownMemberId)),
            State::Preparing => Some(Err(ErrorCode::RebalanceInProgress)),
            State::Stable => Some(Ok(Answer::Synced(member.assignment.clone()))),
            State::Completing => {
                member.in_sync = Some(Return::of(envelope));
                if leads {
                    self.state = State::Stable;
                    for (id, member) in &mut self.members {
                        member.assignment = assignments.get(id).cloned().unwrap_or_default();
                        if let Some(to) = member.in_sync.take() {
                            member.expires = now + member.session_timeout;
                            self.outbox.push((to, Ok(Answer::Synced(member.assignment.clone()))));
                        }
                    }
                }
                None
            }
        }
    }

    fn heartbeat(&mut self, envelope: &Envelope, generation: i32, now: Instant) -> Outcome {
        self.known(envelope, generation)?;
        if let Some(member) = self.members.get_mut(&envelope.member_id) {
            member.expires = now + member.session_timeout;
        }
        if self.state == State::Preparing { Err(ErrorCode::RebalanceInProgress) } else { Ok(Answer::Done) }
    }

    fn commit(&mut self, envelope: &Envelope, generation: i32, offsets: &BTreeMap<i32, i64>, now: Instant) -> Outcome {
        if generation >= 0 || !self.members.is_empty() {
            self.known(envelope, generation)?;
            if let Some(member) = self.members.get_mut(&envelope.member_id) {
                member.expires = now + member.session_timeout;
            }
            if self.state == State::Completing {
                return Err(ErrorCode::RebalanceInProgress);
            }
        }
        for (partition, offset) in offsets {
            self.set_offset(&envelope.topic, *partition, *offset);
        }
        Ok(Answer::Committed(BTreeMap::new()))
    }

    fn known(&self, envelope: &Envelope, generation: i32) -> Result<(), ErrorCode> {
        let current = envelope.instance_id.as_ref().and_then(|instance_id| self.instances.get(instance_id));
        if current.is_some_and(|current| *current != envelope.member_id) {
            return Err(ErrorCode::FencedInstanceId);
        }
        if !self.members.contains_key(&envelope.member_id) {
            return Err(ErrorCode::UnknownMemberId);
        }
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    fn remove(&mut self, id: &str, now: Instant) {
        self.pending.remove(id);
        let Some(member) = self.members.remove(id) else {
            return self.complete_if_all_joined(now);
        };
        if let Some(instance_id) = member.instance_id {
            self.instances.remove(&instance_id);
        }
        self.order.retain(|one| one != id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.order.first().cloned();
        }
        match self.state {
            State::Stable | State::Completing => self.prepare(now),
            State::Preparing => self.complete_if_all_joined(now),
            State::Empty => {}
        }
    }
}
