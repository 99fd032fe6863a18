//! Locks on index records, as InnoDB has them at READ COMMITTED.
//!
//! A lock stands in the queue of an index record, and concerns the record, the gap before it, or both. Whoever asks for
//! one waits for every conflicting lock ahead in that queue, held or waited for; locks are granted in the order of
//! arrival. (MySQL prefers the transaction that most others wait for, and arrival among equals.)
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
use super::text::Padded;
use dropgate_issuer::store::rows::DeadLetterKey;
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
#[derive(Debug, Default)]
pub(super) struct Locks {
    queues: BTreeMap<Key, Vec<Lock>>,
    /// In the order of acquisition; may name keys that are no more.
    held: BTreeMap<Trx, Vec<Key>>,
    waiting: BTreeMap<Trx, Wait>,
    waits: u64,
    /// Locks with a gap in each index: while there is none, an insertion need not look for the next record.
    gaps: BTreeMap<Index, usize>,
}

impl Locks {
    /// Asks for a lock. `owner` has inserted the record and not committed: it holds an exclusive lock without any entry
    /// here.
    pub(super) fn request(&mut self, trx: Trx, key: &Key, mode: Mode, part: Part, owner: Trx) -> Answer {
        if owner == trx {
            return Answer::Granted(false);
        }
        if owner != Trx::NONE {
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
            wanted.is_waiting = queue.iter().any(|lock| wanted.waits_for(lock));
        }
        if !wanted.is_waiting {
            // An insertion that waits for nobody leaves no lock.
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

    /// A record of `owner` was removed by a rollback; `next` is the one behind it now. Who waited for it is woken. What
    /// others had asked for on it goes on as a shared lock on the gap in which it was: two that waited to insert the
    /// same key will find each other in the way (tried: the second is the victim of a deadlock).
    pub(super) fn removed(&mut self, owner: Trx, key: &Key, next: &Key) {
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
            if lock.trx != owner && lock.part != Part::Insert {
                self.push(next, Lock { part: Part::Gap, is_waiting: false, ..lock });
            }
        }
    }

    /// Releases one lock on a record.
    pub(super) fn release_record(&mut self, trx: Trx, key: &Key) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.retain(|lock| lock.trx != trx || lock.part != Part::Record);
            self.grant(key);
        }
    }

    /// Releases all locks of `trx`, which waits for none.
    pub(super) fn release(&mut self, trx: Trx) {
        for key in self.held.remove(&trx).unwrap_or_default() {
            self.drop_locks(&key, |lock| lock.trx == trx);
        }
    }

    /// `trx` waits no longer, and learns why.
    pub(super) fn cancel_wait(&mut self, trx: Trx, why: Result<(), ServerError>) {
        if let Some(wait) = self.waiting.remove(&trx) {
            let _ = wait.wake.send(why);
            self.drop_locks(&wait.key, |lock| lock.trx == trx && lock.is_waiting);
        }
    }

    fn drop_locks(&mut self, key: &Key, is_dropped: impl Fn(&Lock) -> bool) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let gaps = |queue: &[Lock]| queue.iter().filter(|lock| lock.has_gap()).count();
        let before = gaps(queue);
        queue.retain(|lock| !is_dropped(lock));
        let dropped = before - gaps(queue);
        if let Some(count) = self.gaps.get_mut(&key.index()) {
            *count -= dropped;
        }
        self.grant(key);
    }

    /// Grants what nobody ahead is in the way of.
    fn grant(&mut self, key: &Key) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        if queue.is_empty() {
            self.queues.remove(key);
            return;
        }
        for place in 0..queue.len() {
            let (ahead, rest) = queue.split_at_mut(place);
            if let Some(lock) = rest.first_mut()
                && lock.is_waiting
                && !ahead.iter().any(|other| lock.waits_for(other))
            {
                lock.is_waiting = false;
                if let Some(wait) = self.waiting.remove(&lock.trx) {
                    let _ = wait.wake.send(Ok(()));
                }
            }
        }
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
        let queue = self.queues.get(&wait.key).map(Vec::as_slice).unwrap_or_default();
        let Some(place) = queue.iter().position(|lock| lock.trx == from && lock.is_waiting) else { return false };
        let (ahead, own) = queue.split_at(place);
        path.push((from, wait.since));
        for other in ahead.iter().filter(|other| own.first().is_some_and(|lock| lock.waits_for(other))) {
            if other.trx == start || seen.insert(other.trx) && self.reaches(other.trx, start, path, seen) {
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
