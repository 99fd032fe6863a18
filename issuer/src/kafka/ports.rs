//! What the operator's verbs need of Kafka.

use crate::store::rows::DeadLetterKey;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::record::AdmissionRecord;
use time::PrimitiveDateTime;

/// Headers of a dead letter. Their names are a format: tools read them.
pub mod header {
    /// Topic that the record came from.
    pub const TOPIC: &str = "dropgate.topic";
    /// Its partition there, a number.
    pub const PARTITION: &str = "dropgate.partition";
    /// Its offset there, a number.
    pub const OFFSET: &str = "dropgate.offset";
    /// Stable label of the reason.
    pub const CAUSE: &str = "dropgate.cause";
    /// The reason for a human.
    pub const CAUSE_TEXT: &str = "dropgate.cause_text";
    /// Version of the issuer that gave up on it.
    pub const ISSUER_VERSION: &str = "dropgate.issuer_version";
    /// When, in ms since the epoch.
    pub const TIME_MS: &str = "dropgate.time_ms";
    /// Only where the dead letter holds no more than the beginning of the record: how many bytes the payload has.
    pub const PAYLOAD_BYTES: &str = "dropgate.payload_bytes";
    /// On a record that `dlq replay` has sent.
    pub const REPLAYED: &str = "dropgate.replayed";
}

/// How far the group of issuers is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    /// The first offset that the group has not committed. Everything before it is settled (I7), or gone.
    pub next: i64,
    /// The offset after the last record.
    pub end: i64,
}

impl Position {
    /// A partition that holds the records from `begin` to `end`, of which the group has committed those before
    /// `committed`.
    #[must_use]
    pub fn new(partition: i32, committed: Option<i64>, (begin, end): (i64, i64)) -> Self {
        // Records below `begin` are gone: nobody can be behind on them. An offset beyond `end` belongs to an earlier
        // topic of the same name: nothing of this one is consumed.
        let next = committed.filter(|next| *next <= end).map_or(begin, |next| next.max(begin));
        Self { partition, next, end }
    }
}

/// How far the group of issuers is behind.
pub trait Backlog {
    /// Its position in each partition of the topic.
    ///
    /// # Errors
    /// [`Fault`] if no broker answers, or there is no such topic.
    async fn positions(&self) -> Result<Vec<Position>, Fault>;

    /// Records of the topic that the group has not committed.
    ///
    /// # Errors
    /// As [`Backlog::positions`].
    async fn lag(&self) -> Result<u64, Fault> {
        Ok(lag(&self.positions().await?))
    }

    /// The same, and how many of these records are of this campaign.
    ///
    /// # Errors
    /// As [`Backlog::positions`].
    async fn lag_of(&self, campaign: &CampaignId) -> Result<CampaignLag, Fault>;
}

/// Records that the group has not committed.
#[must_use]
pub fn lag(positions: &[Position]) -> u64 {
    positions.iter().map(|position| u64::try_from(position.end - position.next).unwrap_or(0)).sum()
}

/// Records that the group has not committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CampaignLag {
    /// Of all campaigns.
    pub all: u64,
    /// Of the campaign; `None`: there were too many to be read in time.
    pub own: Option<u64>,
    /// When the oldest one of the campaign was admitted, ms since the epoch.
    pub oldest_ms: Option<u64>,
}

impl CampaignLag {
    /// Counts the campaign's among the records that wait, by their payloads. A record that cannot be decoded becomes no
    /// row.
    pub fn count<'a>(&mut self, campaign: &CampaignId, payloads: impl IntoIterator<Item = &'a [u8]>) {
        let records = payloads.into_iter().filter_map(|payload| AdmissionRecord::decode(payload).ok());
        for record in records.filter(|record| record.campaign == *campaign) {
            self.own = Some(self.own.unwrap_or(0) + 1);
            let oldest_ms = self.oldest_ms.map_or(record.admitted_at, |oldest_ms| oldest_ms.min(record.admitted_at));
            self.oldest_ms = Some(oldest_ms);
        }
    }
}

/// A reading of the dead-letter topic from its beginning to where its end was when the reading began.
pub trait DeadLetterReader {
    /// The next dead letters; none at the end.
    ///
    /// # Errors
    /// [`Fault`] if the broker stops answering.
    async fn page(&mut self) -> Result<Vec<DeadLetter>, Fault>;
}

/// Where dead letters are sent again.
pub trait DeadLetterReplayer {
    /// Sends each to the topic that it came from, key and payload as they came, with the header
    /// [`header::REPLAYED`]. One result a dead letter, in their order; `Ok` once the broker has acknowledged it.
    async fn replay(&self, letters: &[DeadLetter]) -> Vec<Result<(), Fault>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset there.
    pub offset: i64,
    /// When the record was given up.
    pub dead_at: PrimitiveDateTime,
    pub headers: Vec<(String, Vec<u8>)>,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
}

impl DeadLetter {
    /// A header as text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    /// The topic that it came from, if it names one.
    #[must_use]
    pub fn topic(&self) -> Option<String> {
        Some(self.header(header::TOPIC)).filter(|topic| !topic.is_empty())
    }

    /// The key under which MySQL remembers a replay.
    #[must_use]
    pub fn identity(&self) -> DeadLetterKey {
        (self.partition, self.offset, self.dead_at)
    }

    /// Campaign and user: from the payload, or else from the key `campaign/user`, which a malformed record
    /// has too.
    #[must_use]
    pub fn claim(&self) -> (Option<String>, Option<String>) {
        if let Ok(record) = AdmissionRecord::decode(&self.payload) {
            return (Some(record.campaign.to_string()), Some(record.user.as_str().to_owned()));
        }
        let key = self.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
        match key.as_ref().and_then(|key| key.split_once('/')) {
            Some((campaign, user)) => (Some(campaign.to_owned()), Some(user.to_owned())),
            None => (None, None),
        }
    }
}
