//! Metadata locks: what `LOCK TABLES`, `ALTER TABLE` or a backup's `FLUSH TABLES WITH READ LOCK` do to others.
//!
//! - A transaction keeps a metadata lock on every table that it has used until it ends (manual, "Metadata Locking").
//! - A lock on a table waits for the transactions that have used it. Meanwhile, new users of the table wait behind it,
//!   readers too if it is for writing; a transaction that has used the table in the same way goes on (tried).
//! - One that has read the table and now wants to write it would wait for the lock that waits for it: it is the victim
//!   of a deadlock (1213, tried), and its transaction is rolled back.
//! - Under a lock for reading, writers wait, and so does `SELECT .. FOR UPDATE` (tried).
//! - The global read lock waits for no open transaction; statements that write wait for it, and the commit of a
//!   transaction that has written (manual, "FLUSH TABLES WITH READ LOCK"; tried).
//! - `innodb_lock_wait_timeout` does not end these waits. `lock_wait_timeout` does, as the issuer's sessions set it.

use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::Notify;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Campaigns,
    Allotments,
    Coupons,
    Refusals,
    Replays,
    Waiting,
}

impl Table {
    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The tables that a statement uses, or a transaction has used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Access {
    pub(super) reads: u8,
    pub(super) writes: u8,
}

impl Access {
    pub(super) const fn reads(tables: &[Table]) -> Self {
        let (mut reads, mut rest) = (0, tables);
        while let [table, others @ ..] = rest {
            reads |= table.bit();
            rest = others;
        }
        Self { reads, writes: 0 }
    }

    /// Writes `table`, or locks rows of it; reads `parent` for its foreign key.
    pub(super) const fn writes(table: Table, parent: Option<Table>) -> Self {
        let reads = match parent {
            Some(parent) => parent.bit(),
            None => 0,
        };
        Self { reads, writes: table.bit() }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.reads |= other.reads;
        self.writes |= other.writes;
    }
}

/// What somebody else locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableLock {
    /// `LOCK TABLES .. READ`, or a table that is being copied.
    Reading(Table),
    /// `LOCK TABLES .. WRITE`, or the end of an `ALTER TABLE`.
    Writing(Table),
    /// `FLUSH TABLES WITH READ LOCK`.
    Everything,
}

impl TableLock {
    /// What of `access` it excludes.
    fn excludes(self, access: Access) -> u8 {
        match self {
            Self::Reading(table) => access.writes & table.bit(),
            Self::Writing(table) => (access.reads | access.writes) & table.bit(),
            Self::Everything => access.writes,
        }
    }
}

/// The answer to a statement that wants to use tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Granted,
    /// Until a lock is released.
    Wait,
    /// It would wait for a lock that waits for its own transaction.
    Deadlock,
}

/// The locks that somebody else holds or waits for.
#[derive(Debug, Default)]
pub(super) struct TableLocks {
    /// With whether it is held.
    locks: BTreeMap<u64, (TableLock, bool)>,
    asked: u64,
    changed: Rc<Notify>,
}

impl TableLocks {
    pub(super) fn ask(&mut self, lock: TableLock) -> u64 {
        self.asked += 1;
        self.locks.insert(self.asked, (lock, lock == TableLock::Everything));
        self.asked
    }

    /// Takes the lock, if it is not held yet and no transaction has used the table.
    pub(super) fn take(&mut self, id: u64, mut used: impl Iterator<Item = Access>) -> bool {
        match self.locks.get_mut(&id) {
            Some((lock, is_held)) => {
                *is_held = *is_held || !used.any(|access| lock.excludes(access) != 0);
                *is_held
            }
            None => true,
        }
    }

    pub(super) fn release(&mut self, id: u64) {
        self.locks.remove(&id);
        self.changed.notify_waiters();
    }

    pub(super) fn release_all(&mut self) {
        self.locks.clear();
        self.changed.notify_waiters();
    }

    /// Whether a transaction that has used `used` so far may go on with `access`.
    pub(super) fn check(&self, used: Access, access: Access) -> Turn {
        let mut turn = Turn::Granted;
        for (lock, is_held) in self.locks.values() {
            // Who has used the table in the same way goes on while the lock is waited for.
            let reads = access.reads & !(used.reads | used.writes);
            let writes = access.writes & !used.writes;
            let new = if *is_held { access } else { Access { reads, writes } };
            if lock.excludes(new) != 0 {
                if !is_held && lock.excludes(used) != 0 {
                    return Turn::Deadlock;
                }
                turn = Turn::Wait;
            }
        }
        turn
    }

    /// Whether a transaction that has written may commit.
    pub(super) fn check_commit(&self) -> Turn {
        let is_everything_locked = self.locks.values().any(|(lock, _)| *lock == TableLock::Everything);
        if is_everything_locked { Turn::Wait } else { Turn::Granted }
    }

    /// Ends when a lock is released or a transaction ends.
    pub(super) fn change(&self) -> Rc<Notify> {
        self.changed.clone()
    }

    /// A transaction has ended.
    pub(super) fn changed(&self) {
        if !self.locks.is_empty() {
            self.changed.notify_waiters();
        }
    }
}
