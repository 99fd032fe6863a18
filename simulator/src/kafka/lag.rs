//! A group's lag as the operator's commands compute it (`dropgate_issuer::topics::lag`).

use super::server::Kafka;
use super::world::Availability;

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
            let (low, high) = world.topics.ends(topic, partition).unwrap_or_default();
            let committed = world.group(group).committed(topic, partition).filter(|next| *next <= high);
            let next = committed.map_or(low, |next| next.max(low));
            lag += u64::try_from(high - next).unwrap_or(0);
        }
        Ok(lag)
    }
}
