//! Commits of stored offsets.

use super::{Client, CommitResult, Event};
use crate::kafka::wire::{Answer, ErrorCode, Outcome, Request};
use std::collections::BTreeMap;
use tokio::time::Instant;

impl Client {
    pub(super) fn to_commit(&self) -> BTreeMap<i32, i64> {
        let offset = |partition: &i32| Some((*partition, self.toppars.get(partition)?.to_commit()?));
        self.assignment.iter().filter_map(offset).collect()
    }

    pub(super) fn send_commit(&mut self, offsets: BTreeMap<i32, i64>, ticket: Option<u64>, now: Instant) {
        self.commits += 1;
        let request = Request::Commit { generation: self.generation, offsets, ticket };
        if self.coordinator {
            self.send(request);
        } else {
            self.deferred.push_back((now + self.settings.session_timeout, request));
        }
    }

    pub(super) fn expire_deferred(&mut self, now: Instant) {
        while self.deferred.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, request)) = self.deferred.pop_front() {
                self.end_commit(&request, Err(ErrorCode::Transport), now);
            }
        }
    }

    pub(super) fn on_commit(&mut self, request: Request, outcome: Outcome, now: Instant) {
        match outcome {
            Err(ErrorCode::Transport) => {
                self.deferred.push_back((now + self.settings.session_timeout, request));
            }
            Err(ErrorCode::UnknownMemberId) => {
                self.member_id.clear();
                self.lose_all();
                self.end_commit(&request, Err(ErrorCode::UnknownMemberId), now);
            }
            Err(ErrorCode::IllegalGeneration) => {
                if !self.rebalancing() {
                    self.generation = -1;
                    self.lose_all();
                }
                self.end_commit(&request, Err(ErrorCode::IllegalGeneration), now);
            }
            Err(ErrorCode::FencedInstanceId) => {
                self.fail("FencedInstanceId");
                self.end_commit(&request, Err(ErrorCode::FencedInstanceId), now);
            }
            Err(error) => self.end_commit(&request, Err(error), now),
            Ok(answer) => {
                if let (Request::Commit { offsets, .. }, Answer::Committed(failed)) = (&request, answer) {
                    for (partition, offset) in offsets.iter().filter(|(partition, _)| !failed.contains_key(partition)) {
                        if let Some(toppar) = self.toppars.get_mut(partition) {
                            toppar.committed = Some(*offset);
                        }
                    }
                }
                self.end_commit(&request, Ok(()), now);
            }
        }
    }

    pub(super) fn end_commit(&mut self, request: &Request, result: CommitResult, now: Instant) {
        self.commits = self.commits.saturating_sub(1);
        let Request::Commit { ticket, .. } = request else {
            return;
        };
        match (ticket, result) {
            (Some(ticket), result) => {
                self.tickets.insert(*ticket, Some(result));
                self.news.notify_one();
            }
            (None, Err(error)) => self.push(Event::CommitFailed(error)),
            (None, Ok(())) => {}
        }
        if self.commits == 0 {
            self.serve_assignment(now);
        }
    }
}
