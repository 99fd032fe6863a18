//! The schema of the database: what this build expects, what is there, and how it gets there.
//!
//! dropgate has its own record of applied steps, `dropgate_migrations`: other programs in the same database may use
//! sqlx's `_sqlx_migrations`. A step is one statement, which the server does as a whole or not at all. It is recorded
//! before and after, and its effect can be seen, so a `migrate` that was interrupted at any point is simply run again.
//!
//! Everything that can be known before is reported before the first statement: objects of others, missing rights,
//! migrations of a newer build.

use super::database::MySqlStore;
use super::error::{NO_SUCH_TABLE, fault_of, number_of};
use super::grants::missing;
use super::steps::{Effect, Step, hex, steps};
use crate::labels;
use dropgate_shared::fault::{Fault, Source};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How long another `migrate` is waited for.
const LOCK_S: u32 = 10;
const TABLE: &str = "CREATE TABLE IF NOT EXISTS dropgate_migrations (
    version     BIGINT       NOT NULL,
    step        INT          NOT NULL,
    description VARCHAR(128) NOT NULL,
    checksum    CHAR(96)     NOT NULL,
    began_at    DATETIME(3)  NOT NULL,
    applied_at  DATETIME(3)  NULL,
    PRIMARY KEY (version, step)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin";

/// Whether a migration is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationState {
    /// It is, and reads as in this build.
    Applied,
    /// It is, and an earlier version of dropgate recorded it elsewhere: `migrate` takes the record over.
    Elsewhere,
    /// It is not.
    Pending,
    /// Some of its steps are: `migrate` does the others.
    Partly,
    /// It is, but with another text: this build and that database do not belong together.
    Altered,
    /// The database has it and this build does not: the build is older than the schema.
    Unknown,
}

impl MigrationState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Elsewhere => "applied by an earlier version",
            Self::Pending => "pending",
            Self::Partly => "partly applied",
            Self::Altered => "altered",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub version: i64,
    pub description: String,
    /// SHA-384 of its file as this build has it, lower-case hex; empty if this build does not have it.
    pub checksum: String,
    pub state: MigrationState,
}

/// What is there, and what `migrate` would do.
#[derive(Debug)]
pub struct Plan {
    pub migrations: Vec<Migration>,
    /// Why nothing can be done, each with its remedy.
    pub problems: Vec<String>,
    todo: Vec<(Step, Todo)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// It was done, by an earlier version or a `migrate` that was interrupted.
    Record,
    Run,
}

impl Plan {
    /// `version name` of each migration that needs a statement.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (step, _) in self.todo.iter().filter(|(_, todo)| *todo == Todo::Run) {
            names.push(format!("{:04} {}", step.version, step.description));
        }
        names.dedup();
        names
    }
}

impl MySqlStore {
    /// Brings the schema up to date. Returns `version name` of each migration of which a step was applied now.
    ///
    /// No instance does this at its start: it is a command, and needs rights that the service should not have.
    ///
    /// # Errors
    /// [`Fault`]: everything that stands in the way, before the first statement; or the statement that failed.
    pub async fn migrate(&self) -> Result<Vec<String>, Fault> {
        self.bring_up_to_date(false).await
    }

    /// As [`MySqlStore::migrate`]. Tables and columns that exist, look like dropgate's and were not recorded as such are
    /// taken over.
    pub async fn repair(&self) -> Result<Vec<String>, Fault> {
        self.bring_up_to_date(true).await
    }

    async fn bring_up_to_date(&self, repair: bool) -> Result<Vec<String>, Fault> {
        let mut connection = self.reach().await?;
        let connection = &mut connection;
        let prepare = async {
            // The lock ends with the connection.
            let is_alone: Option<i64> =
                sqlx::query_scalar("SELECT GET_LOCK(CONCAT('dropgate ', LEFT(DATABASE(), 50)), ?)")
                    .bind(LOCK_S)
                    .fetch_one(&mut *connection)
                    .await
                    .map_err(|error| fault_of(&error))?;
            if is_alone != Some(1) {
                return Err(failed("another `issuer migrate` is running in this database".to_owned()));
            }
            let plan = plan(connection, repair).await?;
            // A change of a large table may take long. Waits for locks stay limited.
            let unlimited = "SET SESSION lock_wait_timeout = 10 /*M! , max_statement_time = 0 */";
            connection.execute(unlimited).await.map_err(|error| fault_of(&error))?;
            Ok(plan)
        };
        let plan = self.soon(prepare).await?;
        if !plan.problems.is_empty() {
            return Err(failed(format!("nothing was changed:\n  {}", plan.problems.join("\n  "))));
        }
        let applied = plan.pending();
        connection.execute(TABLE).await.map_err(|error| fault_of(&error))?;
        for (step, todo) in plan.todo.iter().filter(|(_, todo)| *todo != Todo::Nothing) {
            do_step(connection, step, *todo).await?;
        }
        Ok(applied)
    }

