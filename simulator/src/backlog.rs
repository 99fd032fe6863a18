//! How far the group of issuers is, as the issuer and its commands ask Kafka.

use crate::kafka::Kafka;
use crate::record::GROUP;
use dropgate_issuer::kafka::ports::{Backlog, CampaignLag, Position};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
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

    async fn lag_of(&self, campaign: &CampaignId) -> Result<CampaignLag, Fault> {
        let mut lag = CampaignLag { all: self.lag().await?, own: Some(0), oldest_ms: None };
        let waiting = self.kafka.waiting(GROUP, TOPIC);
        lag.count(campaign, waiting.iter().map(|record| record.value.as_slice()));
        Ok(lag)
    }
}
