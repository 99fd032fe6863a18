//! A batch that a constraint refused: who has a row already, and which slot do the others get.

use super::coupon_writer::{Coupons, Insert, Placed, Row, newest_allotment, unknown_campaign};
use super::mysql::error::Trouble;
use crate::consume::ports::Outcome;
use crate::store::free_slots::Gaps;
use crate::timestamp;
use dropgate_shared::ids::{CampaignId, Slot};
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, MySql, QueryBuilder};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Values in one `IN (..)`, and rows of one INSERT.
const CHUNK: usize = 1_000;
/// Taken slots read at a time in search of a free one.
const PAGE: u32 = 5_000;
/// The reason that a refusal row gives.
pub const CAPACITY_EXHAUSTED: &str = "capacity_exhausted";

impl Coupons {
    /// Settles every row in one transaction. `Constraint` if another issuer wrote a row in between
    /// that this one wanted to write: the transaction is rolled back, look again.
    pub(super) async fn resolve(&self, connection: &mut MySqlConnection, rows: &[Row<'_>]) -> Result<Placed, Trouble> {
        // In the order of their ids, so that two resolvers lock them in the same order.
        let mut campaigns = BTreeMap::<&CampaignId, Vec<&Row<'_>>>::new();
        for row in rows {
            campaigns.entry(row.campaign()).or_default().push(row);
        }
        let mut transaction = connection.begin().await?;
        let mut placed = Placed::with_capacity(rows.len());
        for (campaign, rows) in campaigns {
            placed.extend(self.resolve_campaign(&mut transaction, campaign, &rows).await?);
        }
        transaction.commit().await?;
        Ok(placed)
    }

    async fn resolve_campaign(
        &self,
        connection: &mut MySqlConnection,
        campaign: &CampaignId,
        rows: &[&Row<'_>],
    ) -> Result<Placed, Trouble> {
        // One resolver of a campaign at a time: two would find the same highest free slot.
        let locked: Option<String> = sqlx::query_scalar("SELECT id FROM campaigns WHERE id = ? FOR UPDATE")
            .bind(campaign.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        let newest = match locked {
            Some(_) => newest_allotment(connection, campaign).await?,
            None => None,
        };
        let Some(allotment) = newest else {
            return Ok(rows.iter().map(|row| (row.index, unknown_campaign())).collect());
        };
        let known = self.learn(campaign, allotment, None);

        let issued = slots_of_users(connection, "coupons", "slot", campaign, rows).await?;
        let refused = slots_of_users(connection, "refusals", "proposed_slot", campaign, rows).await?;
        let mut placed = Placed::with_capacity(rows.len());
        let mut open = Vec::new();
        for row in rows.iter().copied() {
            if let Some(slot) = issued.get(row.user()) {
                placed.push((row.index, Outcome::Already { slot: *slot }));
            } else if let Some(slot) = refused.get(row.user()) {
                placed.push((row.index, Outcome::Refused { slot: *slot }));
            } else {
                open.push(row);
            }
        }

        // The proposed slot where it can be had; what is kept here is reserved for the search below.
        let mut reserved = taken_among(connection, campaign, &open).await?;
        let mut inserts = Vec::with_capacity(open.len());
        let mut homeless = Vec::new();
        for row in open {
            if row.slot() <= allotment && reserved.insert(row.slot()) {
                inserts.push(Insert { row, slot: row.slot(), allotment });
            } else {
                homeless.push(row);
            }
        }
        let mut gaps = Gaps::new(known.full_above, &reserved, homeless.len());
        search(connection, campaign, &mut gaps).await?;
        let (mut free, mut full_above) = gaps.found();
        if free.len() < homeless.len() && known.full_above < allotment {
            // What is remembered says that there is none. Before anybody is refused for it, look at all
            // of them again: an operator may have deleted rows.
            let mut gaps = Gaps::new(allotment, &reserved, homeless.len());
            search(connection, campaign, &mut gaps).await?;
            (free, full_above) = gaps.found();
            self.relearn(campaign, allotment, full_above);
        } else {
            self.learn(campaign, allotment, Some(full_above));
        }
        let mut free = free.into_iter();
        let mut refusals = Vec::new();
        for row in homeless {
            match free.next() {
                Some(slot) => inserts.push(Insert { row, slot, allotment }),
                None => refusals.push(row),
            }
        }

        inserts.sort_unstable_by_key(|insert| insert.slot);
        self.insert(connection, &inserts).await?;
        refuse(connection, campaign, &refusals).await?;
        for insert in inserts {
            // No slot below 1 is ever found or proposed.
            let slot = Slot::new(insert.slot).unwrap_or(insert.row.admission.record.slot);
            placed.push((insert.row.index, Outcome::Issued { slot }));
        }
        placed.extend(refusals.iter().map(|row| (row.index, Outcome::Refused { slot: row.admission.record.slot })));
        Ok(placed)
    }
}

/// The slots of those users who have a row in `table`.
async fn slots_of_users(
    connection: &mut MySqlConnection,
    table: &str,
    column: &str,
    campaign: &CampaignId,
    rows: &[&Row<'_>],
) -> Result<HashMap<String, Slot>, Trouble> {
    let mut slots = HashMap::new();
    for some in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::<MySql>::new("SELECT user_id, ");
        sql.push(column).push(" FROM ").push(table).push(" WHERE campaign_id = ");
        sql.push_bind(campaign.as_str()).push(" AND user_id IN (");
        let mut users = sql.separated(", ");
        for row in some {
            users.push_bind(row.user());
        }
        sql.push(")");
        let found: Vec<(String, u32)> = sql.build_query_as().persistent(false).fetch_all(&mut *connection).await?;
        slots.extend(found.into_iter().filter_map(|(user, slot)| Some((user, Slot::new(slot).ok()?))));
    }
    Ok(slots)
}

/// Those of the proposed slots that another user holds.
async fn taken_among(
    connection: &mut MySqlConnection,
    campaign: &CampaignId,
    rows: &[&Row<'_>],
) -> Result<HashSet<u32>, Trouble> {
    let mut taken = HashSet::with_capacity(rows.len());
    for some in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::<MySql>::new("SELECT slot FROM coupons WHERE campaign_id = ");
        sql.push_bind(campaign.as_str()).push(" AND slot IN (");
        let mut slots = sql.separated(", ");
        for row in some {
            slots.push_bind(row.slot());
        }
        sql.push(")");
        let found: Vec<u32> = sql.build_query_scalar().persistent(false).fetch_all(&mut *connection).await?;
        taken.extend(found);
    }
    Ok(taken)
}

/// Reads taken slots from the top down until enough free ones are known.
async fn search(connection: &mut MySqlConnection, campaign: &CampaignId, gaps: &mut Gaps<'_>) -> Result<(), Trouble> {
    while gaps.wants_more() {
        let page: Vec<u32> = sqlx::query_scalar(
            "SELECT slot FROM coupons WHERE campaign_id = ? AND slot <= ? ORDER BY slot DESC LIMIT ?",
        )
        .bind(campaign.as_str())
        .bind(gaps.next())
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        let is_last = page.len() < PAGE as usize;
        page.into_iter().for_each(|slot| gaps.taken(slot));
        if is_last {
            gaps.end();
            break;
        }
    }
    Ok(())
}

async fn refuse(connection: &mut MySqlConnection, campaign: &CampaignId, rows: &[&Row<'_>]) -> Result<(), Trouble> {
    let refused_at = timestamp::now();
    for some in rows.chunks(CHUNK) {
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT INTO refusals (campaign_id, user_id, proposed_slot, reason, admitted_at, refused_at) ",
        );
        sql.push_values(some, |mut tuple, row| {
            tuple
                .push_bind(campaign.as_str())
                .push_bind(row.user())
                .push_bind(row.slot())
                .push_bind(CAPACITY_EXHAUSTED)
                .push_bind(row.admission.admitted_at)
                .push_bind(refused_at);
        });
        sql.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}
