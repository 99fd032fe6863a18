//! Locks on index records, as InnoDB has them at READ COMMITTED.
//!
//! A lock stands in the queue of an index record, and concerns the record, the gap before it, or both. Whoever asks for
//! one waits for every conflicting lock ahead in that queue, held or waited for. When locks are released, MariaDB
//! grants in the order of arrival; MySQL in the order of how many transactions wait for the one that asks, and of
//! arrival among equals ("Transaction Scheduling"), and past those that still have to wait.
//!
//! | request | waits for |
//! |---|---|
//! | shared or exclusive, on the record or on both | a lock on the record, unless both are shared |
//! | insert intention | a lock on the gap, of either mode, held **or waited for** |
//! | a lock on the gap alone | nothing |
//!
//! Sources: MySQL manual, "InnoDB Locking" and "Locks Set by Different SQL Statements in InnoDB"; tried on 9.7.4 and
//! MariaDB 10.11 with `performance_schema.data_locks`.

use super::error::ServerError;
use super::schema::Flavor;
use super::table_locks::Table;
use super::text::Padded;
use dropgate_issuer::store::rows::DeadLetterKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use tokio::sync::oneshot;

/// A transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trx(pub(super) u64);

impl Trx {
    /// No transaction: the owner of a committed row.
    pub const NONE: Self = Self(0);
}

/// An index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    Campaigns,
    Allotments,
    /// The primary key of coupons.
    Slots,
    /// The unique key of coupons.
    Users,
    Refusals,
    Replays,
    Waiting,
}

impl Index {
    pub(super) fn table(self) -> Table {
        match self {
            Self::Campaigns => Table::Campaigns,
            Self::Allotments => Table::Allotments,
            Self::Slots | Self::Users => Table::Coupons,
            Self::Refusals => Table::Refusals,
            Self::Replays => Table::Replays,
            Self::Waiting => Table::Waiting,
        }
    }
}

/// An index record, or the end of an index: the last gap lies before that. The last number of a slot and of a user is 0
/// unless their unique key is switched off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Campaign(Rc<str>),
    Allotment(Rc<str>, u32),
    Slot(Rc<str>, u32, u32),
    User(Rc<str>, Padded, u32),
    Refusal(Rc<str>, Padded),
    Replay(DeadLetterKey),
    Waiting(Rc<str>, Padded),
    End(Index),
}

impl Key {
    pub(super) fn index(&self) -> Index {
        match self {
            Self::Campaign(_) => Index::Campaigns,
            Self::Allotment(..) => Index::Allotments,
            Self::Slot(..) => Index::Slots,
            Self::User(..) => Index::Users,
            Self::Refusal(..) => Index::Refusals,
            Self::Replay(_) => Index::Replays,
            Self::Waiting(..) => Index::Waiting,
            Self::End(index) => *index,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

/// What a lock concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Record,
    Gap,
    /// The record, and the gap before it.
    NextKey,
    /// To insert into the gap.
    Insert,
}

#[derive(Debug, Clone, Copy)]
struct Lock {
    trx: Trx,
    mode: Mode,
    part: Part,
    is_waiting: bool,
}

impl Lock {
    fn has_gap(&self) -> bool {
        matches!(self.part, Part::Gap | Part::NextKey)
    }

    fn waits_for(&self, other: &Self) -> bool {
        let conflict = self.trx != other.trx && (self.mode == Mode::Exclusive || other.mode == Mode::Exclusive);
        conflict
            && match self.part {
                Part::Gap => false,
                Part::Insert => other.has_gap(),
                Part::Record | Part::NextKey => matches!(other.part, Part::Record | Part::NextKey),
            }
    }

    fn covers(&self, wanted: &Self) -> bool {
        !self.is_waiting
            && self.trx == wanted.trx
            && self.mode >= wanted.mode
            && (self.part == wanted.part || self.part == Part::NextKey && wanted.part != Part::Insert)
    }
}

/// How a wait ends.
pub(super) type Wake = oneshot::Receiver<Result<(), ServerError>>;

#[derive(Debug)]
struct Wait {
    key: Key,
    /// Counts up: who waits longest has the least.
    since: u64,
    wake: oneshot::Sender<Result<(), ServerError>>,
}

/// The answer to a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// `true` if the transaction did not have this lock before.
    Granted(bool),
    /// Ends when the lock is granted, or the record is gone. Then ask again.
    Waits(Wake),
}

/// All locks.
#[derive(Debug)]
pub(super) struct Locks {
    flavor: Flavor,
    queues: BTreeMap<Key, Vec<Lock>>,
    /// In the order of acquisition; may name keys that are no more.
    held: BTreeMap<Trx, Vec<Key>>,
    waiting: BTreeMap<Trx, Wait>,
    waits: u64,
    /// Locks with a gap in each index: while there is none, an insertion need not look for the next record.
    gaps: BTreeMap<Index, usize>,
}

impl Locks {
    pub(super) fn new(flavor: Flavor) -> Self {
        Self {
            flavor,
            queues: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waits: 0,
            gaps: BTreeMap::new(),
        }
    }