    /// What is there, what is missing, and what stands in the way.
    pub async fn plan(&self, repair: bool) -> Result<Plan, Fault> {
        self.soon(async { plan(&mut self.reach().await?, repair).await }).await
    }

    /// Every migration that this build or the database knows, in their order.
    pub async fn migrations(&self) -> Result<Vec<Migration>, Fault> {
        let recorded = self.soon(async { recorded(&mut self.reach().await?).await }).await?;
        Ok(migrations(&steps(), &recorded, &HashSet::new()))
    }

    /// Whether dropgate's own record has every step of this build, with the same text. The service's user may read no
    /// other table of migrations.
    pub async fn is_migrated(&self) -> Result<bool, Fault> {
        let all = self.migrations().await?;
        let is_there = |state| matches!(state, MigrationState::Applied | MigrationState::Unknown);
        Ok(all.iter().all(|migration| is_there(migration.state)))
    }
}

async fn do_step(connection: &mut MySqlConnection, step: &Step, todo: Todo) -> Result<(), Fault> {
    let Step { version, number, description, checksum, sql, .. } = step;
    let broken = |error: sqlx::Error| {
        failed(format!("step {number} of migration {version:04} failed, nothing after it was run: {error}"))
    };
    sqlx::query(
        "INSERT INTO dropgate_migrations (version, step, description, checksum, began_at) \
         VALUES (?, ?, ?, ?, UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE began_at = UTC_TIMESTAMP(3)",
    )
    .bind(version)
    .bind(number)
    .bind(description)
    .bind(checksum)
    .execute(&mut *connection)
    .await
    .map_err(broken)?;
    if todo == Todo::Run {
        connection.execute(AssertSqlSafe(sql.clone())).await.map_err(broken)?;
    }
    sqlx::query("UPDATE dropgate_migrations SET applied_at = UTC_TIMESTAMP(3) WHERE version = ? AND step = ?")
        .bind(version)
        .bind(number)
        .execute(&mut *connection)
        .await
        .map_err(broken)?;
    Ok(())
}

/// A row of `dropgate_migrations`: its description, its checksum, and whether it was completed.
type Recorded = BTreeMap<(i64, i32), (String, String, bool)>;

async fn recorded(connection: &mut MySqlConnection) -> Result<Recorded, Fault> {
    let query =
        sqlx::query_as("SELECT version, step, description, checksum, applied_at IS NOT NULL FROM dropgate_migrations");
    match query.fetch_all(connection).await {
        Ok(rows) => Ok(rows
            .into_iter()
            .map(|(version, step, description, checksum, is_applied): (i64, i32, String, String, i64)| {
                ((version, step), (description, checksum, is_applied != 0))
            })
            .collect()),
        Err(error) if number_of(&error) == Some(NO_SUCH_TABLE) => Ok(Recorded::new()),
        Err(error) => Err(fault_of(&error)),
    }
}

/// The files that earlier versions of dropgate recorded in sqlx's table. Rows of others differ in their checksums.
async fn files_elsewhere(connection: &mut MySqlConnection) -> Result<HashSet<Vec<u8>>, Fault> {
    let query = sqlx::query_scalar("SELECT checksum FROM _sqlx_migrations WHERE success = TRUE");
    match query.fetch_all(connection).await {
        Ok(checksums) => Ok(checksums.into_iter().collect()),
        // Somebody else's table may look different altogether; a user without rights to it has not written it.
        Err(sqlx::Error::Database(_) | sqlx::Error::ColumnDecode { .. }) => Ok(HashSet::new()),
        Err(error) => Err(fault_of(&error)),
    }
}

