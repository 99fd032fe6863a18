//! A group's lag as the operator's commands compute it (`dropgate_issuer::topics::lag`).

use super::broker::Record;
use super::server::Kafka;
use super::world::Availability;
use dropgate_issuer::kafka::ports::{Position, lag};

/// Why the lag is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagError {
    Unreachable,
    NoTopic,
}

impl Kafka {
    /// Records of `topic` that `group` has not committed.
    ///
    /// # Errors
    /// [`LagError`]
    pub fn lag(&self, group: &str, topic: &str) -> Result<u64, LagError> {
        Ok(lag(&self.positions(group, topic)?))
    }

    /// How far `group` is in each partition of `topic`.
    ///
    /// # Errors
    /// [`LagError`]
    pub fn positions(&self, group: &str, topic: &str) -> Result<Vec<Position>, LagError> {
        let mut world = self.world.borrow_mut();
        if world.availability() != Availability::Up {
            return Err(LagError::Unreachable);
        }
        let partitions = world.topics.metadata(topic).ok_or(LagError::NoTopic)?.partitions;
        let position = |partition| {
            let ends = world.topics.ends(topic, partition).unwrap_or_default();
            Position::new(partition, world.group(group).committed(topic, partition), ends)
        };
        Ok((0..partitions).map(position).collect())
    }

    /// The records of this lag; none where it is unknown.
    #[must_use]
    pub fn waiting(&self, group: &str, topic: &str) -> Vec<Record> {
        let positions = self.positions(group, topic).unwrap_or_default();
        let waits = |(partition, record): (i32, Record)| {
            let next = positions.iter().find(|position| position.partition == partition)?.next;
            (record.offset >= next).then_some(record)
        };
        self.world.borrow().topics.all(topic).into_iter().filter_map(waits).collect()
    }
}
