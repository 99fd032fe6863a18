//! Topic metadata and statistics.

use super::{Client, Event, JoinState};
use crate::kafka::assignor;
use crate::kafka::broker::TopicMetadata;
use crate::kafka::wire::{Answer, MetadataPurpose, Outcome, Request};
use tokio::time::Instant;

impl Client {
    pub(super) fn ask_metadata(&mut self, now: Instant) {
        self.metadata_at = now + self.settings.metadata_refresh_interval;
        self.metadata_under_way = true;
        self.send(Request::Metadata { purpose: MetadataPurpose::Subscription });
    }

    pub(super) fn on_metadata(&mut self, purpose: MetadataPurpose, outcome: Outcome, now: Instant) {
        if purpose == MetadataPurpose::Subscription {
            self.metadata_under_way = false;
        }
        let Ok(Answer::Metadata(found)) = outcome else {
            if self.join_state == JoinState::WaitMetadata && purpose != MetadataPurpose::Leader {
                self.join_state = JoinState::Init;
            }
            return;
        };
        self.note_topic(found, now);
        match purpose {
            MetadataPurpose::Leader => {}
            MetadataPurpose::Assignor => {
                let members = self.leads.as_ref().filter(|_| self.join_state == JoinState::WaitMetadata);
                let Some((generation, members)) = members else {
                    return;
                };
                let generation = *generation;
                let assignments = assignor::assign(members, found.map_or(0, |topic| topic.partitions));
                self.join_state = JoinState::WaitSync;
                self.send(Request::Sync { generation, assignments });
            }
            MetadataPurpose::Subscription => self.check_subscription(found),
        }
    }

    pub(super) fn note_topic(&mut self, found: Option<TopicMetadata>, now: Instant) {
        match found {
            Some(topic) => {
                (self.metadata, self.missing_since) = (found, None);
                // A lower one counts as out of date.
                self.leader_epoch = self.leader_epoch.max(topic.leader_epoch);
            }
            None => {
                // After `topic.metadata.propagation.max.ms` the partitions are destroyed, and their flags with them.
                let since = *self.missing_since.get_or_insert(now);
                if now >= since + self.settings.metadata_propagation {
                    self.toppars.retain(|_, toppar| toppar.assigned);
                    if self.toppars.is_empty() {
                        self.leader_epoch = 0;
                    }
                }
            }
        }
    }

    pub(super) fn check_subscription(&mut self, found: Option<TopicMetadata>) {
        let partitions = found.map(|topic| topic.partitions);
        let changed = self.known_partitions != partitions;
        self.known_partitions = partitions;
        let reported = std::mem::replace(&mut self.missing_reported, partitions.is_none());
        if partitions.is_none() && !reported {
            self.push(Event::Error { label: "UnknownTopicOrPartition", fatal: false });
        }
        let waited = self.join_state == JoinState::WaitMetadata;
        if self.terminating || (!changed && !waited) {
            return;
        }
        if partitions.is_none() && !self.group_assignment.is_empty() {
            self.lost = true;
            let rejoin = self.leads.is_some();
            self.call_revoke(self.group_assignment.clone(), rejoin);
        } else if waited || !self.rebalancing() {
            self.join_state = JoinState::Init;
            if waited && partitions.is_some() {
                self.join_at = None;
            }
        }
    }

    pub(super) fn push_statistics(&mut self) {
        let all = self.metadata.map_or(0, |topic| usize::try_from(topic.partitions).unwrap_or(0));
        let is_queued = |id: &i32| {
            self.queue.iter().any(|event| matches!(event, Event::Record { partition, .. } if partition == id))
        };
        let offsets = self.toppars.iter().map(|(id, toppar)| (*id, toppar.offsets(is_queued(id)))).collect();
        self.push(Event::Statistics { all, offsets });
    }
}