    /// Asks for a lock. `owner` has inserted the record and not committed: it holds an exclusive lock, which has an
    /// entry here only once somebody else has asked. (If it asks itself, MySQL makes an entry, MariaDB does not.)
    pub(super) fn request(&mut self, trx: Trx, key: &Key, mode: Mode, part: Part, owner: Trx) -> Answer {
        if owner == trx && part == Part::Record && self.flavor == Flavor::MariaDb {
            return Answer::Granted(false);
        }
        if owner != Trx::NONE && owner != trx {
            let implicit = Lock { trx: owner, mode: Mode::Exclusive, part: Part::Record, is_waiting: false };
            if !self.queues.get(key).is_some_and(|queue| queue.iter().any(|lock| lock.covers(&implicit))) {
                self.push(key, implicit);
            }
        }
        let mut wanted = Lock { trx, mode, part, is_waiting: false };
        if let Some(queue) = self.queues.get(key) {
            if queue.iter().any(|lock| lock.covers(&wanted)) {
                return Answer::Granted(false);
            }
            wanted.is_waiting = queue.iter().any(|lock| self.blocks(queue, lock, &wanted));
        }
        if !wanted.is_waiting {
            // An insertion that need not wait leaves no lock.
            if part != Part::Insert {
                self.push(key, wanted);
            }
            return Answer::Granted(true);
        }
        self.push(key, wanted);
        self.waits += 1;
        let (wake, woken) = oneshot::channel();
        self.waiting.insert(trx, Wait { key: key.clone(), since: self.waits, wake });
        Answer::Waits(woken)
    }

    /// Whether `wanted`, which is behind `lock`, has to wait for it. On MySQL, one that is waited for is passed if it
    /// waits for a lock that the transaction holds, but not to insert (tried).
    fn blocks(&self, queue: &[Lock], lock: &Lock, wanted: &Lock) -> bool {
        let is_own_blocker = |held: &Lock| held.trx == wanted.trx && !held.is_waiting && lock.waits_for(held);
        let can_pass = self.flavor == Flavor::MySql && wanted.part != Part::Insert && lock.is_waiting;
        wanted.waits_for(lock) && !(can_pass && queue.iter().any(is_own_blocker))
    }

    pub(super) fn has_gaps(&self, index: Index) -> bool {
        self.gaps.get(&index).is_some_and(|count| *count > 0)
    }

    /// A record was inserted before `next`. Its gap is split: who had locked it keeps both parts. (That is `trx`
    /// itself; for others the insertion would have waited.)
    pub(super) fn split_gap(&mut self, trx: Trx, key: &Key, next: &Key) {
        let own = self.queues.get(next).into_iter().flatten().find(|lock| lock.trx == trx && lock.has_gap()).copied();
        if let Some(lock) = own {
            self.push(key, Lock { part: Part::Gap, is_waiting: false, ..lock });
        }
    }

    /// A record was removed by a rollback; `next` is the one behind it now. Who waited for it is woken. What was asked
    /// for on it because of a constraint goes on as a lock on the gap in which it was: two that waited to insert the
    /// same key then wait for each other (tried: one of them is the victim of a deadlock).
    pub(super) fn removed(&mut self, key: &Key, next: &Key) {
        let Some(queue) = self.queues.remove(key) else { return };
        for lock in queue {
            if lock.has_gap() {
                self.count_gap(key.index(), -1);
            }
            if lock.is_waiting
                && let Some(wait) = self.waiting.remove(&lock.trx)
            {
                let _ = wait.wake.send(Ok(()));
            }
            // Of a constraint: shared locks, and the exclusive ones of ON DUPLICATE KEY UPDATE.
            let is_constraint = lock.mode == Mode::Shared || key.index() == Index::Replays;
            if is_constraint && lock.part != Part::Insert {
                self.push(next, Lock { part: Part::Gap, is_waiting: false, ..lock });
            }
        }
    }

    /// Releases the exclusive lock on a record.
    pub(super) fn release_exclusive(&mut self, trx: Trx, key: &Key) {
        let weights = self.weights();
        self.drop_locks(key, &weights, |lock| lock.trx == trx && lock.mode == Mode::Exclusive);
    }

    /// Releases all locks of `trx`, which waits for none: one by one, the latest first (tried: who waits for an
    /// exclusive lock may go on while an older, shared one is still held).
    pub(super) fn release(&mut self, trx: Trx) {
        let weights = self.weights();
        for key in self.held.remove(&trx).unwrap_or_default().into_iter().rev() {
            let own = |lock: &Lock| lock.trx == trx;
            let latest = self.queues.get(&key).and_then(|queue| queue.iter().rposition(own));
            let mut place = 0;
            self.drop_locks(&key, &weights, |_| {
                place += 1;
                Some(place - 1) == latest
            });
        }
    }

    /// `trx` waits no longer; `why` is how its wait ends.
    pub(super) fn cancel_wait(&mut self, trx: Trx, why: Result<(), ServerError>) {
        let weights = self.weights();
        if let Some(wait) = self.waiting.remove(&trx) {
            let _ = wait.wake.send(why);
            self.drop_locks(&wait.key, &weights, |lock| lock.trx == trx && lock.is_waiting);
        }
    }

