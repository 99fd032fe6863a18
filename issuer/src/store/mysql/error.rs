//! What a failed statement means, by its error number. MySQL and MariaDB share most of them.

use crate::labels;
use crate::store::ports::StoreError;
use dropgate_shared::fault::{Effect, Fault, Source};
use sqlx::mysql::MySqlDatabaseError;
use std::fmt::Display;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        database_error(&error)
            .and_then(|error| classify(error.number(), error.code().unwrap_or_default(), error.message()))
            .unwrap_or_else(|| Self::Away(fault_of(&error)))
    }
}

/// The constraints of the schema (`migrations/`).
const OURS: [&str; 10] = [
    "PRIMARY",
    "campaign_state",
    "campaign_window",
    "allotment_capacity",
    "allotment_campaign",
    "coupon_user",
    "coupon_allotment",
    "coupon_slot",
    "refusal_campaign",
    "waiting_campaign",
];

/// What an error of the server means for the statement; `None` if it says that the database is away, or does not say
/// what it means.
#[must_use]
pub fn classify(number: u16, state: &str, message: &str) -> Option<StoreError> {
    let others = |message: &str| Some(StoreError::OthersConstraint(message.to_owned()));
    match (number, state) {
        // Duplicate entry; no such parent row; CHECK on MySQL.
        // 4025: CHECK on MariaDB. The number is another error on MySQL.
        (1062 | 1169 | 1586 | 1216 | 1452 | 3819, _) | (4025, "23000") => match constraint_of(message) {
            Some(name) if !OURS.contains(&name) => others(message),
            _ => Some(StoreError::Constraint),
        },
        // SIGNAL, as in a trigger.
        (1644, _) | (_, "45000") => others(message),
        // Lock wait timeout; deadlock; a row changed under a snapshot (MariaDB); lock table full.
        // SQLSTATE class 40: the server has rolled back, as group replication does for two writers of one row.
        (1205 | 1213 | 1020 | 1206, _) => Some(StoreError::Contention),
        (_, state) if state.starts_with("40") => Some(StoreError::Contention),
        // Truncated, not representable, invalid in its character set, of another type than its column; and NULL.
        (1048 | 1265 | 1300 | 1366 | 1406 | 3988, _) => Some(StoreError::Data(message.to_owned())),
        // SQLSTATE class 22: data exception; 23: integrity constraint violation.
        (_, state) if state.starts_with("22") => Some(StoreError::Data(message.to_owned())),
        (_, state) if state.starts_with("23") => others(message),
        _ => None,
    }
}

/// The constraint that a message names: "Duplicate entry '..' for key 'coupons.coupon_user'", "Check constraint
/// 'coupon_slot' is violated.", "CONSTRAINT `coupon_slot` failed for ..", "a foreign key constraint fails (.., CONSTRAINT
/// `coupon_allotment` FOREIGN KEY ..". What a row holds comes before the key, and in no other message.
fn constraint_of(message: &str) -> Option<&str> {
    if let Some((_, key)) = message.rsplit_once(" for key '") {
        let key = key.trim_end_matches('\'');
        return Some(key.rsplit_once('.').map_or(key, |(_, name)| name));
    }
    let named = |before: &str, quote: char| Some(message.split_once(before)?.1.split_once(quote)?.0);
    named("Check constraint '", '\'').or_else(|| named("CONSTRAINT `", '`'))
}

/// The error number that the server gave, if it was the server that failed the call.
pub(super) fn number_of(error: &sqlx::Error) -> Option<u16> {
    database_error(error).map(MySqlDatabaseError::number)
}

fn state_of(error: &sqlx::Error) -> &str {
    database_error(error).and_then(MySqlDatabaseError::code).unwrap_or_default()
}

