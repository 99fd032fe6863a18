//! A group's lag as the operator's commands compute it (`dropgate_issuer::topics::lag`).

use super::broker::Record;
use super::server::Kafka;
use super::world::{Availability, World};

/// Why the lag is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagError {
    Unreachable,
    NoTopic,
}

impl Kafka {
    /// Records of `topic` that `group` has not committed: from the committed offset, or from the log start, to the end of
    /// each partition. A committed offset beyond the end counts as none.
    ///
    /// # Errors
    /// [`LagError`]
    pub fn lag(&self, group: &str, topic: &str) -> Result<u64, LagError> {
        let mut world = self.world.borrow_mut();
        if world.availability() != Availability::Up {
            return Err(LagError::Unreachable);
        }
        let partitions = world.topics.metadata(topic).ok_or(LagError::NoTopic)?.partitions;
        let mut lag = 0;
        for partition in 0..partitions {
            let (next, end) = backlog(&mut world, group, topic, partition);
            lag += u64::try_from(end - next).unwrap_or(0);
        }
        Ok(lag)
    }

    /// The records of this lag.
    #[must_use]
    pub fn waiting(&self, group: &str, topic: &str) -> Vec<Record> {
        let mut world = self.world.borrow_mut();
        let records = world.topics.all(topic).into_iter();
        let mut waits = |(partition, record): (i32, Record)| {
            let (next, _) = backlog(&mut world, group, topic, partition);
            (record.offset >= next).then_some(record)
        };
        records.filter_map(&mut waits).collect()
    }
}

/// Where the group goes on, and the end of the partition.
fn backlog(world: &mut World, group: &str, topic: &str, partition: i32) -> (i64, i64) {
    let (low, high) = world.topics.ends(topic, partition).unwrap_or_default();
    let committed = world.group(group).committed(topic, partition).filter(|next| *next <= high);
    (committed.map_or(low, |next| next.max(low)), high)
}