fn migrations(steps: &[Step], recorded: &Recorded, elsewhere: &HashSet<Vec<u8>>) -> Vec<Migration> {
    let mut all = BTreeMap::<i64, Vec<&Step>>::new();
    for step in steps {
        all.entry(step.version).or_default().push(step);
    }
    let known = all.iter().filter_map(|(version, steps)| {
        let first = steps.first()?;
        let rows: Vec<_> = steps.iter().map(|step| recorded.get(&(*version, step.number))).collect();
        let is_altered =
            steps.iter().zip(&rows).any(|(step, row)| row.is_some_and(|(_, checksum, _)| *checksum != step.checksum));
        let applied = rows.iter().filter(|row| row.is_some_and(|(.., is_applied)| *is_applied)).count();
        let state = match applied {
            _ if is_altered => MigrationState::Altered,
            all if all == steps.len() => MigrationState::Applied,
            0 if first.is_in(elsewhere) => MigrationState::Elsewhere,
            0 if rows.iter().all(Option::is_none) => MigrationState::Pending,
            _ => MigrationState::Partly,
        };
        let (version, description) = (*version, first.description.clone());
        Some(Migration { version, description, checksum: hex(&first.file_checksum), state })
    });
    let mut migrations: Vec<Migration> = known.collect();
    for ((version, step), (description, ..)) in recorded {
        match migrations.iter_mut().find(|migration| migration.version == *version) {
            None => migrations.push(Migration {
                version: *version,
                description: description.clone(),
                checksum: String::new(),
                state: MigrationState::Unknown,
            }),
            Some(migration) if migration.state == MigrationState::Applied => {
                if !steps.iter().any(|known| (known.version, known.number) == (*version, *step)) {
                    migration.state = MigrationState::Altered;
                }
            }
            Some(_) => {}
        }
    }
    migrations.sort_unstable_by_key(|migration| migration.version);
    migrations
}

async fn plan(connection: &mut MySqlConnection, repair: bool) -> Result<Plan, Fault> {
    let steps = steps();
    let recorded = recorded(connection).await?;
    let elsewhere = files_elsewhere(connection).await?;
    let migrations = migrations(&steps, &recorded, &elsewhere);
    let mut problems: Vec<String> = migrations
        .iter()
        .filter(|migration| matches!(migration.state, MigrationState::Altered | MigrationState::Unknown))
        .map(|migration| {
            let (version, state) = (migration.version, migration.state.as_str());
            format!("migration {version:04} is {state}: this build and that database do not belong together")
        })
        .collect();
    let there = Objects::read(connection).await?;
    let mut todo = Vec::with_capacity(steps.len());
    for step in steps {
        let row = recorded.get(&(step.version, step.number));
        let presence = step.effect.as_ref().map_or(Presence::Absent, |effect| there.presence(effect));
        let is_elsewhere =
            recorded.range((step.version, 0)..=(step.version, i32::MAX)).next().is_none() && step.is_in(&elsewhere);
        let name = || step.effect.as_ref().map_or_else(String::new, Effect::to_string);
        let next = match (row.map(|(.., is_applied)| *is_applied), presence) {
            (Some(true), _) => Todo::Nothing,
            (None, Presence::Present) if is_elsewhere => Todo::Record,
            (None, Presence::Absent) if is_elsewhere && step.effect.is_some() && !repair => {
                problems.push(format!(
                    "{} is missing, although migration {:04} was applied: restore it, or create it with \
                     `issuer migrate --repair`",
                    name(),
                    step.version
                ));
                Todo::Nothing
            }
            // The record was written when the object did not exist yet.
            (Some(false), Presence::Present) => Todo::Record,
            (None, Presence::Present) if repair => Todo::Record,
            (None, Presence::Present) => {
                problems.push(format!(
                    "{} exists, looks like dropgate's, and is not recorded. If a migration of dropgate was \
                     interrupted, `issuer migrate --repair` takes it over",
                    name(),
                ));
                Todo::Nothing
            }
            (_, Presence::Other(lacks)) => {
                problems.push(format!(
                    "{} exists and is not dropgate's, it has no {lacks}: rename it, or give dropgate a database of its \
                     own",
                    name(),
                ));
                Todo::Nothing
            }
            (_, Presence::Absent) => Todo::Run,
        };
        todo.push((step, next));
    }
    let plan = Plan { migrations, problems, todo };
    if plan.todo.iter().any(|(_, todo)| *todo != Todo::Nothing) {
        return with_missing_rights(connection, plan).await;
    }
    Ok(plan)
}

