//! How far a group is behind, as the operator's verbs count it: dropgate_issuer::topics.

use super::{Availability, Kafka};

/// Why the lag is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagError {
    Unreachable,
    NoTopic,
}

impl Kafka {
    /// Records of `topic` that `group` has not committed: from what it has committed, or from the beginning, to the
    /// end of each partition. A commit beyond the end counts as none.
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
