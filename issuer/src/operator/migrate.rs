//! `issuer migrate`.

use super::output::{say, table};
use crate::cli::verbs::MigrateArgs;
use crate::store::mysql::database::MySqlStore;
use crate::store::mysql::schema::MigrationState;
use dropgate_shared::fault::Fault;

/// Why `migrate` failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("migration {version:04} is {state}: this build and that database do not belong together")]
    Mismatch { version: i64, state: &'static str },
}

/// Brings the schema up to date, or prints what would be applied, or what is.
pub async fn migrate(store: &MySqlStore, args: &MigrateArgs) -> Result<(), MigrateError> {
    if !args.status && !args.dry_run {
        let applied = store.migrate().await?;
        if applied.is_empty() {
            say!("the schema is up to date");
        }
        for migration in applied {
            say!("applied {migration}");
        }
        return Ok(());
    }
    let all = store.migrations().await?;
    if args.dry_run {
        let pending: Vec<String> = all
            .iter()
            .filter(|migration| migration.state == MigrationState::Pending)
            .map(|migration| format!("would apply {:04} {}", migration.version, migration.description))
            .collect();
        say!("{}", if pending.is_empty() { "the schema is up to date".to_owned() } else { pending.join("\n") });
    } else {
        let mut rows = vec![["VERSION", "NAME", "STATE", "CHECKSUM"].map(str::to_owned)];
        rows.extend(all.iter().map(|migration| {
            [
                format!("{:04}", migration.version),
                migration.description.clone(),
                migration.state.as_str().to_owned(),
                migration.checksum.chars().take(16).collect(),
            ]
        }));
        say!("{}", table(&rows));
    }
    let mismatch = |state| matches!(state, MigrationState::Altered | MigrationState::Failed | MigrationState::Unknown);
    match all.iter().find(|migration| mismatch(migration.state)) {
        None => Ok(()),
        Some(migration) => Err(MigrateError::Mismatch { version: migration.version, state: migration.state.as_str() }),
    }
}
