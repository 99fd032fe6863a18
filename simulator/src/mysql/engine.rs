//! Transactions: they write, lock, wait for one another, commit and roll back. Nothing here takes time; a statement
//! that has to wait gets a [`Wake`], and repeats its step when that ends.

use super::error::ServerError;
use super::locks::{Answer, Key, Locks, Mode, Part, Trx, Wake};
use super::schema::{Flavor, Schema};
use super::table_locks::{Access, TableLocks, Turn};
use super::tables::{CouponRow, Revision, Tables};
use super::text::Padded;
use super::view::View;
use dropgate_issuer::store::rows::DeadLetterKey;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Why a step of a statement is not done.
#[derive(Debug)]
pub(super) enum Halt {
    Wait(Wake),
    Error(ServerError),
}

impl From<ServerError> for Halt {
    fn from(error: ServerError) -> Self {
        Self::Error(error)
    }
}

/// A change, as it is taken back.
#[derive(Debug)]
pub(super) enum Change {
    Campaign(Rc<str>),
    Revision {
        campaign: Rc<str>,
        before: Revision,
        /// `before` was the transaction's own.
        was_pending: bool,
    },
    Allotment(Rc<str>, u32),
    /// The record in the primary key.
    Slot(Rc<CouponRow>),
    /// The record in the unique key.
    User(Rc<CouponRow>),
    Refusal(Rc<str>, Padded),
    Replay(DeadLetterKey),
    Waiting(Rc<str>, Padded),
}

/// An open transaction.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) changes: Vec<Change>,
    /// Tables that it has used.
    pub(super) used: Access,
    /// Tables in which it has intention locks: shared ones (IS), and exclusive ones (IX).
    intentions: Access,
}

impl Transaction {
    /// Records of its undo log.
    fn undo_records(&self) -> usize {
        self.changes.iter().filter(|change| !matches!(change, Change::User(_))).count()
    }
}

/// The server without its connections.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) tables: Tables,
    locks: Locks,
    pub(super) table_locks: TableLocks,
    transactions: BTreeMap<Trx, Transaction>,
    begun: u64,
    /// Every committed transaction that has changed something, in their order.
    log: Vec<Vec<Change>>,
    pub(super) schema: Schema,
    pub(super) flavor: Flavor,
    /// Victims of deadlocks.
    pub(super) victims: u64,
    twins: u32,
}

impl Engine {
    pub(super) fn new(schema: Schema, flavor: Flavor) -> Self {
        Self {
            tables: Tables::default(),
            locks: Locks::new(flavor),
            table_locks: TableLocks::default(),
            transactions: BTreeMap::new(),
            begun: 0,
            log: Vec::new(),
            schema,
            flavor,
            victims: 0,
            twins: 0,
        }
    }

