//! The broker's storage: topics, partitions, records.
//!
//! | rule | source |
//! |---|---|
//! | a key lands in partition `toPositive(murmur2(key)) % partitions` | apache/kafka `BuiltInPartitioner.partitionForKey`; librdkafka `partitioner=murmur2_random` (src/rdkafka_msg.c) |
//! | a record without a key goes to any partition (here: round robin) | as above |
//! | a topic that is deleted and created again has another id, and its offsets begin at 0 | KIP-516 |
//! | a leader that is elected again, as after a restart, has a higher epoch; those of a new topic begin at 0. A request with another epoch fails | apache/kafka `Partition.checkCurrentLeaderEpoch`; KIP-320 |
//! | the offsets that groups have committed for a topic are removed with the topic | apache/kafka 4.x `BrokerMetadataPublisher` -> `GroupCoordinator.onPartitionsDeleted`; tried, see `tests/kafka_contract.rs` |

use std::collections::BTreeMap;

/// A record in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub timestamp_ms: u64,
}

impl Record {
    /// The last header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }
}

/// A record that a producer sends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// By its key where there is none.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Why the broker rejects a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProduceError {
    UnknownTopicOrPartition,
    MessageTooLarge,
}

#[derive(Debug, Default)]
struct Partition {
    start: i64,
    records: Vec<Record>,
}

impl Partition {
    fn end(&self) -> i64 {
        self.start + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }
}

#[derive(Debug)]
struct Topic {
    id: u64,
    partitions: Vec<Partition>,
    next_without_key: usize,
    /// Of all partitions.
    leader_epoch: i32,
}

/// The answer to a metadata request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicMetadata {
    pub id: u64,
    pub partitions: i32,
    pub leader_epoch: i32,
}

/// Records of a partition, with its log start offset and its end offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    pub records: Vec<Record>,
    pub start: i64,
    pub end: i64,
}

/// All topics.
#[derive(Debug, Default)]
pub struct Topics {
    topics: BTreeMap<String, Topic>,
    ids: u64,
    /// Key and value of a record together; 0: no limit.
    max_record_bytes: usize,
}

impl Topics {
    #[must_use]
    pub fn new(max_record_bytes: usize) -> Self {
        Self { max_record_bytes, ..Self::default() }
    }

    /// Creates a topic. False if there is one of this name.
    pub fn create(&mut self, name: &str, partitions: i32) -> bool {
        if self.topics.contains_key(name) {
            return false;
        }
        self.ids += 1;
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        let topic = Topic { id: self.ids, partitions, next_without_key: 0, leader_epoch: 0 };
        self.topics.insert(name.to_owned(), topic);
        true
    }

    /// The broker has started again: each partition has elected its leader again.
    pub fn elect_leaders(&mut self) {
        self.topics.values_mut().for_each(|topic| topic.leader_epoch += 1);
    }

    /// Deletes a topic. False if there is none.
    pub fn delete(&mut self, name: &str) -> bool {
        self.topics.remove(name).is_some()
    }

    /// Gives a topic more partitions; keys change their partition.
    pub fn grow(&mut self, name: &str, partitions: i32) {
        if let Some(topic) = self.topics.get_mut(name) {
            let all = usize::try_from(partitions).unwrap_or(0).max(topic.partitions.len());
            topic.partitions.resize_with(all, Partition::default);
        }
    }

    #[must_use]
    pub fn metadata(&self, name: &str) -> Option<TopicMetadata> {
        let topic = self.topics.get(name)?;
        let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        Some(TopicMetadata { id: topic.id, partitions, leader_epoch: topic.leader_epoch })
    }

    /// Appends a record. Returns its partition and offset.
    ///
    /// # Errors
    /// [`ProduceError`]; nothing was appended.
    pub fn produce(&mut self, topic: &str, record: NewRecord, now_ms: u64) -> Result<(i32, i64), ProduceError> {
        let most = self.max_record_bytes;
        let bytes = record.value.len() + record.key.as_ref().map_or(0, Vec::len);
        let topic = self.topics.get_mut(topic).ok_or(ProduceError::UnknownTopicOrPartition)?;
        if most > 0 && bytes > most {
            return Err(ProduceError::MessageTooLarge);
        }
        let index = match (record.partition, &record.key) {
            (Some(partition), _) => usize::try_from(partition).unwrap_or(usize::MAX),
            (None, Some(key)) => partition_of(key, topic.partitions.len()),
            (None, None) => {
                topic.next_without_key += 1;
                (topic.next_without_key - 1) % topic.partitions.len().max(1)
            }
        };
        let partition = topic.partitions.get_mut(index).ok_or(ProduceError::UnknownTopicOrPartition)?;
        let offset = partition.end();
        let NewRecord { key, value, headers, .. } = record;
        partition.records.push(Record { offset, key, value, headers, timestamp_ms: now_ms });
        Ok((i32::try_from(index).unwrap_or(i32::MAX), offset))
    }

    /// First and next offset of a partition.
    #[must_use]
    pub fn ends(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let partition = self.partition(topic, partition)?;
        Some((partition.start, partition.end()))
    }

    /// At most `most` records from `offset` on; none where the offset is out of range.
    #[must_use]
    pub fn read(&self, topic: &str, partition: i32, offset: i64, most: usize) -> Option<Slice> {
        let partition = self.partition(topic, partition)?;
        let (start, end) = (partition.start, partition.end());
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        let records = partition.records.iter().skip(from).take(most).cloned().collect();
        Some(Slice { records, start, end })
    }

    /// Every record of a topic, by partition and offset.
    #[must_use]
    pub fn all(&self, topic: &str) -> Vec<(i32, Record)> {
        let partitions = self.topics.get(topic).map_or(&[][..], |topic| &topic.partitions);
        (0..).zip(partitions).flat_map(|(id, one)| one.records.iter().map(move |r| (id, r.clone()))).collect()
    }

    fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }
}

/// The partition of a key, of `partitions`.
#[must_use]
pub fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// Murmur2 with Kafka's seed (apache/kafka `org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = chunk.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte)).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafka() {
        // librdkafka 2.12.1 src/rdmurmur2.c, unittest_murmur2: results of the Java code.
        let known = [
            ("kafka", 0xd067_cf64),
            ("giberish123456789", 0x8f55_2b0c),
            ("1234", 0x9fc9_7b14),
            ("234", 0xe7c0_09ca),
            ("34", 0x8739_30da),
            ("4", 0x5a4b_5ca1),
            ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c),
            ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4a62_b377),
            ("", 0x106e_08d9),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn one_key_lands_in_one_partition_and_a_new_topic_begins_anew() {
        let mut topics = Topics::default();
        assert!(topics.create("t", 5));
        assert!(!topics.create("t", 9));
        let record = |key: &str| NewRecord { key: Some(key.into()), ..NewRecord::default() };
        let (partition, _) = topics.produce("t", record("c/u1"), 7).unwrap();
        assert_eq!(topics.produce("t", record("c/u1"), 8), Ok((partition, 1)));
        assert_eq!(topics.read("t", partition, 1, 9).unwrap().records[0].timestamp_ms, 8);
        let before = topics.metadata("t").unwrap().id;
        assert!(topics.delete("t"));
        assert_eq!(topics.produce("t", record("c/u1"), 8), Err(ProduceError::UnknownTopicOrPartition));
        assert!(topics.create("t", 5));
        assert_ne!(topics.metadata("t").unwrap().id, before);
        assert_eq!(topics.produce("t", record("c/u1"), 9), Ok((partition, 0)));
    }
}
