//! What the samples of campaigns read: small statements, over the connections of the service.

use super::database::MySqlStore;
use super::values::parse_state;
use crate::sample::CampaignRows;
use crate::store::ports::{Session, Store, StoreError};
use crate::store::rows::{Campaign, Tally};
use crate::timestamp::Clock;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;
use time::PrimitiveDateTime;

impl CampaignRows for MySqlStore {
    async fn nearest(&self, clock: &Clock, limit: u32) -> Result<Vec<(CampaignId, Campaign)>, Fault> {
        type Row = (String, String, PrimitiveDateTime, Option<PrimitiveDateTime>, u32, Option<u32>);
        let (mut session, now) = (self.session().await?, clock.now());
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT c.id, c.state, c.opens_at, c.closes_at, c.version, \
             (SELECT MAX(a.capacity) FROM allotments a WHERE a.campaign_id = c.id) FROM campaigns c \
             ORDER BY c.state = 'closed' OR COALESCE(c.closes_at <= ?, FALSE), \
             ABS(TIMESTAMPDIFF(SECOND, c.opens_at, ?)), c.id LIMIT ?",
        )
        .bind(now)
        .bind(now)
        .bind(limit)
        .fetch_all(session.raw())
        .await
        .map_err(StoreError::from)?;
        let mut campaigns = Vec::with_capacity(rows.len());
        for (id, state, opens_at, closes_at, version, capacity) in rows {
            // One without any allotment counts as none.
            let (Ok(id), Some(capacity)) = (CampaignId::parse(&id), capacity) else { continue };
            campaigns.push((id, Campaign { state: parse_state(&state)?, capacity, opens_at, closes_at, version }));
        }
        Ok(campaigns)
    }

    async fn tally(&self, id: &CampaignId) -> Result<Tally, Fault> {
        Ok(self.session().await?.tally(id).await?)
    }
}