    pub(super) fn view(&self, trx: Trx) -> View<'_> {
        View { tables: &self.tables, trx }
    }

    /// How many transactions wait for a lock.
    pub(super) fn waiting(&self) -> usize {
        self.locks.waiting()
    }

    pub(super) fn begin(&mut self) -> Trx {
        self.begun += 1;
        let trx = Trx(self.begun);
        self.transactions.insert(trx, Transaction::default());
        trx
    }

    pub(super) fn transactions(&self) -> &BTreeMap<Trx, Transaction> {
        &self.transactions
    }

    /// Whether a statement may use these tables now.
    pub(super) fn use_tables(&mut self, trx: Trx, access: Access) -> Turn {
        let transaction = self.transactions.get_mut(&trx);
        let used = transaction.as_ref().map_or(Access::default(), |transaction| transaction.used);
        let turn = self.table_locks.check(used, access);
        if let (Turn::Granted, Some(transaction)) = (turn, transaction) {
            transaction.used.add(access);
        }
        turn
    }

    /// Takes note of an intention lock on the table of `key`. It matters for the weight of the transaction only.
    pub(super) fn intend(&mut self, trx: Trx, key: &Key, mode: Mode) {
        if let Some(transaction) = self.transactions.get_mut(&trx) {
            let table = key.index().table().bit();
            match mode {
                Mode::Exclusive => transaction.intentions.writes |= table,
                // The exclusive one covers it.
                Mode::Shared => transaction.intentions.reads |= table & !transaction.intentions.writes,
            }
        }
    }

    /// Takes a table lock that was asked for, once no transaction uses the table.
    pub(super) fn take_table_lock(&mut self, id: u64) -> bool {
        self.table_locks.take(id, self.transactions.values().map(|transaction| transaction.used))
    }

    pub(super) fn has_changed(&self, trx: Trx) -> bool {
        self.changes(trx) > 0
    }

    /// How many changes the transaction has made: a point to roll back to.
    pub(super) fn changes(&self, trx: Trx) -> usize {
        self.transactions.get(&trx).map_or(0, |transaction| transaction.changes.len())
    }

    pub(super) fn commit(&mut self, trx: Trx) {
        let Some(transaction) = self.transactions.remove(&trx) else { return };
        for change in &transaction.changes {
            self.confirm(change);
        }
        if !transaction.changes.is_empty() {
            self.log.push(transaction.changes);
        }
        self.end(trx);
    }

    fn confirm(&mut self, change: &Change) {
        match change {
            Change::Slot(row) => row.owner.set(Trx::NONE),
            // The same row.
            Change::User(_) => {}
            Change::Campaign(name) => {
                if let Some(row) = &mut self.tables.of_mut(name).row {
                    row.owner = Trx::NONE;
                }
            }
            Change::Revision { campaign, .. } => {
                if let Some(row) = &mut self.tables.of_mut(campaign).row
                    && let Some((_, revision)) = row.pending.take()
                {
                    row.revision = revision;
                }
            }
            Change::Allotment(name, capacity) => {
                if let Some(row) = self.tables.of_mut(name).allotments.get_mut(capacity) {
                    row.owner = Trx::NONE;
                }
            }
            Change::Refusal(name, user) => {
                if let Some(row) = self.tables.of_mut(name).refusals.get_mut(user) {
                    row.owner = Trx::NONE;
                }
            }
            Change::Replay(key) => {
                if let Some(row) = self.tables.replays.get_mut(key) {
                    row.owner = Trx::NONE;
                }
            }
            Change::Waiting(name, user) => {
                if let Some(row) = self.tables.of_mut(name).waiting.get_mut(user) {
                    row.owner = Trx::NONE;
                }
            }
        }
    }

    /// Rolls back, and releases all locks. Whoever waits within `trx` gets `why`.
    pub(super) fn rollback(&mut self, trx: Trx, why: Result<(), ServerError>) {
        if !self.transactions.contains_key(&trx) {
            return;
        }
        self.locks.cancel_wait(trx, why);
        self.roll_back_to(trx, 0);
        self.transactions.remove(&trx);
        self.end(trx);
    }

    /// Takes back what the transaction has changed since. Its locks stay, but for those on records that go.
    pub(super) fn roll_back_to(&mut self, trx: Trx, changes: usize) {
        while self.changes(trx) > changes
            && let Some(change) = self.transactions.get_mut(&trx).and_then(|transaction| transaction.changes.pop())
        {
            self.take_back(trx, &change);
        }
    }

    fn take_back(&mut self, trx: Trx, change: &Change) {
        let key = match change {
            Change::Revision { campaign, before, was_pending } => {
                if let Some(row) = &mut self.tables.of_mut(campaign).row {
                    row.pending = was_pending.then_some((trx, *before));
                    if trx == Trx::NONE {
                        row.revision = *before;
                        row.pending = None;
                    }
                }
                return;
            }
            Change::Campaign(name) => {
                self.tables.of_mut(name).row = None;
                Key::Campaign(name.clone())
            }
            Change::Allotment(name, capacity) => {
                self.tables.of_mut(name).allotments.remove(capacity);
                Key::Allotment(name.clone(), *capacity)
            }
            Change::Slot(row) => {
                self.tables.of_mut(&row.campaign).by_slot.remove(&(row.slot, row.slot_twin));
                row.slot_key()
            }
            Change::User(row) => {
                self.tables.of_mut(&row.campaign).by_user.remove(&(row.user.clone(), row.user_twin));
                row.user_key()
            }
            Change::Refusal(name, user) => {
                self.tables.of_mut(name).refusals.remove(user);
                Key::Refusal(name.clone(), user.clone())
            }
            Change::Replay(key) => {
                self.tables.replays.remove(key);
                Key::Replay(*key)
            }
            Change::Waiting(name, user) => {
                self.tables.of_mut(name).waiting.remove(user);
                Key::Waiting(name.clone(), user.clone())
            }
        };
        if self.locks.is_any_on(&key) {
            let next = self.tables.next(&key);
            self.locks.removed(&key, &next);
        }
    }

    fn end(&mut self, trx: Trx) {
        self.locks.release(trx);
        self.table_locks.changed();
    }

    /// Undoes the last `count` committed transactions, as an asynchronous replica does that takes over without them.
    /// No transaction may be open.
    pub(super) fn lose_commits(&mut self, count: usize) -> Vec<Change> {
        let mut lost = Vec::new();
        for changes in self.log.split_off(self.log.len().saturating_sub(count)).into_iter().rev() {
            for change in changes.into_iter().rev() {
                self.take_back(Trx::NONE, &change);
                lost.push(change);
            }
        }
        lost
    }

    /// The replica has all that is committed.
    pub(super) fn replicate(&mut self) {
        self.log.clear();
    }

    /// A lock on a record that is there.
    pub(super) fn lock(&mut self, trx: Trx, key: &Key, mode: Mode, part: Part) -> Result<bool, Halt> {
        let owner = self.tables.owner(key).unwrap_or(Trx::NONE);
        match self.locks.request(trx, key, mode, part, owner) {
            Answer::Granted(is_new) => Ok(is_new),
            Answer::Waits(wake) => {
                self.end_deadlocks(trx)?;
                Ok(Err(Halt::Wait(wake))?)
            }
        }
    }

    pub(super) fn unlock(&mut self, trx: Trx, key: &Key) {
        self.locks.release_exclusive(trx, key);
    }

    /// The transaction has waited long enough for a lock.
    pub(super) fn cancel_wait(&mut self, trx: Trx) {
        self.locks.cancel_wait(trx, Ok(()));
    }

    /// Room for a record that is not there: `Ok` if it may be inserted now.
    pub(super) fn room(&mut self, trx: Trx, key: &Key) -> Result<(), Halt> {
        if self.locks.has_gaps(key.index()) {
            let next = self.tables.next(key);
            self.lock(trx, &next, Mode::Exclusive, Part::Insert)?;
        }
        Ok(())
    }

    /// The record that [`Engine::room`] was for has been inserted.
    pub(super) fn inserted(&mut self, trx: Trx, key: &Key, change: Change) {
        if self.locks.has_gaps(key.index()) {
            let next = self.tables.next(key);
            self.locks.split_gap(trx, key, &next);
        }
        self.changed(trx, change);
    }

    pub(super) fn changed(&mut self, trx: Trx, change: Change) {
        if let Some(transaction) = self.transactions.get_mut(&trx) {
            transaction.changes.push(change);
        }
    }

    /// `trx` waits: where transactions wait in a circle, the lightest of them is rolled back, and among equals the one
    /// that came last.
    ///
    /// The weight is InnoDB's (`TRX_WEIGHT`): records of the undo log, and lock structures.
    fn end_deadlocks(&mut self, trx: Trx) -> Result<(), Halt> {
        while let Some(cycle) = self.locks.cycle(trx) {
            let lightest = cycle.into_iter().min_by_key(|(trx, since)| (self.weight(*trx), Reverse(*since)));
            let Some((victim, _)) = lightest else { break };
            self.victims += 1;
            self.rollback(victim, Err(ServerError::deadlock()));
            if victim == trx {
                return Err(Halt::Error(ServerError::deadlock()));
            }
        }
        Ok(())
    }

    fn weight(&self, trx: Trx) -> usize {
        let own = self.transactions.get(&trx).map_or(0, |transaction| {
            let Access { reads, writes } = transaction.intentions;
            transaction.undo_records() + (reads.count_ones() + writes.count_ones()) as usize
        });
        own + self.locks.structures(trx)
    }

    /// A number that no other row has.
    pub(super) fn twin(&mut self) -> u32 {
        self.twins += 1;
        self.twins
    }
}