/// Adds the rights that the plan needs and the user does not have.
async fn with_missing_rights(connection: &mut MySqlConnection, mut plan: Plan) -> Result<Plan, Fault> {
    let mut needed = vec!["SELECT", "INSERT", "UPDATE", "CREATE"];
    for (step, _) in plan.todo.iter().filter(|(_, todo)| *todo == Todo::Run) {
        needed.extend(step.sql.contains("FOREIGN KEY").then_some("REFERENCES"));
        needed.extend(step.sql.starts_with("ALTER ").then_some("ALTER"));
        needed.extend(step.sql.contains(" INDEX ").then_some("INDEX"));
    }
    needed.sort_unstable();
    needed.dedup();
    let database: String = one(connection, "SELECT DATABASE()").await?;
    let version: String = one(connection, "SELECT VERSION()").await?;
    if version.to_ascii_lowercase().contains("mariadb") {
        // It does not look at this right.
        needed.retain(|right| *right != "REFERENCES");
    }
    let grants: Vec<String> =
        sqlx::query_scalar("SHOW GRANTS").fetch_all(connection).await.map_err(|error| fault_of(&error))?;
    let missing = missing(&grants, &database, &needed);
    if !missing.is_empty() {
        let (missing, all) = (missing.join(", "), needed.join(", "));
        plan.problems.push(format!(
            "the user in DATABASE_URL lacks {missing} on `{database}`: GRANT {all} ON `{database}`.* TO .."
        ));
    }
    Ok(plan)
}

async fn one(connection: &mut MySqlConnection, sql: &'static str) -> Result<String, Fault> {
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(|error| fault_of(&error))
}

/// Names of the database's objects, each with its table, in lower case.
struct Objects {
    columns: HashMap<String, HashSet<String>>,
    constraints: HashMap<String, HashSet<String>>,
    indexes: HashMap<String, HashSet<String>>,
}

enum Presence {
    Absent,
    Present,
    /// Something else has this name: it lacks this.
    Other(String),
}

impl Objects {
    async fn read(connection: &mut MySqlConnection) -> Result<Self, Fault> {
        let mut read = async |sql: &'static str| {
            let rows: Vec<(String, String)> =
                sqlx::query_as(sql).fetch_all(&mut *connection).await.map_err(|error| fault_of(&error))?;
            let mut names = HashMap::<String, HashSet<String>>::new();
            for (table, name) in rows {
                names.entry(table.to_lowercase()).or_default().insert(name.to_lowercase());
            }
            Ok::<_, Fault>(names)
        };
        Ok(Self {
            columns: read(
                "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR) FROM information_schema.columns \
                 WHERE table_schema = DATABASE()",
            )
            .await?,
            constraints: read(
                "SELECT CAST(table_name AS CHAR), CAST(constraint_name AS CHAR) \
                 FROM information_schema.table_constraints WHERE table_schema = DATABASE()",
            )
            .await?,
            indexes: read(
                "SELECT CAST(table_name AS CHAR), CAST(index_name AS CHAR) FROM information_schema.statistics \
                 WHERE table_schema = DATABASE()",
            )
            .await?,
        })
    }

    fn presence(&self, effect: &Effect) -> Presence {
        let has = |names: &HashMap<String, HashSet<String>>, table: &str, name: &str| {
            names.get(table).is_some_and(|names| names.contains(name))
        };
        let is_there = match effect {
            Effect::Table { name, .. } => self.columns.contains_key(name),
            Effect::Column { table, name } => has(&self.columns, table, name),
            Effect::Constraint { table, name } => has(&self.constraints, table, name),
            Effect::Index { table, name } => has(&self.indexes, table, name),
        };
        if !is_there {
            return Presence::Absent;
        }
        if let Effect::Table { name, columns, constraints } = effect {
            if let Some(column) = columns.iter().find(|column| !has(&self.columns, name, column)) {
                return Presence::Other(format!("column {column}"));
            }
            if let Some(constraint) = constraints.iter().find(|constraint| !has(&self.constraints, name, constraint)) {
                return Presence::Other(format!("constraint {constraint}"));
            }
        }
        Presence::Present
    }
}

fn failed(detail: String) -> Fault {
    Fault::none(Source::MySql, labels::MIGRATION, false, detail)
}