/// A failure as a fault, with the remedy for the reader of the log.
///
/// Its effect counts as unknown: a connection may die after the commit has arrived. Writing the same
/// batch again finds that out (I6).
pub(super) fn fault_of(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::PoolTimedOut => fault(None, &POOL_TIMED_OUT),
        // Of the driver, at connect: it has no RSA, which the default plugin needs where there is no TLS.
        sqlx::Error::Configuration(error) if error.to_string().contains("RSA") => Fault::none(
            Source::MySql,
            labels::AUTHENTICATION,
            false,
            "the server's authentication plugin (caching_sha2_password) takes a password only over TLS: remove \
             ssl-mode=DISABLED from DATABASE_URL, or ssl-mode=PREFERRED where the server has no TLS",
        ),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            timed_out("a statement got no answer")
        }
        other => {
            let (number, state) = (number_of(other), state_of(other));
            let worded = fault_in(number, state, other);
            match (worded.label, number) {
                // The server's words for these name users, tables and options of its own, and no value of a row (a
                // trigger would have to raise these very numbers). Any other message may hold one.
                (
                    labels::ACCESS_DENIED
                    | labels::NO_DATABASE
                    | labels::NO_SCHEMA
                    | labels::TOO_MANY_CONNECTIONS
                    | labels::READ_ONLY,
                    _,
                )
                | (_, None) => worded,
                (_, Some(known)) => fault_in(number, state, &format!("error {known} (SQLSTATE {state})")),
            }
        }
    }
}

fn timed_out(detail: impl Into<String>) -> Fault {
    Fault::unknown(Source::MySql, labels::TIMEOUT, detail)
}

/// The fault of a question that was not answered.
pub(super) fn no_answer(within: std::time::Duration) -> Fault {
    timed_out(format!("no answer within {} s", within.as_secs()))
}

/// What says that no connection of the pool became free or could be opened in time.
pub const POOL_TIMED_OUT: &str = "no connection within 5 s";

/// The fault of an error with this number; `None` for a failed connection.
#[must_use]
pub fn fault(number: Option<u16>, detail: &dyn Display) -> Fault {
    fault_in(number, "", detail)
}

fn fault_in(number: Option<u16>, state: &str, detail: &dyn Display) -> Fault {
    let (label, remedy) = match number {
        None => (labels::UNREACHABLE, "check that MySQL is up and that DATABASE_URL names its host and port"),
        Some(1045 | 1044 | 1142 | 1143 | 1370 | 1698 | 3118) => {
            (labels::ACCESS_DENIED, "check user and password in DATABASE_URL, and the user's grants")
        }
        Some(1049) => (labels::NO_DATABASE, "create the database that DATABASE_URL names"),
        Some(NO_SUCH_TABLE | 1054) => (labels::NO_SCHEMA, "run `issuer migrate`"),
        Some(1040 | 1203 | 1226) => {
            (labels::TOO_MANY_CONNECTIONS, "raise max_connections, or give the issuer a quota of its own")
        }
        Some(PACKET_TOO_LARGE) => {
            (labels::PACKET_TOO_LARGE, "raise the server's max_allowed_packet to 16M or more, or lower BATCH_RECORDS")
        }
        Some(BINLOG_FORMAT) => {
            (labels::BINLOG_FORMAT, "set the server's binlog_format to ROW or MIXED: the service writes READ COMMITTED")
        }
        Some(1290 | 1792 | 1836 | 1874) => {
            (labels::READ_ONLY, "the server is read-only: DATABASE_URL must name the primary")
        }
        // Also: it cannot write a file or create a thread; its undo log is full.
        Some(1021 | 1114 | 1041 | 1037 | 1026 | 1135 | 3019) => {
            (labels::OUT_OF_SPACE, "the server is out of disk or memory")
        }
        Some(1053 | 1077 | 1079 | 1152 | 1158..=1161 | 1184 | 1927 | 2006 | 2013 | 3169 | 4031) => {
            (labels::GOING_DOWN, "the server ended the connection")
        }
        // Galera without its cluster; failed at COMMIT, in the storage engine or the binary log; offline mode; group
        // replication that refuses a commit or waits for its members.
        Some(1047 | 1180 | 1030 | 1296 | 1297 | 1598 | 1637 | 3032 | 3100 | 3101 | 3168 | 3796..=3799) => {
            (labels::NOT_READY, "the server takes no writes now: see its own log and the state of its cluster")
        }
        // Its own limit, or ours by KILL.
        Some(1317 | 1969 | 3024) => (labels::TIMEOUT, "the statement took longer than its limit"),
        // Connection exception.
        Some(_) if state.starts_with("08") => (labels::GOING_DOWN, "the server ended the connection"),
        Some(_) => (labels::REFUSED, "see the number in MySQL's list of server errors"),
    };
    let detail = format!("{detail} ({remedy})");
    // Waiting changes no setting of the server.
    let retry = number != Some(BINLOG_FORMAT);
    Fault { effect: Effect::Unknown, retry, source: Source::MySql, label, detail }
}

