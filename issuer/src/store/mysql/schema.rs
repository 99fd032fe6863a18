//! The schema of the database, compared with what this build expects.

use super::database::{MIGRATIONS, MySqlStore};
use super::error::{NO_SUCH_TABLE, fault_of, number_of};
use dropgate_shared::fault::Fault;
use std::collections::HashMap;

/// Whether a migration is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationState {
    /// It is, and reads as in this build.
    Applied,
    /// It is not.
    Pending,
    /// It is, but with another text: this build and that database do not belong together.
    Altered,
    /// It began and did not end: look at the schema before anything else.
    Failed,
    /// The database has it and this build does not: the build is older than the schema.
    Unknown,
}

impl MigrationState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Altered => "altered",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub version: i64,
    pub description: String,
    /// SHA-384 of its text as this build has it, or else the database; lower-case hex.
    pub checksum: String,
    pub state: MigrationState,
}

impl MySqlStore {
    /// Every migration that this build or the database knows, in their order.
    pub async fn migrations(&self) -> Result<Vec<Migration>, Fault> {
        let query = sqlx::query_as("SELECT version, description, success, checksum FROM _sqlx_migrations");
        let rows: Vec<(i64, String, bool, Vec<u8>)> = match query.fetch_all(&mut self.reach().await?).await {
            Ok(rows) => rows,
            Err(error) if number_of(&error) == Some(NO_SUCH_TABLE) => Vec::new(),
            Err(error) => return Err(fault_of(&error)),
        };
        let mut there: HashMap<i64, (String, bool, Vec<u8>)> =
            rows.into_iter().map(|(version, name, success, checksum)| (version, (name, success, checksum))).collect();
        let mut all: Vec<Migration> = MIGRATIONS
            .iter()
            .map(|migration| Migration {
                version: migration.version,
                description: migration.description.to_string(),
                checksum: hex(&migration.checksum),
                state: match there.remove(&migration.version) {
                    None => MigrationState::Pending,
                    Some((_, false, _)) => MigrationState::Failed,
                    Some((_, true, checksum)) if *checksum == *migration.checksum => MigrationState::Applied,
                    Some(_) => MigrationState::Altered,
                },
            })
            .collect();
        all.extend(there.into_iter().map(|(version, (description, _, checksum))| Migration {
            version,
            description,
            checksum: hex(&checksum),
            state: MigrationState::Unknown,
        }));
        all.sort_unstable_by_key(|migration| migration.version);
        Ok(all)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
