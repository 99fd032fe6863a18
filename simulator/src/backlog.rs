//! How far the group of issuers is, as the issuer and its commands ask Kafka.

use crate::kafka::Kafka;
use crate::record::GROUP;
use dropgate_issuer::kafka::ports::{Backlog, Position};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::names::TOPIC;

/// The positions of the issuers' group.
pub struct GroupLag {
    pub kafka: Kafka,
    /// Takes every record for committed.
    pub is_blind: bool,
}

impl Backlog for GroupLag {
    async fn positions(&self) -> Result<Vec<Position>, Fault> {
        let positions = self.kafka.positions(GROUP, TOPIC);
        let mut positions = positions.map_err(|error| Fault::unknown(Source::Kafka, "lag", format!("{error:?}")))?;
        if self.is_blind {
            positions.iter_mut().for_each(|position| position.next = position.end);
        }
        Ok(positions)
    }
}
