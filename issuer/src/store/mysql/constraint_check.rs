//! Tries out a database, in a transaction that is rolled back: may we write, and do the constraints hold?

use super::Database;
use super::error::{Trouble, fault_of};
use crate::backoff::random;
use crate::store::coupon_writer::newest_allotment;
use crate::timestamp;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use sqlx::Connection;
use sqlx::mysql::MySqlConnection;

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

impl Database {
    /// Asks the server what it is.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn server(&self) -> Result<Server, Fault> {
        let (version, max_connections): (String, u64) =
            sqlx::query_as("SELECT VERSION(), CAST(@@max_connections AS UNSIGNED)")
                .fetch_one(&mut self.reach().await?)
                .await
                .map_err(|error| fault_of(&error))?;
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        Ok(Server { version, is_mariadb, max_connections })
    }

    /// Writes a campaign of one coupon, and another coupon beyond that; leaves nothing behind.
    ///
    /// # Errors
    /// [`Fault`] if it may not write, or if the server takes a coupon too many.
    pub async fn try_constraints(&self) -> Result<(), Fault> {
        let mut connection = self.reach().await?;
        let mut transaction = connection.begin().await.map_err(|error| fault_of(&error))?;
        let tried = try_in(&mut transaction).await;
        transaction.rollback().await.map_err(|error| fault_of(&error))?;
        tried
    }
}

async fn try_in(connection: &mut MySqlConnection) -> Result<(), Fault> {
    let id = format!("check-config-{:016x}", random());
    let now = timestamp::now();
    let failed = |error: sqlx::Error| fault_of(&error);
    sqlx::query("INSERT INTO campaigns (id, state, opens_at, created_at) VALUES (?, 'open', ?, ?)")
        .bind(&id)
        .bind(now)
        .bind(now)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::query("INSERT INTO allotments (campaign_id, capacity, granted_at) VALUES (?, 1, ?)")
        .bind(&id)
        .bind(now)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::query("UPDATE campaigns SET state = 'paused' WHERE id = ?")
        .bind(&id)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let refusal = "INSERT INTO refusals (campaign_id, user_id, proposed_slot, reason, admitted_at, refused_at) \
                   VALUES (?, 'r', 1, 'trial', ?, ?)";
    sqlx::query(refusal).bind(&id).bind(now).bind(now).execute(&mut *connection).await.map_err(failed)?;
    let campaign =
        CampaignId::parse(&id).map_err(|error| Fault::none(Source::MySql, "trial", false, error.to_string()))?;
    newest_allotment(connection, &campaign).await.map_err(|trouble| match trouble {
        Trouble::Away(fault) => fault,
        other => Fault::none(Source::MySql, "trial", false, format!("{other:?}")),
    })?;
    for (slot, allotment, user, right) in
        [(1, 1, "a", true), (2, 1, "b", false), (2, 2, "c", false), (1, 1, "d", false), (0, 1, "e", false)]
    {
        let written = sqlx::query(
            "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) \
             VALUES (?, ?, ?, ?, 'trial', ?, ?)",
        )
        .bind(&id)
        .bind(slot)
        .bind(allotment)
        .bind(user)
        .bind(now)
        .bind(now)
        .execute(&mut *connection)
        .await;
        match (written.map_err(Trouble::from), right) {
            (Ok(_), true) | (Err(Trouble::Constraint), false) => {}
            (Ok(_), false) => {
                return Err(Fault::none(
                    Source::MySql,
                    "no_constraints",
                    false,
                    format!(
                        "the server took slot {slot} under allotment {allotment} of a campaign of one coupon: its constraints are switched off or missing"
                    ),
                ));
            }
            (Err(Trouble::Away(fault)), _) => return Err(fault),
            (Err(other), _) => return Err(Fault::none(Source::MySql, "trial", false, format!("{other:?}"))),
        }
    }
    Ok(())
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