    fn drop_locks(&mut self, key: &Key, weights: &BTreeMap<Trx, usize>, mut is_dropped: impl FnMut(&Lock) -> bool) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let gaps = |queue: &[Lock]| queue.iter().filter(|lock| lock.has_gap()).count();
        let before = gaps(queue);
        queue.retain(|lock| !is_dropped(lock));
        let dropped = before - gaps(queue);
        if let Some(count) = self.gaps.get_mut(&key.index()) {
            *count -= dropped;
        }
        self.grant(key, weights);
    }

    /// Grants what can be granted now.
    fn grant(&mut self, key: &Key, weights: &BTreeMap<Trx, usize>) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        if queue.is_empty() {
            self.queues.remove(key);
            return;
        }
        let mut waiting: Vec<usize> =
            (0..queue.len()).filter(|place| queue.get(*place).is_some_and(|lock| lock.is_waiting)).collect();
        waiting.sort_by_key(|place| Reverse(queue.get(*place).and_then(|lock| weights.get(&lock.trx)).copied()));
        for place in waiting {
            // In arrival order those that wait ahead count too; by weight only those that hold.
            let is_blocked = |lock: &Lock| {
                let mut ahead = queue.iter().enumerate();
                ahead.any(|(other, held)| {
                    let counts = !held.is_waiting || self.flavor == Flavor::MariaDb && other < place;
                    counts && lock.waits_for(held)
                })
            };
            if queue.get(place).is_some_and(is_blocked) {
                continue;
            }
            if let Some(lock) = queue.get_mut(place) {
                lock.is_waiting = false;
                if let Some(wait) = self.waiting.remove(&lock.trx) {
                    let _ = wait.wake.send(Ok(()));
                }
            }
        }
    }

    /// How many transactions wait for each transaction that waits itself, directly or not. MySQL only.
    fn weights(&self) -> BTreeMap<Trx, usize> {
        let mut weights = BTreeMap::new();
        if self.flavor == Flavor::MariaDb || self.waiting.len() < 2 {
            return weights;
        }
        for trx in self.waiting.keys() {
            let mut seen = BTreeSet::from([*trx]);
            let mut from = *trx;
            while let Some(blocker) = self.blockers(from).next()
                && self.waiting.contains_key(&blocker)
                && seen.insert(blocker)
            {
                *weights.entry(blocker).or_default() += 1;
                from = blocker;
            }
        }
        weights
    }

    /// For whom `trx` waits: conflicting locks ahead of its own.
    fn blockers(&self, trx: Trx) -> impl Iterator<Item = Trx> {
        let queue = self.waiting.get(&trx).and_then(|wait| self.queues.get(&wait.key)).map(Vec::as_slice);
        let queue = queue.unwrap_or_default();
        let place = queue.iter().position(|lock| lock.trx == trx && lock.is_waiting).unwrap_or_default();
        let own = queue.get(place);
        let is_blocker = move |other: &&Lock| own.is_some_and(|own| self.blocks(queue, other, own));
        queue.iter().take(place).filter(is_blocker).map(|other| other.trx)
    }

    fn push(&mut self, key: &Key, lock: Lock) {
        if lock.has_gap() {
            self.count_gap(key.index(), 1);
        }
        self.queues.entry(key.clone()).or_default().push(lock);
        self.held.entry(lock.trx).or_default().push(key.clone());
    }

    fn count_gap(&mut self, index: Index, by: isize) {
        let count = self.gaps.entry(index).or_default();
        *count = count.saturating_add_signed(by);
    }

    pub(super) fn is_any_on(&self, key: &Key) -> bool {
        self.queues.contains_key(key)
    }

    /// How many transactions wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Transactions that wait for one another in a circle with `start`, each with the start of its wait.
    pub(super) fn cycle(&self, start: Trx) -> Option<Vec<(Trx, u64)>> {
        let mut path = Vec::new();
        let mut seen = BTreeSet::new();
        self.reaches(start, start, &mut path, &mut seen).then_some(path)
    }

    fn reaches(&self, from: Trx, start: Trx, path: &mut Vec<(Trx, u64)>, seen: &mut BTreeSet<Trx>) -> bool {
        let Some(wait) = self.waiting.get(&from) else { return false };
        path.push((from, wait.since));
        for other in self.blockers(from) {
            if other == start || seen.insert(other) && self.reaches(other, start, path, seen) {
                return true;
            }
        }
        path.pop();
        false
    }

    /// How many lock structures InnoDB has for `trx`: one for each page, mode and kind. A page is an index here.
    pub(super) fn structures(&self, trx: Trx) -> usize {
        let mut kinds = BTreeSet::new();
        for key in self.held.get(&trx).into_iter().flatten() {
            let own = self.queues.get(key).into_iter().flatten().filter(|lock| lock.trx == trx);
            kinds.extend(own.map(|lock| (key.index(), lock.mode, lock.part, lock.is_waiting)));
        }
        kinds.len()
    }
}
