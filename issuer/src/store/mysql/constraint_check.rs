//! Tests a database in a transaction that is rolled back: may this user write, and do the constraints hold?

use super::database::MySqlStore;
use super::error::fault_of;
use super::session::MySqlSession;
use crate::labels;
use crate::store::coupon_writer::MAX_ROWS;
use crate::store::ports::{Session, Store, StoreError, StoreResult};
use crate::store::rows::{Campaign, NewCoupon, NewRefusal, NewWaiting};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, UserId};
use sqlx::AssertSqlSafe;
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
    /// Bytes that a statement may have.
    pub max_allowed_packet: u64,
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

/// Bytes of a row in a statement at most: a campaign's id, 128 characters of four bytes, a code, three times and numbers.
const ROW_BYTES: u64 = 800;

impl Server {
    /// # Errors
    /// [`Fault`] where a batch of so many records does not fit into a statement.
    pub fn check_packet(&self, batch_records: usize) -> Result<(), Fault> {
        let needed = (batch_records.min(MAX_ROWS) as u64 + 10) * ROW_BYTES;
        if self.max_allowed_packet >= needed {
            return Ok(());
        }
        let detail = format!(
            "the server's max_allowed_packet is {}, and a batch of {batch_records} records needs up to {needed} bytes: \
             raise it, or lower BATCH_RECORDS",
            self.max_allowed_packet
        );
        Err(missing_fault(labels::PACKET_TOO_LARGE, detail))
    }
}

impl MySqlStore {
    /// Asks the server what it is.
    pub async fn server(&self) -> Result<Server, Fault> {
        let ask = async {
            sqlx::query_as(
                "SELECT VERSION(), CAST(@@max_connections AS UNSIGNED), CAST(@@max_allowed_packet AS UNSIGNED)",
            )
            .fetch_one(&mut self.reach().await?)
            .await
            .map_err(|error| fault_of(&error))
        };
        let (version, max_connections, max_allowed_packet): (String, u64, u64) = self.soon(ask).await?;
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        Ok(Server { version, is_mariadb, max_connections, max_allowed_packet })
    }

    /// Tries every constraint that a promise rests on, with a campaign named after `random`, in the character set of the
    /// session; leaves nothing behind. The service's user may create no campaign (deploy/mysql/grants.sql): it tries
    /// coupon N + 1 of one that exists, and reads the definitions of all other constraints.
    ///
    /// # Errors
    /// [`Fault`] if it may not write, or with the name of what is missing.
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
                self.check_definitions().await?;
                check_as_service(&mut session, now, random, granted).await
            }
            checked => checked,
        };
        session.rollback().await?;
        checked
    }

    /// What the server says of the tables that the service writes.
    async fn check_definitions(&self) -> Result<(), Fault> {
        let mut pool = self.reach().await?;
        for (table, constraints) in DEFINED {
            let (_, definition): (String, String) = sqlx::query_as(AssertSqlSafe(format!("SHOW CREATE TABLE {table}")))
                .fetch_one(&mut pool)
                .await
                .map_err(|error| fault_of(&error))?;
            if let Some(missing) = constraints.iter().find(|constraint| !definition.contains(**constraint)) {
                let missing = missing.replace('`', "");
                let detail = format!("{table} has no {missing}: restore it from the files in migrations/");
                return Err(missing_fault(labels::NO_CONSTRAINTS, detail));
            }
        }
        let users: Vec<(String, Option<String>)> = sqlx::query_as(
            "SELECT CAST(TABLE_NAME AS CHAR), CAST(COLLATION_NAME AS CHAR) FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('coupons', 'refusals', 'waiting_claims') AND COLUMN_NAME = 'user_id'",
        )
        .fetch_all(&mut pool)
        .await
        .map_err(|error| fault_of(&error))?;
        for (table, collation) in users {
            if collation.as_deref() != Some("utf8mb4_bin") {
                let found = collation.unwrap_or_default();
                let detail = format!("the column {table}.user_id must have the collation utf8mb4_bin, and has {found}");
                return Err(missing_fault(labels::CHARACTER_SET, detail));
            }
        }
        Ok(())
    }
}

