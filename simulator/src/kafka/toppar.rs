//! A partition as a client sees it: librdkafka's "toppar".
//!
//! | rule | source (librdkafka 2.12.1, src/) |
//! |---|---|
//! | pause and resume are flags of the partition: one of the application's, one of librdkafka's own while a rebalance waits for its callback | rdkafka_partition.h `RD_KAFKA_TOPPAR_F_APP_PAUSE`, `_LIB_PAUSE` |
//! | **the application's flag outlives revoke and assign**: starting and stopping a fetcher touch librdkafka's own flag only | rdkafka_assignment.c `serve_removals`, `serve_pending`: both resume with `F_LIB_PAUSE` |
//! | a pause raises the partition's version: records in the local queue are discarded, records in transit are dropped on arrival; fetching continues after the last record that the application received | rdkafka_partition.c `rd_kafka_toppar_pause_resume`, rdkafka_queue.c `rd_kafka_q_purge_toppar_version`, rdkafka_op.h `rd_kafka_op_version_outdated` |
//! | resuming a partition that is not paused does nothing; resuming one that only the other flag pauses only raises the version | `rd_kafka_toppar_op_pause_resume`, `rd_kafka_toppar_pause_resume` |
//! | a resume before a first offset was found looks for it again | as above, `rd_kafka_toppar_next_offset_handle` |
//! | at assign and at revoke the stored offset is cleared; storing one while not assigned is the error `State` | rdkafka_assignment.c `rd_kafka_assignment_add`, `serve_removals`; rdkafka_offset.h `rd_kafka_offset_store0` |
//! | only a stored offset *beyond* the committed one, as cached by the client, is committed | rdkafka_partition.c `rd_kafka_topic_partition_list_set_offsets` |
//! | at revoke the stored offset is committed whether or not it is beyond | rdkafka_assignment.c `serve_removals`, `set_offsets=false` |
//! | the cached committed offset is refreshed at each assign | rdkafka_request.c `rd_kafka_handle_OffsetFetch` |
//! | an offset out of range, or none committed: the log start offset that the last fetch reported, or else that ListOffsets returns | rdkafka_offset.c `rd_kafka_offset_reset` |
//! | an offset out of range does not raise the version, and the application receives no event | rdkafka_fetcher.c `rd_kafka_fetch_reply_handle_partition_error` |
//! | after a topic is recreated, fetching continues at the old position; records below it are never delivered | rdkafka_topic.c `rd_kafka_topic_metadata_update`, "FIXME: an offset reset must be triggered" |
//! | statistics report the end offset as of the last fetch, the stored and the committed offset as the client knows them | rdkafka.c `rd_kafka_stats_emit_toppar` |
//! | a commit with a list of offsets may go back, and the cached committed offset with it | rdkafka.c `rd_kafka_commit`; rdkafka_cgrp.c `rd_kafka_cgrp_offsets_commit` (`set_offsets` only without a list), `rd_kafka_cgrp_update_committed_offsets` |

use dropgate_issuer::kafka::assignment::Offsets;
use dropgate_issuer::kafka::silence::Reading;
use tokio::time::Instant;

/// What the fetcher of a partition does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fetching {
    #[default]
    Stopped,
    /// Needs to ask where the partition begins, not before the time given.
    Lookup(Option<Instant>),
    /// Has asked.
    LookedUp,
    Active,
}

#[derive(Debug, Clone, Default)]
pub struct Toppar {
    pub assigned: bool,
    pub app_paused: bool,
    /// librdkafka's own flag.
    pub lib_paused: bool,
    pub version: u64,
    pub fetching: Fetching,
    pub started: bool,
    next_start: Option<i64>,
    last_start: Option<i64>,
    position: Option<i64>,
    position_version: u64,
    /// The offset after the last record that the application received.
    pub app: Option<i64>,
    pub stored: Option<i64>,
    pub committed: Option<i64>,
    pub begin: Option<i64>,
    pub end: Option<i64>,
    pub not_before: Option<Instant>,
}

