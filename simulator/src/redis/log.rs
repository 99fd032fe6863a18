//! The last writes, one unit for each command or script: what a failover loses, and what replicas follow.

use super::store::{Effect, Store};
use std::collections::VecDeque;

/// Units that are kept. A failover cannot lose more.
const KEPT: usize = 10_000;

/// How far a replica is behind the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// By so many units.
    Writes(u64),
    /// By what was written in the last so many ms.
    Ms(u64),
}

#[derive(Debug)]
struct Unit {
    at_ms: u64,
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Replica {
    lag: Lag,
    /// Units that it has, counted as `Log::end` counts.
    applied: u64,
    store: Store,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    units: VecDeque<Unit>,
    /// Number of the first unit that is kept.
    first: u64,
    replicas: Vec<Replica>,
    /// Which replica answers next.
    next: usize,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.units.len() as u64
    }

    /// Ends a unit: all that changed in `store` since the last one. One that changed nothing is none.
    pub fn commit(&mut self, store: &mut Store, at_ms: u64) {
        let effects = store.take_effects();
        if effects.is_empty() {
            return;
        }
        self.units.push_back(Unit { at_ms, effects });
        if self.units.len() > KEPT
            && let Some(oldest) = self.units.pop_front()
        {
            for replica in self.replicas.iter_mut().filter(|replica| replica.applied == self.first) {
                replica.apply(&oldest);
            }
            self.first += 1;
        }
    }

    /// How many units were written at `at_ms` or later.
    pub fn since(&self, at_ms: u64) -> usize {
        self.units.iter().rev().take_while(|unit| unit.at_ms >= at_ms).count()
    }

    /// Takes the last `count` units back; returns how many there were.
    pub fn lose_suffix(&mut self, store: &mut Store, count: usize) -> usize {
        let mut lost = 0;
        while lost < count
            && let Some(unit) = self.units.pop_back()
        {
            unit.effects.iter().rev().for_each(|effect| store.undo(effect));
            lost += 1;
        }
        let end = self.end();
        for replica in self.replicas.iter_mut().filter(|replica| replica.applied > end) {
            replica.resync(store, end);
        }
        lost
    }

    /// Forgets all units, after the data set was replaced. The replicas get the new one.
    pub fn reset(&mut self, store: &Store) {
        self.first = self.end();
        self.units.clear();
        for replica in &mut self.replicas {
            replica.resync(store, self.first);
        }
    }

    pub fn set_replicas(&mut self, store: &Store, lags: &[Lag]) {
        let applied = self.end();
        self.replicas = lags.iter().map(|lag| Replica { lag: *lag, applied, store: store.clone() }).collect();
        self.next = 0;
    }

    /// The data set of the replica whose turn it is, as far as it has followed; `None` without replicas.
    pub fn replica(&mut self, now_ms: u64) -> Option<&mut Store> {
        let (end, first) = (self.end(), self.first);
        let turn = self.next;
        self.next = (turn + 1).checked_rem(self.replicas.len())?;
        let replica = self.replicas.get_mut(turn)?;
        let behind = usize::try_from(replica.applied - first).unwrap_or(usize::MAX);
        for unit in self.units.iter().skip(behind) {
            let due = match replica.lag {
                Lag::Writes(lag) => replica.applied + lag < end,
                Lag::Ms(lag) => unit.at_ms + lag <= now_ms,
            };
            if !due {
                break;
            }
            replica.apply(unit);
        }
        Some(&mut replica.store)
    }
}

impl Replica {
    fn apply(&mut self, unit: &Unit) {
        unit.effects.iter().for_each(|effect| self.store.redo(effect));
        self.applied += 1;
    }

    fn resync(&mut self, store: &Store, applied: u64) {
        self.store = store.clone();
        self.applied = applied;
    }
}