/// Constraints of the tables that the service writes, as servers show them.
const DEFINED: [(&str, &[&str]); 3] = [
    (
        "coupons",
        &[
            "PRIMARY KEY (`campaign_id`,`slot`)",
            "UNIQUE KEY `coupon_user` (`campaign_id`,`user_id`)",
            "CONSTRAINT `coupon_allotment` FOREIGN KEY",
            "CONSTRAINT `coupon_slot` CHECK",
        ],
    ),
    ("refusals", &["PRIMARY KEY (`campaign_id`,`user_id`)", "CONSTRAINT `refusal_campaign` FOREIGN KEY"]),
    ("waiting_claims", &["PRIMARY KEY (`campaign_id`,`user_id`)", "CONSTRAINT `waiting_campaign` FOREIGN KEY"]),
];

/// Two, three and four bytes a character.
const USER: &str = "\u{e9}-\u{9b3c}-\u{1f600}";
/// Another user, although many collations call them equal.
const OTHER_USER: &str = "e-\u{9b3c}-\u{1f600}";

async fn check_in(session: &mut MySqlSession, now: PrimitiveDateTime, random: u64) -> Result<(), Fault> {
    let invalid = |error: dropgate_shared::ids::IdError| failed(error.to_string());
    let id = CampaignId::parse(&format!("check-config-{random:016x}")).map_err(invalid)?;
    let missing = CampaignId::parse(&format!("check-config-{random:016x}-2")).map_err(invalid)?;
    let version = Campaign::FIRST_VERSION;
    let campaign = Campaign { state: CampaignState::Open, capacity: 3, opens_at: now, closes_at: None, version };
    session.insert_campaign(&id, &campaign, now).await?;
    rejected("PRIMARY KEY of campaigns", session.insert_campaign(&id, &campaign, now).await)?;
    let closes_at = Some(now);
    let closed_before = Campaign { closes_at, ..campaign.clone() };
    rejected("campaign_window", session.insert_campaign(&missing, &closed_before, now).await)?;
    session.insert_allotment(&id, campaign.capacity, now).await?;
    rejected("PRIMARY KEY of allotments", session.insert_allotment(&id, campaign.capacity, now).await)?;
    rejected("allotment_capacity", session.insert_allotment(&id, 0, now).await)?;
    rejected("allotment_campaign", session.insert_allotment(&missing, 1, now).await)?;
    session.set_state(&id, &[CampaignState::Open], CampaignState::Paused).await?;
    session.newest_allotment(&id).await?;
    let (user, other) = (UserId::parse(USER).map_err(invalid)?, UserId::parse(OTHER_USER).map_err(invalid)?);
    let refusal =
        NewRefusal { campaign: &id, user: &user, proposed_slot: 1, reason: "trial", admitted_at: now, refused_at: now };
    session.insert_refusals(&[refusal]).await?;
    rejected("PRIMARY KEY of refusals", session.insert_refusals(&[refusal]).await)?;
    rejected("refusal_campaign", session.insert_refusals(&[NewRefusal { campaign: &missing, ..refusal }]).await)?;

    let waiting = NewWaiting {
        campaign: &id,
        user: &user,
        proposed_slot: 1,
        code: "trial",
        admitted_at: now,
        waiting_since: now,
    };
    session.insert_waiting(&[waiting]).await?;
    rejected("PRIMARY KEY of waiting_claims", session.insert_waiting(&[waiting]).await)?;
    rejected("waiting_campaign", session.insert_waiting(&[NewWaiting { campaign: &missing, ..waiting }]).await)?;

    let coupon = NewCoupon {
        campaign: &id,
        slot: 1,
        allotment: 3,
        user: &user,
        code: "trial",
        admitted_at: now,
        issued_at: now,
    };
    session.insert_coupons(&[coupon], false).await?;
    let stored = session.user_ids_as_stored(&id).await?;
    if stored != [USER.as_bytes()] || session.coupon_slots_of(&id, &[USER]).await?.len() != 1 {
        return Err(missing_fault(
            labels::CHARACTER_SET,
            "a user id of characters that are not ASCII was stored as another one: connection and column \
             coupons.user_id must have the character set utf8mb4"
                .to_owned(),
        ));
    }
    let second = NewCoupon { slot: 2, user: &other, ..coupon };
    match session.insert_coupons(&[second], false).await {
        Err(StoreError::Constraint) => {
            return Err(missing_fault(
                labels::CHARACTER_SET,
                "two different user ids count as one: the column coupons.user_id must have the collation utf8mb4_bin"
                    .to_owned(),
            ));
        }
        other => other?,
    }
    let third = UserId::parse("third").map_err(invalid)?;
    let third = NewCoupon { slot: 3, user: &third, ..coupon };
    for (constraint, wrong) in [
        ("coupon_slot", NewCoupon { slot: 4, ..third }),
        ("coupon_slot", NewCoupon { slot: 0, ..third }),
        ("coupon_allotment", NewCoupon { slot: 4, allotment: 4, ..third }),
        ("PRIMARY KEY of coupons", NewCoupon { slot: 1, ..third }),
        ("coupon_user", NewCoupon { user: &user, ..third }),
    ] {
        rejected(constraint, session.insert_coupons(&[wrong], false).await)?;
    }
    Ok(())
}

