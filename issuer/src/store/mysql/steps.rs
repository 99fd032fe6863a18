//! The migrations as steps of one statement each, and what shows that a step was done.

use sqlx::migrate::{Migration, MigrationType};
use sqlx::{AssertSqlSafe, SqlSafeStr};
use std::collections::HashSet;
use std::fmt;

/// Files whose comments changed after a release, by the checksum that they had.
const FORMER: [(i64, &str); 1] =
    [(1, "fec922047608c7f8f05f18888e7907a40eea875c121c464db1000da6b6083318c877bd0baf71f4e21eccf35bafdae7dc")];

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// A statement of a migration. The server does it as a whole or not at all.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) version: i64,
    /// From 1, within the migration.
    pub(super) number: i32,
    pub(super) description: String,
    pub(super) sql: String,
    /// SHA-384 of the statement without comments and line breaks, lower-case hex: a comment may change.
    pub(super) checksum: String,
    /// `None`: the statement may be run again at any time.
    pub(super) effect: Option<Effect>,
    /// SHA-384 of the whole file, by which sqlx's own table of migrations recognises it.
    pub(super) file_checksum: Vec<u8>,
}

/// What exists once a step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Table { name: String, columns: Vec<String>, constraints: Vec<String> },
    Column { table: String, name: String },
    Constraint { table: String, name: String },
    Index { table: String, name: String },
}

impl Step {
    /// Whether sqlx's table, with these checksums, has the file of this step.
    pub(super) fn is_in(&self, checksums: &HashSet<Vec<u8>>) -> bool {
        checksums.contains(&self.file_checksum)
            || FORMER.iter().any(|(version, former)| {
                *version == self.version && checksums.iter().any(|checksum| hex(checksum) == *former)
            })
    }
}

/// All steps of all migrations, in their order.
pub(super) fn steps() -> Vec<Step> {
    MIGRATIONS.iter().flat_map(of).collect()
}

fn of(migration: &Migration) -> impl Iterator<Item = Step> {
    (1..).zip(statements(migration.sql.as_str())).map(|(number, sql)| Step {
        version: migration.version,
        number,
        description: migration.description.to_string(),
        checksum: hex(&sha384(&sql.split_whitespace().collect::<Vec<_>>().join(" "))),
        effect: Effect::of(&sql),
        sql,
        file_checksum: migration.checksum.to_vec(),
    })
}

/// A statement ends with a semicolon at the end of a line. Comments are lines of their own.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let code = code.join("\n") + "\n";
    code.split(";\n").map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

impl Effect {
    fn of(sql: &str) -> Option<Self> {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let name = |word: &str| word.trim_matches(|c| "`(),".contains(c)).to_owned();
        match *words.as_slice() {
            ["CREATE", "TABLE", table, ..] => {
                let (mut columns, mut constraints) = (Vec::new(), Vec::new());
                // Deeper lines continue the one before.
                for line in sql.lines().filter_map(|line| line.strip_prefix("    ")) {
                    match *line.split_whitespace().collect::<Vec<_>>().as_slice() {
                        _ if line.starts_with(' ') => {}
                        ["CONSTRAINT", constraint, ..] => constraints.push(name(constraint)),
                        [column, ..] if column.starts_with(|c: char| c.is_ascii_lowercase()) => {
                            columns.push(name(column));
                        }
                        _ => {}
                    }
                }
                Some(Self::Table { name: name(table), columns, constraints })
            }
            ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => {
                Some(Self::Column { table: name(table), name: name(column) })
            }
            ["ALTER", "TABLE", table, "ADD", "CONSTRAINT", constraint, ..] => {
                Some(Self::Constraint { table: name(table), name: name(constraint) })
            }
            ["CREATE", "INDEX", index, "ON", table, ..] | ["CREATE", "UNIQUE", "INDEX", index, "ON", table, ..] => {
                Some(Self::Index { table: name(table), name: name(index) })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { name, .. } => write!(f, "table {name}"),
            Self::Column { table, name } => write!(f, "column {table}.{name}"),
            Self::Constraint { table, name } => write!(f, "constraint {name} of table {table}"),
            Self::Index { table, name } => write!(f, "index {name} of table {table}"),
        }
    }
}

fn sha384(text: &str) -> Vec<u8> {
    let sql = AssertSqlSafe(text.to_owned()).into_sql_str();
    Migration::new(0, "".into(), MigrationType::Simple, sql, false).checksum.to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_one_statement_and_shows_whether_it_was_done() {
        let steps = steps();
        for step in &steps {
            assert!(!step.sql.contains(';'), "a statement ends with its line: {}", step.sql);
            assert!(step.effect.is_some() || step.sql.starts_with("UPDATE"), "cannot be repeated: {}", step.sql);
        }
        let first: Vec<_> = steps.iter().filter(|step| step.version == 1).collect();
        assert_eq!(first.len(), 4);
        assert_eq!(
            first[2].effect,
            Some(Effect::Table {
                name: "coupons".to_owned(),
                columns: ["campaign_id", "slot", "allotment", "user_id", "code", "admitted_at", "issued_at"]
                    .map(str::to_owned)
                    .to_vec(),
                constraints: ["coupon_user", "coupon_allotment", "coupon_slot"].map(str::to_owned).to_vec(),
            })
        );
    }

    #[test]
    fn a_comment_is_no_part_of_a_step() {
        let plain = statements("CREATE TABLE a (\n    b INT\n);\nUPDATE a SET b = 1;\n");
        let commented =
            statements("-- One; two;\nCREATE TABLE a (\n    -- why;\n    b INT\n);\n\n-- Then\nUPDATE a SET b = 1;");
        assert_eq!((&plain, plain.len()), (&commented, 2));
    }

    #[test]
    fn effects() {
        let column = Effect::Column { table: "a".to_owned(), name: "b".to_owned() };
        assert_eq!(Effect::of("ALTER TABLE a\n    ADD COLUMN b INT NOT NULL"), Some(column));
        let index = Effect::Index { table: "a".to_owned(), name: "i".to_owned() };
        assert_eq!(Effect::of("CREATE UNIQUE INDEX i ON a (b)"), Some(index));
        assert_eq!(Effect::of("UPDATE a SET b = 1"), None);
    }
}
