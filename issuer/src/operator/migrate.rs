//! `issuer migrate`.

use super::output::{say, table};
use crate::cli::verbs::MigrateArgs;
use crate::labels;
use crate::store::mysql::database::MySqlStore;
use crate::store::mysql::schema::MigrationState;
use dropgate_shared::fault::{Fault, Source};

/// Brings the schema up to date, or prints what would be applied, or what is.
///
/// # Errors
/// [`Fault`]; with `--dry-run` and `--status` also for what would stop a migration.
pub async fn migrate(store: &MySqlStore, args: &MigrateArgs) -> Result<(), Fault> {
    if !args.status && !args.dry_run {
        let applied = if args.repair { store.repair().await? } else { store.migrate().await? };
        if applied.is_empty() {
            say!("the schema is up to date");
        }
        for migration in applied {
            say!("applied {migration}");
        }
        return Ok(());
    }
    let plan = store.plan(args.repair).await?;
    if args.status {
        let mut rows = vec![["VERSION", "NAME", "STATE", "CHECKSUM"].map(str::to_owned)];
        rows.extend(plan.migrations.iter().map(|migration| {
            [
                format!("{:04}", migration.version),
                migration.description.clone(),
                migration.state.as_str().to_owned(),
                migration.checksum.chars().take(16).collect(),
            ]
        }));
        say!("{}", table(&rows));
    } else {
        let recorded = plan.migrations.iter().filter(|migration| migration.state == MigrationState::Elsewhere);
        for migration in recorded {
            say!("would take over {:04} {}, which is applied", migration.version, migration.description);
        }
        let pending = plan.pending();
        if pending.is_empty() && plan.problems.is_empty() {
            say!("the schema is up to date");
        }
        for migration in pending {
            say!("would apply {migration}");
        }
    }
    if plan.problems.is_empty() {
        return Ok(());
    }
    let problems = format!("`issuer migrate` would fail:\n  {}", plan.problems.join("\n  "));
    Err(Fault::none(Source::MySql, labels::MIGRATION, false, problems))
}