async fn check_as_service(
    session: &mut MySqlSession,
    now: PrimitiveDateTime,
    random: u64,
    granted: Option<(String, u32)>,
) -> Result<(), Fault> {
    let invalid = |error: dropgate_shared::ids::IdError| failed(error.to_string());
    let name = format!("check-config-{random:016x}");
    let user = UserId::parse(&name).map_err(invalid)?;
    // Without an allotment the foreign key is all that can be tried.
    let (id, capacity) = granted.unwrap_or((name, 0));
    let campaign = &CampaignId::parse(&id).map_err(invalid)?;
    // Far from the slots of others who do the same now, and from a capacity that is raised meanwhile.
    let far = 1 + u32::try_from(random % (1 << 30)).unwrap_or(0);
    let slot = capacity.saturating_add(far);
    let coupon =
        NewCoupon { campaign, slot, allotment: slot, user: &user, code: "trial", admitted_at: now, issued_at: now };
    rejected("coupon_allotment", session.insert_coupons(&[coupon], false).await)?;
    if capacity == 0 {
        return Ok(());
    }
    rejected("coupon_slot", session.insert_coupons(&[NewCoupon { allotment: capacity, ..coupon }], false).await)
}

/// The statement must have been rejected by this constraint.
fn rejected(constraint: &str, tried: StoreResult<()>) -> Result<(), Fault> {
    match tried {
        Err(StoreError::Constraint) => Ok(()),
        Err(error @ (StoreError::Away(_) | StoreError::Contention)) => Err(error.into()),
        Err(other) => Err(failed(format!("{constraint}: {other:?}"))),
        Ok(()) => Err(missing_fault(
            labels::NO_CONSTRAINTS,
            format!(
                "the database accepted a row that the constraint {constraint} must reject: it is missing, not enforced, \
                 or switched off. Restore it from the files in migrations/"
            ),
        )),
    }
}

/// Nothing but an operator changes it.
fn missing_fault(label: &'static str, detail: String) -> Fault {
    Fault::none(Source::MySql, label, false, detail)
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
            max_allowed_packet: 1,
        };
        for version in ["8.0.16", "9.7.0", "8.4.3-debug", "10.6.1-MariaDB", "11.4.2-MariaDB-ubu2404"] {
            assert!(server(version).is_supported(), "{version}");
        }
        for version in ["8.0.15", "5.7.44-log", "10.5.9-MariaDB", "what?"] {
            assert!(!server(version).is_supported(), "{version}");
        }
    }
}