const PACKET_TOO_LARGE: u16 = 1153;
const BINLOG_FORMAT: u16 = 1665;

pub(super) const NO_SUCH_TABLE: u16 = 1146;

fn database_error(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constraint_of_the_schema_is_ours() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let mut found = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let sql = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for constraint in sql.split("CONSTRAINT ").skip(1) {
                let name = constraint.split_whitespace().next().unwrap();
                assert!(OURS.contains(&name), "{name}");
                found += 1;
            }
        }
        assert_eq!(found, OURS.len() - 1, "all but the primary keys");
    }

    #[test]
    fn a_constraint_that_is_not_ours_blames_the_row() {
        for (number, state, message, is_ours) in [
            (1062, "23000", "Duplicate entry 'c-1' for key 'coupons.PRIMARY'", true),
            (1062, "23000", "Duplicate entry 'c-u for key 'x'' for key 'coupon_user'", true),
            (1062, "23000", "Duplicate entry 'c-u' for key 'coupons.one_for_each_household'", false),
            (3819, "HY000", "Check constraint 'coupon_slot' is violated.", true),
            (3819, "HY000", "coupon_guard: slot beyond the allotment", true),
            (3819, "HY000", "Check constraint 'shop_rule' is violated.", false),
            (4025, "23000", "CONSTRAINT `coupon_slot` failed for `d`.`coupons`", true),
            (4025, "23000", "CONSTRAINT `shop_rule` failed for `d`.`coupons`", false),
            (1452, "23000", "Cannot add .. fails (`d`.`coupons`, CONSTRAINT `coupon_allotment` FOREIGN KEY", true),
            (1452, "23000", "Cannot add .. fails (`d`.`coupons`, CONSTRAINT `shop_customer` FOREIGN KEY", false),
            (1452, "23000", "Cannot add or update a child row: a foreign key constraint fails", true),
            (1644, "45000", "this customer is blocked", false),
            (9999, "45001", "nothing that is known", false),
            (3999, "23999", "a constraint of a later version", false),
        ] {
            let expected = match (is_ours, number) {
                (_, 9999) => None,
                (true, _) => Some(StoreError::Constraint),
                (false, _) => Some(StoreError::OthersConstraint(message.to_owned())),
            };
            assert_eq!(classify(number, state, message), expected, "{number} {message}");
        }
    }

    /// What passes by itself blames no row, although only its SQLSTATE may be known.
    #[test]
    fn what_a_cluster_answers_blames_no_row() {
        for (number, state) in [(3101, "40000"), (3101, "HY000"), (5999, "40002"), (1105, "40001")] {
            let expected = state.starts_with("40").then_some(StoreError::Contention);
            assert_eq!(classify(number, state, "certification"), expected, "{number} {state}");
        }
        for (number, state, label) in [
            (1047, "08S01", "not_ready"),
            (3100, "HY000", "not_ready"),
            (3101, "HY000", "not_ready"),
            (3797, "HY000", "not_ready"),
            (9001, "08004", "going_down"),
            (9001, "HY000", "refused"),
        ] {
            assert_eq!(classify(number, state, "not now"), None, "{number} {state}");
            let fault = fault_in(Some(number), state, &"not now");
            assert_eq!((fault.label, fault.retry), (label, true), "{fault}");
        }
    }

    /// Settings that no waiting changes, each with its own remedy.
    #[test]
    fn settings_that_cannot_work_are_named_with_their_remedy() {
        let rsa = "RSA auth backend disabled; enable feature `mysql-rsa`";
        let authentication = fault_of(&sqlx::Error::Configuration(rsa.into()));
        for (fault, label, retry, remedy) in [
            (authentication, "authentication", false, "remove ssl-mode=DISABLED"),
            (fault(Some(1665), &"no"), "binlog_format", false, "binlog_format to ROW or MIXED"),
            (fault(Some(1153), &"no"), "packet_too_large", true, "max_allowed_packet"),
        ] {
            assert_eq!((fault.label, fault.retry), (label, retry), "{fault}");
            assert!(fault.detail.contains(remedy), "{fault}");
        }
    }
}
