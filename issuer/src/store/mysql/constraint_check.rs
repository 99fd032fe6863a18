//! Tests a database in a transaction that is rolled back: may this user write, and do the constraints hold?

use super::database::MySqlStore;
use super::error::fault_of;
use crate::labels;
use crate::store::ports::{Session, Store, StoreError};
use crate::store::rows::{Campaign, NewCoupon, NewRefusal};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, UserId};
use time::PrimitiveDateTime;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `VERSION()`.
    pub version: String,
    /// Whether it is a MariaDB.
    pub is_mariadb: bool,
    /// Connections it takes.
    pub max_connections: u64,
}

impl Server {
    /// Whether constraints are known to hold there: MySQL 8.0.16, MariaDB 10.6.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        let mut numbers = self.version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        found >= if self.is_mariadb { (10, 6, 0) } else { (8, 0, 16) }
    }
}

impl MySqlStore {
    /// Asks the server what it is.
    pub async fn server(&self) -> Result<Server, Fault> {
        let ask = async {
            sqlx::query_as("SELECT VERSION(), CAST(@@max_connections AS UNSIGNED)")
                .fetch_one(&mut self.reach().await?)
                .await
                .map_err(|error| fault_of(&error))
        };
        let (version, max_connections): (String, u64) = self.soon(ask).await?;
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        Ok(Server { version, is_mariadb, max_connections })
    }

    /// Writes a campaign of one coupon named after `random`, and another coupon beyond that; leaves nothing behind. The
    /// service's user may create no campaign (deploy/mysql/grants.sql): it tries coupon N + 1 of one that exists.
    ///
    /// # Errors
    /// [`Fault`] if it may not write, or if the server accepts a coupon too many.
    pub async fn check_constraints(&self, now: PrimitiveDateTime, random: u64) -> Result<(), Fault> {
        self.soon(self.try_constraints(now, random)).await
    }

    async fn try_constraints(&self, now: PrimitiveDateTime, random: u64) -> Result<(), Fault> {
        let granted: Option<(String, u32)> =
            sqlx::query_as("SELECT campaign_id, MAX(capacity) FROM allotments GROUP BY campaign_id LIMIT 1")
                .fetch_optional(&mut self.reach().await?)
                .await
                .map_err(|error| fault_of(&error))?;
        let mut session = self.connect().await?;
        session.begin().await?;
        let checked = match check_in(&mut session, now, random).await {
            Err(fault) if fault.label == labels::ACCESS_DENIED => {
                check_as_service(&mut session, now, random, granted).await
            }
            checked => checked,
        };
        session.rollback().await?;
        checked
    }
}

async fn check_in(session: &mut impl Session, now: PrimitiveDateTime, random: u64) -> Result<(), Fault> {
    let invalid = |error: dropgate_shared::ids::IdError| failed(error.to_string());
    let id = CampaignId::parse(&format!("check-config-{random:016x}")).map_err(invalid)?;
    let version = Campaign::FIRST_VERSION;
    let campaign = Campaign { state: CampaignState::Open, capacity: 1, opens_at: now, closes_at: None, version };
    session.insert_campaign(&id, &campaign, now).await?;
    session.insert_allotment(&id, campaign.capacity, now).await?;
    session.set_state(&id, &[CampaignState::Open], CampaignState::Paused).await?;
    let user = UserId::parse("r").map_err(invalid)?;
    let refusal =
        NewRefusal { campaign: &id, user: &user, proposed_slot: 1, reason: "trial", admitted_at: now, refused_at: now };
    session.insert_refusals(&[refusal]).await?;
    session.newest_allotment(&id).await?;
    try_coupons(
        session,
        &id,
        now,
        &[(1, 1, "a", true), (2, 1, "b", false), (2, 2, "c", false), (1, 1, "d", false), (0, 1, "e", false)],
    )
    .await
}

async fn check_as_service(
    session: &mut impl Session,
    now: PrimitiveDateTime,
    random: u64,
    granted: Option<(String, u32)>,
) -> Result<(), Fault> {
    let invalid = |error: dropgate_shared::ids::IdError| failed(error.to_string());
    let user = format!("check-config-{random:016x}");
    let Some((id, capacity)) = granted else {
        // Without an allotment the foreign key is all that can be tried.
        let id = CampaignId::parse(&user).map_err(invalid)?;
        return try_coupons(session, &id, now, &[(1, 1, &user, false)]).await;
    };
    let id = CampaignId::parse(&id).map_err(invalid)?;
    let beyond = capacity.saturating_add(1);
    try_coupons(session, &id, now, &[(beyond, capacity, &user, false), (beyond, beyond, &user, false)]).await
}

/// Inserts coupons: slot, allotment, user, and whether the server must accept it.
async fn try_coupons(
    session: &mut impl Session,
    id: &CampaignId,
    now: PrimitiveDateTime,
    coupons: &[(u32, u32, &str, bool)],
) -> Result<(), Fault> {
    for &(slot, allotment, user, is_allowed) in coupons {
        let user = UserId::parse(user).map_err(|error| failed(error.to_string()))?;
        let coupon =
            NewCoupon { campaign: id, slot, allotment, user: &user, code: "trial", admitted_at: now, issued_at: now };
        match (session.insert_coupons(&[coupon], false).await, is_allowed) {
            (Ok(()), true) | (Err(StoreError::Constraint), false) => {}
            (Ok(()), false) => {
                return Err(Fault::none(
                    Source::MySql,
                    labels::NO_CONSTRAINTS,
                    false,
                    format!(
                        "the server accepted slot {slot} under allotment {allotment} of {id}: \
                         its constraints are switched off or missing"
                    ),
                ));
            }
            (Err(StoreError::Away(fault)), _) => return Err(fault),
            (Err(other), _) => return Err(failed(format!("{other:?}"))),
        }
    }
    Ok(())
}

fn failed(detail: String) -> Fault {
    Fault::none(Source::MySql, labels::CONSTRAINT_CHECK, false, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_without_constraints_are_refused() {
        let server = |version: &str| Server {
            version: version.to_owned(),
            is_mariadb: version.contains("MariaDB"),
            max_connections: 1,
        };
        for version in ["8.0.16", "9.7.0", "8.4.3-debug", "10.6.1-MariaDB", "11.4.2-MariaDB-ubu2404"] {
            assert!(server(version).is_supported(), "{version}");
        }
        for version in ["8.0.15", "5.7.44-log", "10.5.9-MariaDB", "what?"] {
            assert!(!server(version).is_supported(), "{version}");
        }
    }
}
