//! The assignment that the application has accepted, and its changes.

use super::{Client, Event, JoinState};
use crate::kafka::toppar::Toppar;
use crate::kafka::wire::{Answer, Outcome, Partitions, Request};
use std::collections::BTreeMap;
use tokio::time::Instant;

impl Client {
    pub(super) fn set_lib_paused(&mut self, paused: bool) {
        for partition in &self.assignment {
            if let Some(toppar) = self.toppars.get_mut(partition) {
                if paused { toppar.pause(false) } else { toppar.resume(false) }
            }
        }
        self.purge();
    }

    /// Takes out of the queue what a barrier has made void.
    pub(super) fn purge(&mut self) {
        let toppars = &self.toppars;
        self.queue.retain(|event| match event {
            Event::Record { partition, version, .. } => {
                toppars.get(partition).is_some_and(|toppar| toppar.version == *version)
            }
            _ => true,
        });
    }

    pub(super) fn unassign_all(&mut self) {
        self.pending.clear();
        self.queried.clear();
        if !self.assignment.is_empty() {
            self.removed.append(&mut self.assignment);
            self.assignment_version += 1;
        }
        if self.join_state == JoinState::WaitUnassignCall {
            self.join_state = JoinState::WaitUnassign;
        }
        self.lost = false;
    }

    pub(super) fn serve_assignment(&mut self, now: Instant) {
        let mut last_stored = BTreeMap::new();
        for partition in std::mem::take(&mut self.removed) {
            let stored = self.toppars.get_mut(&partition).and_then(Toppar::remove);
            last_stored.extend(stored.map(|stored| (partition, stored)));
        }
        self.purge();
        if !last_stored.is_empty() && !self.lost {
            self.send_commit(last_stored, None, now);
        }
        if self.commits == 0 && !self.pending.is_empty() && self.coordinator && self.queried.is_empty() {
            self.queried = std::mem::take(&mut self.pending);
            let (partitions, assignment_version) = (self.queried.clone(), self.assignment_version);
            self.send(Request::OffsetFetch { partitions, assignment_version });
        }
        if self.pending.is_empty() && self.queried.is_empty() && self.commits == 0 {
            self.assignment_done(now);
        }
    }

    pub(super) fn assignment_done(&mut self, now: Instant) {
        match self.join_state {
            JoinState::WaitUnassign => {
                self.leave_if_asked();
                if !self.terminating {
                    self.rejoin_now();
                }
            }
            JoinState::WaitIncrementalUnassign if self.terminating => self.unassign_all(),
            JoinState::WaitIncrementalUnassign => match self.next_assign.take() {
                Some(partitions) => self.call_assign(partitions, true),
                None if std::mem::take(&mut self.rejoin) => self.rejoin_now(),
                None => self.join_state = JoinState::Steady,
            },
            JoinState::Steady if !self.terminating && std::mem::take(&mut self.rejoin) => self.rejoin_now(),
            _ => {}
        }
        self.try_terminate();
        self.serve(now);
    }

    pub(super) fn rejoin_now(&mut self) {
        self.join_at = None;
        self.join_state = JoinState::Init;
    }

    pub(super) fn leave_if_asked(&mut self) {
        if std::mem::take(&mut self.leave_when_unassigned) && self.settings.instance_id.is_none() {
            self.leave();
            self.member_id.clear();
        }
    }

    pub(super) fn try_terminate(&mut self) {
        if !self.terminating || self.closed || self.waits_for_callback() {
            return;
        }
        let busy = !self.assignment.is_empty() || !self.removed.is_empty() || self.commits > 0;
        if !busy && !self.leaving {
            self.closed = true;
            self.news.notify_one();
        }
    }

    pub(super) fn on_offsets(
        &mut self,
        partitions: Partitions,
        assignment_version: u64,
        outcome: Outcome,
        now: Instant,
    ) {
        match outcome {
            Ok(Answer::Offsets(offsets)) => {
                for (partition, offset) in offsets {
                    if self.queried.remove(&partition)
                        && let Some(toppar) = self.toppars.get_mut(&partition)
                    {
                        toppar.start(offset);
                    }
                }
                self.serve_assignment(now);
            }
            // Sent again as it is, unless the assignment has changed meanwhile. Then librdkafka gives up, and the
            // partitions stay among those that are asked for (rdkafka_assignment.c
            // `rd_kafka_assignment_handle_OffsetFetch`: it returns before `apply_offsets`).
            _ if assignment_version != self.assignment_version && self.settings.lost_offset_fetch_hangs => {
                self.push(Event::Error { label: "OffsetFetch", fatal: false });
            }
            _ => {
                self.queried.retain(|partition| !partitions.contains(partition));
                self.pending.extend(partitions.intersection(&self.assignment));
            }
        }
    }
}
