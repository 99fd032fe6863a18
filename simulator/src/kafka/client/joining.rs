//! The group protocol: join, sync, heartbeat, leave, and the loss of the session.

use super::{Client, Event, JOIN_EVERY, JoinState};
use crate::kafka::wire::{Answer, ErrorCode, MetadataPurpose, Outcome, Partitions, Request, Subscription};
use std::collections::BTreeMap;
use tokio::time::Instant;

impl Client {
    pub(super) fn join(&mut self, now: Instant) {
        if self.poll_exceeded && now > self.last_poll + self.settings.max_poll_interval {
            return;
        }
        self.poll_exceeded = false;
        self.join_at = Some(now + JOIN_EVERY);
        if self.known_partitions.is_none() {
            if !self.metadata_under_way {
                self.join_state = JoinState::WaitMetadata;
                self.ask_metadata(now);
            }
            return;
        }
        self.join_state = JoinState::WaitJoin;
        let subscription =
            Subscription { owned: self.group_assignment.clone(), owned_generation: self.owned_generation };
        self.send(Request::Join { subscription });
    }

    pub(super) fn on_join(&mut self, outcome: Outcome) {
        if self.terminating || self.join_state != JoinState::WaitJoin {
            return;
        }
        match outcome {
            Ok(Answer::Joined { member_id, generation, members }) => {
                self.member_id = member_id;
                self.generation = generation;
                self.leads = None;
                if members.is_empty() {
                    self.join_state = JoinState::WaitSync;
                    self.send(Request::Sync { generation, assignments: BTreeMap::new() });
                } else {
                    self.leads = Some((generation, members));
                    self.join_state = JoinState::WaitMetadata;
                    self.send(Request::Metadata { purpose: MetadataPurpose::Assignor });
                }
            }
            Err(ErrorCode::FencedInstanceId) => {
                self.fail("FencedInstanceId");
                self.join_state = JoinState::Init;
            }
            Err(ErrorCode::MemberIdRequired(member_id)) => {
                self.member_id = member_id;
                self.join_at = None;
                self.revoke_all(true);
            }
            Err(ErrorCode::IllegalGeneration) => {
                self.generation = -1;
                self.revoke_all(true);
            }
            Err(error) => {
                if error == ErrorCode::UnknownMemberId {
                    self.member_id.clear();
                }
                self.join_state = JoinState::Init;
            }
            Ok(_) => self.join_state = JoinState::Init,
        }
    }

    pub(super) fn on_sync(&mut self, outcome: Outcome, now: Instant) {
        if self.join_state != JoinState::WaitSync || self.terminating {
            return;
        }
        match outcome {
            Ok(Answer::Synced(partitions)) => {
                self.session_ends = Some(now + self.settings.session_timeout);
                self.owned_generation = self.generation;
                let gone: Partitions = self.group_assignment.difference(&partitions).copied().collect();
                let new: Partitions = partitions.difference(&self.group_assignment).copied().collect();
                if gone.is_empty() {
                    self.call_assign(new, false);
                } else {
                    self.next_assign = Some(new);
                    self.call_revoke(gone, false);
                }
            }
            Err(ErrorCode::FencedInstanceId) => {
                self.fail("FencedInstanceId");
                self.join_state = JoinState::Init;
            }
            Err(ErrorCode::IllegalGeneration) => {
                self.generation = -1;
                self.revoke_all(true);
            }
            Err(ErrorCode::UnknownMemberId) => {
                self.member_id.clear();
                self.revoke_all(true);
            }
            _ => self.join_state = JoinState::Init,
        }
    }

    pub(super) fn on_heartbeat(&mut self, outcome: Outcome, now: Instant) {
        self.heartbeat_under_way = false;
        let extend = |ends: Instant| ends.max(now + self.settings.session_timeout);
        match outcome {
            Ok(_) => self.session_ends = self.session_ends.map(extend),
            Err(_)
                if matches!(
                    self.join_state,
                    JoinState::Init | JoinState::WaitMetadata | JoinState::WaitJoin | JoinState::WaitSync
                ) => {}
            Err(ErrorCode::RebalanceInProgress) => {
                self.session_ends = self.session_ends.map(extend);
                if !self.rebalancing() {
                    self.join_state = JoinState::Init;
                }
            }
            Err(ErrorCode::UnknownMemberId) => {
                self.member_id.clear();
                self.lose_all();
            }
            Err(ErrorCode::IllegalGeneration) => {
                self.generation = -1;
                self.lose_all();
            }
            Err(ErrorCode::FencedInstanceId) => {
                self.fail("FencedInstanceId");
                self.lose_all();
            }
            Err(_) => {}
        }
    }

    pub(super) fn exceed_poll_interval(&mut self) {
        self.push(Event::Error { label: "MaxPollExceeded", fatal: false });
        (self.poll_exceeded, self.poll_watched) = (true, false);
        if self.settings.instance_id.is_none() {
            self.leave();
        }
        self.member_id.clear();
        self.lose_all();
    }

    pub(super) fn leave(&mut self) {
        if !self.leaving {
            self.leaving = self.coordinator;
            if self.coordinator {
                self.send(Request::Leave);
            }
        }
    }

    pub(super) fn waits_for_callback(&self) -> bool {
        matches!(self.join_state, JoinState::WaitAssignCall | JoinState::WaitUnassignCall)
    }

    pub(super) fn rebalancing(&self) -> bool {
        let waits =
            matches!(self.join_state, JoinState::WaitJoin | JoinState::WaitMetadata) && !self.member_id.is_empty();
        let busy = matches!(
            self.join_state,
            JoinState::WaitSync | JoinState::WaitUnassign | JoinState::WaitIncrementalUnassign
        );
        waits || busy || self.waits_for_callback() || self.next_assign.is_some() || self.rejoin
    }

    pub(super) fn lose_all(&mut self) {
        if !self.rebalancing() {
            self.revoke_all(true);
        }
    }

    pub(super) fn revoke_all(&mut self, lost: bool) {
        if self.group_assignment.is_empty() {
            if !self.terminating {
                self.join_state = JoinState::Init;
            }
            return;
        }
        self.lost |= lost;
        self.call_revoke(self.group_assignment.clone(), !self.terminating);
    }

    pub(super) fn call_assign(&mut self, partitions: Partitions, rejoin: bool) {
        self.group_assignment.extend(&partitions);
        self.call(JoinState::WaitAssignCall, Event::Assign(partitions), rejoin);
    }

    pub(super) fn call_revoke(&mut self, partitions: Partitions, rejoin: bool) {
        self.group_assignment.retain(|partition| !partitions.contains(partition));
        self.call(JoinState::WaitUnassignCall, Event::Revoke(partitions), rejoin);
    }

    pub(super) fn call(&mut self, join_state: JoinState, event: Event, rejoin: bool) {
        self.rejoin = rejoin;
        if self.fatal {
            return self.unassign_all();
        }
        self.join_state = join_state;
        self.set_lib_paused(true);
        self.push(event);
    }
}
