//! A model of the MySQL server that the issuer writes to: the tables of `migrations/*.sql` with every constraint,
//! transactions at READ COMMITTED, locks, connections, and faults that the caller switches on.
//!
//! [`Server::store`] gives what an issuer has: a pool behind the ports of `dropgate_issuer::store::ports`. So the
//! issuer's own rules run on the model, and its own table of errors decides what a failure means.
//!
//! `tests/mysql_contract` runs the same acts on the model and on a real server, and compares every answer, who waits
//! for whom, and all rows at the end. Rules marked "tried" were found there, on MySQL 9.7.4 and MariaDB 10.11. Where
//! the two differ, [`Flavor`] decides.
//!
//! # Rules, their modules and sources
//!
//! - Keys compare by code points, padded with spaces (`text`; manual, "The binary Collation Compared to _bin
//!   Collations").
//! - A text that is too long is error 1406; spaces beyond the length are cut off (`text`; manual, "The CHAR and VARCHAR
//!   Types", strict mode).
//! - DATETIME(3): MySQL rounds, MariaDB cuts off (`statements`; manual, "Fractional Seconds in Time Values"; tried).
//! - Order of the checks of a row, and the lock that each check takes (`statements`; manual, "Locks Set by Different
//!   SQL Statements in InnoDB"; tried).
//! - Conflicts of locks, order of grants, gaps (`locks`; manual, "InnoDB Locking", "Transaction Scheduling"; tried).
//! - Deadlocks and their victims (`engine`; manual, "Deadlock Detection"; InnoDB's `TRX_WEIGHT`; tried).
//! - A deadlock (1213) rolls back the transaction; a lock wait timeout (1205), a constraint (1062, 1452, 3819) and a
//!   value (1406) only the statement (`connection`; manual, "InnoDB Error Handling"; tried).
//! - A read sees what was committed when it began, and what its own transaction wrote (`view`; manual, "Transaction
//!   Isolation Levels"; tried).
//! - Metadata locks of `LOCK TABLES`, `ALTER TABLE` and a global read lock (`table_locks`; manual, "Metadata Locking";
//!   tried).
//! - `super_read_only`: 1290 for what writes or locks, and for the commit of what has written (`connection`; tried on
//!   9.7.4).
//! - A statement whose client has gone is carried out, and keeps its connection until then (`connection`; tried).
//! - The pool: 5 s for a connection; a refused one is tried again; one that died while idle is handed out (`session`,
//!   `server`; sqlx 0.9, `sqlx-core/src/pool/inner.rs`).
//!
//! An INT UNSIGNED cannot overflow here, and nothing is NULL that may not be: the ports take neither. So there is no
//! 1264 and no 1048.
//!
//! # What is simpler than the real server
//!
//! - A read takes no time: it sees one moment. So does each step of a statement between two waits.
//! - An index is one page. Locks at the end of a page, purge and delete-marked records do not exist; rows are deleted
//!   by rollbacks only.
//! - Lock structures are counted by index, mode and kind, so the victim of a deadlock may differ between transactions
//!   of nearly the same weight on large tables.
//! - MySQL recomputes the weights of waiting transactions in the background, the model at once.
//! - Two foreign locks on tables do not wait for each other.
//! - The pool returns a connection at once (sqlx pings it first), and keeps it for ever.
//!
//! # Determinism
//!
//! Connections are tasks of the `LocalSet` in which the caller runs. Everything waits by tokio's clock or in queues in
//! the order of arrival; maps that are iterated are ordered. The model draws no random number: who wants dice gives
//! [`Server::set_dice`] a seeded one.

mod connection;
mod engine;
mod error;
mod faults;
mod locks;
mod rows;
mod schema;
mod server;
mod session;
mod statements;
mod table_locks;
mod tables;
mod text;
mod thread;
mod view;

#[cfg(test)]
mod tests;

pub use faults::{At, Away, Dice, Place, Sink, Strike};
pub use rows::{CampaignRow, Coupon, LostRow, Refusal};
pub use schema::{Flavor, Schema};
pub use server::{Server, Settings};
pub use session::{ModelSession, ModelStore};
pub use table_locks::{Table, TableLock};