impl Toppar {
    #[must_use]
    pub fn paused(&self) -> bool {
        self.app_paused || self.lib_paused
    }

    /// Sets one of the flags. Records in the queue become outdated.
    pub fn pause(&mut self, by_app: bool) {
        self.version += 1;
        *self.flag(by_app) = true;
        if self.app.is_some() {
            self.next_start = self.app;
        }
    }

    /// Clears one of the flags.
    pub fn resume(&mut self, by_app: bool) {
        if !self.paused() {
            return;
        }
        self.version += 1;
        let flag = self.flag(by_app);
        if !std::mem::take(flag) {
            return;
        }
        let found = matches!(self.fetching, Fetching::Active | Fetching::LookedUp);
        if !self.paused() && found && self.next_start.is_none() {
            self.reset(None);
        }
    }

    fn flag(&mut self, by_app: bool) -> &mut bool {
        if by_app { &mut self.app_paused } else { &mut self.lib_paused }
    }

    /// Adds the partition to the assignment; its start offset is not known yet.
    pub fn assign(&mut self) {
        self.assigned = true;
        self.stored = None;
    }

    /// Starts the fetcher at the committed offset.
    pub fn start(&mut self, committed: Option<i64>) {
        self.committed = committed;
        self.resume(false);
        self.version += 1;
        self.started = true;
        match committed {
            Some(offset) => self.set_start(offset),
            None => self.reset(None),
        }
    }

    /// Stops the fetcher and removes the partition from the assignment. Returns the stored offset.
    pub fn remove(&mut self) -> Option<i64> {
        if std::mem::take(&mut self.started) {
            self.version += 1;
            self.fetching = Fetching::Stopped;
            self.app = None;
        }
        self.resume(false);
        self.assigned = false;
        self.stored.take()
    }

    /// Begins at the beginning.
    pub fn reset(&mut self, not_before: Option<Instant>) {
        match self.begin {
            Some(begin) => self.set_start(begin),
            None => self.fetching = Fetching::Lookup(not_before),
        }
    }

    /// The fetched offset is not in the partition.
    pub fn out_of_range(&mut self, retry_at: Instant) {
        self.position = None;
        self.not_before = Some(retry_at);
        self.reset(Some(retry_at));
    }

    /// Handles the answer to a lookup. An answer from before the last version barrier causes another lookup.
    pub fn looked_up(&mut self, version: u64, begin: Option<i64>, retry_at: Instant) {
        if self.fetching != Fetching::LookedUp {
            return;
        }
        match begin.filter(|_| version == self.version) {
            Some(begin) => self.set_start(begin),
            None => self.fetching = Fetching::Lookup(Some(retry_at)),
        }
    }

    fn set_start(&mut self, offset: i64) {
        self.next_start = Some(offset);
        self.fetching = Fetching::Active;
    }

    /// The offset to fetch from, if the partition can be fetched now.
    pub fn fetch_from(&mut self, now: Instant) -> Option<i64> {
        if self.fetching != Fetching::Active {
            return None;
        }
        if self.version > self.position_version || self.next_start != self.last_start || self.position.is_none() {
            self.position = self.next_start;
            self.last_start = self.next_start;
            self.position_version = self.version;
        }
        let due = self.not_before.is_none_or(|at| at <= now);
        self.position.filter(|_| !self.paused() && due)
    }

    /// Records up to before `next` are in the queue.
    pub fn fetched(&mut self, begin: i64, end: i64, next: Option<i64>) {
        (self.begin, self.end) = (Some(begin), Some(end));
        self.position = next.or(self.position);
    }

    /// The stored offset, if it is beyond the committed one.
    #[must_use]
    pub fn to_commit(&self) -> Option<i64> {
        self.stored.filter(|stored| self.committed.is_none_or(|committed| *stored > committed))
    }

    /// What the statistics report.
    #[must_use]
    pub fn offsets(&self, is_queued: bool) -> Offsets {
        let reading = Reading { next: self.position, is_queued };
        Offsets { begin: self.begin, end: self.end, committed: self.committed, stored: self.stored, reading }
    }
}
