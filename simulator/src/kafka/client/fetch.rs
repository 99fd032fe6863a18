//! Fetching records into the local queue.

use super::{Client, Event};
use crate::kafka::toppar::{Fetching, Toppar};
use crate::kafka::wire::{Answer, ErrorCode, FetchFrom, MetadataPurpose, Outcome, Request};
use std::time::Duration;
use tokio::time::Instant;

/// `fetch.error.backoff.ms`
const AFTER_ERROR: Duration = Duration::from_millis(500);

impl Client {
    /// Asks for records and, where a partition has no first offset yet, for that.
    pub(super) fn fetch(&mut self, now: Instant) {
        let leader_epoch = self.leader_epoch;
        for (partition, toppar) in &mut self.toppars {
            if let Fetching::Lookup(at) = toppar.fetching
                && at.is_none_or(|at| at <= now)
            {
                toppar.fetching = Fetching::LookedUp;
                let request = Request::ListOffsets { partition: *partition, version: toppar.version, leader_epoch };
                self.out.push(super::Outgoing::new(request, self.settings.socket_timeout, &self.member_id));
            }
        }
        let room = self.queue.len() < self.settings.queued_min_messages;
        let Some(topic) = self.metadata.filter(|_| room && !self.fetching && self.fetch_at <= now) else {
            return;
        };
        let from = |(partition, toppar): (&i32, &mut Toppar)| {
            let offset = toppar.fetch_from(now)?;
            Some(FetchFrom { partition: *partition, offset, version: toppar.version })
        };
        let from: Vec<FetchFrom> = self.toppars.iter_mut().filter_map(from).collect();
        if !from.is_empty() {
            self.fetching = true;
            self.send(Request::Fetch { topic_id: topic.id, leader_epoch, from, wait: self.settings.fetch_wait });
        }
    }

    pub(super) fn on_fetch(&mut self, from: &[FetchFrom], outcome: Outcome, now: Instant) {
        self.fetching = false;
        let Ok(Answer::Fetched(mut slices)) = outcome else {
            self.fetch_at = now + AFTER_ERROR;
            return;
        };
        let mut look_for_topic = false;
        for FetchFrom { partition, version, .. } in from {
            let (Some(slice), Some(toppar)) = (slices.remove(partition), self.toppars.get_mut(partition)) else {
                continue;
            };
            if toppar.version != *version || !toppar.started {
                continue;
            }
            match slice {
                Ok(slice) => {
                    toppar.fetched(slice.start, slice.end, slice.records.last().map(|record| record.offset + 1));
                    for record in slice.records {
                        self.push(Event::Record { partition: *partition, version: *version, record });
                    }
                }
                Err(ErrorCode::OffsetOutOfRange) => toppar.out_of_range(now + AFTER_ERROR),
                Err(_) => {
                    toppar.not_before = Some(now + AFTER_ERROR);
                    look_for_topic = true;
                }
            }
        }
        if look_for_topic {
            self.send(Request::Metadata { purpose: MetadataPurpose::Leader });
        }
    }
}
