//! The data set: four types, and every change recorded so that it can be undone or repeated.
//!
//! An empty collection does not exist (Redis removes the key with its last element). Everything is held in
//! order of its bytes; what order a client sees is decided in `commands`.

use super::reply::Bytes;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(Bytes),
    Hash(BTreeMap<Bytes, Bytes>),
    Set(BTreeSet<Bytes>),
    Sorted(SortedSet),
}

impl Value {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
            Self::Sorted(_) => "zset",
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Hash(fields) => fields.is_empty(),
            Self::Set(members) => members.is_empty(),
            Self::Sorted(sorted) => sorted.scores.is_empty(),
        }
    }
}

/// A sorted set: by member, and by score and then member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SortedSet {
    pub(super) scores: BTreeMap<Bytes, f64>,
    pub(super) order: BTreeSet<(Score, Bytes)>,
}

impl SortedSet {
    fn put(&mut self, member: &Bytes, score: Option<f64>) -> Option<f64> {
        let before = match score {
            Some(score) => self.scores.insert(member.clone(), score),
            None => self.scores.remove(member),
        };
        if let Some(before) = before {
            self.order.remove(&(Score(before), member.clone()));
        }
        if let Some(score) = score {
            self.order.insert((Score(score), member.clone()));
        }
        before
    }
}

/// A score with a total order; commands let no NaN in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score(pub(super) f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

/// One change, with what was there before.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Key { key: Bytes, before: Option<Value>, after: Option<Value> },
    Field { key: Bytes, field: Bytes, before: Option<Bytes>, after: Option<Bytes> },
    Member { key: Bytes, member: Bytes, after: bool },
    Score { key: Bytes, member: Bytes, before: Option<f64>, after: Option<f64> },
}

/// The key holds another type than the command works on.
#[derive(Debug)]
pub(super) struct WrongType;

/// A data set, and what changed in it since the last [`Store::take_effects`].
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    keys: BTreeMap<Bytes, Value>,
    effects: Vec<Effect>,
}

impl Store {
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.keys.get(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    pub fn put_key(&mut self, key: &Bytes, after: Option<Value>) -> Option<Value> {
        let before = put_key(&mut self.keys, key, after.clone());
        if before.is_some() || after.is_some() {
            self.effects.push(Effect::Key { key: key.clone(), before: before.clone(), after });
        }
        before
    }

    /// Sets a field of a hash, or removes it; returns what it held.
    pub fn put_field(&mut self, key: &Bytes, field: &Bytes, after: Option<Bytes>) -> Result<Option<Bytes>, WrongType> {
        let before = put_field(&mut self.keys, key, field, after.clone())?;
        if before != after {
            let (key, field) = (key.clone(), field.clone());
            self.effects.push(Effect::Field { key, field, before: before.clone(), after });
        }
        Ok(before)
    }

    /// Puts a member into a set, or removes it; returns whether that changed the set.
    pub fn put_member(&mut self, key: &Bytes, member: &Bytes, after: bool) -> Result<bool, WrongType> {
        let changed = put_member(&mut self.keys, key, member, after)?;
        if changed {
            self.effects.push(Effect::Member { key: key.clone(), member: member.clone(), after });
        }
        Ok(changed)
    }

    /// Sets the score of a member of a sorted set, or removes it; returns its score before.
    pub fn put_score(&mut self, key: &Bytes, member: &Bytes, after: Option<f64>) -> Result<Option<f64>, WrongType> {
        let before = put_score(&mut self.keys, key, member, after)?;
        if before != after {
            self.effects.push(Effect::Score { key: key.clone(), member: member.clone(), before, after });
        }
        Ok(before)
    }

    /// Repeats a change that another copy of this data set has made. Records nothing.
    pub fn redo(&mut self, effect: &Effect) {
        // An effect fits the data set that it was recorded on, so no type is wrong.
        match effect {
            Effect::Key { key, after, .. } => drop(put_key(&mut self.keys, key, after.clone())),
            Effect::Field { key, field, after, .. } => drop(put_field(&mut self.keys, key, field, after.clone())),
            Effect::Member { key, member, after } => drop(put_member(&mut self.keys, key, member, *after)),
            Effect::Score { key, member, after, .. } => drop(put_score(&mut self.keys, key, member, *after)),
        }
    }

    /// Takes back the last change. Records nothing.
    pub fn undo(&mut self, effect: &Effect) {
        match effect {
            Effect::Key { key, before, .. } => drop(put_key(&mut self.keys, key, before.clone())),
            Effect::Field { key, field, before, .. } => drop(put_field(&mut self.keys, key, field, before.clone())),
            Effect::Member { key, member, after } => drop(put_member(&mut self.keys, key, member, !*after)),
            Effect::Score { key, member, before, .. } => drop(put_score(&mut self.keys, key, member, *before)),
        }
    }

    /// The data alone.
    pub fn data(&self) -> &BTreeMap<Bytes, Value> {
        &self.keys
    }

    pub fn with_data(keys: BTreeMap<Bytes, Value>) -> Self {
        Self { keys, effects: Vec::new() }
    }
}

type Keys = BTreeMap<Bytes, Value>;

fn put_key(keys: &mut Keys, key: &Bytes, after: Option<Value>) -> Option<Value> {
    match after {
        Some(value) => keys.insert(key.clone(), value),
        None => keys.remove(key),
    }
}

fn put_field(keys: &mut Keys, key: &Bytes, field: &Bytes, after: Option<Bytes>) -> Result<Option<Bytes>, WrongType> {
    in_collection(
        keys,
        key,
        after.is_some(),
        || Value::Hash(BTreeMap::new()),
        |value| match value {
            Value::Hash(fields) => Ok(match after {
                Some(text) => fields.insert(field.clone(), text),
                None => fields.remove(field),
            }),
            _ => Err(WrongType),
        },
    )
}

fn put_member(keys: &mut Keys, key: &Bytes, member: &Bytes, after: bool) -> Result<bool, WrongType> {
    in_collection(
        keys,
        key,
        after,
        || Value::Set(BTreeSet::new()),
        |value| match value {
            Value::Set(members) if after => Ok(members.insert(member.clone())),
            Value::Set(members) => Ok(members.remove(member)),
            _ => Err(WrongType),
        },
    )
}

fn put_score(keys: &mut Keys, key: &Bytes, member: &Bytes, after: Option<f64>) -> Result<Option<f64>, WrongType> {
    in_collection(
        keys,
        key,
        after.is_some(),
        || Value::Sorted(SortedSet::default()),
        |value| match value {
            Value::Sorted(sorted) => Ok(sorted.put(member, after)),
            _ => Err(WrongType),
        },
    )
}

/// Changes the collection at `key`; makes one if `create`, and removes it when it has become empty.
fn in_collection<T: Default>(
    keys: &mut Keys,
    key: &Bytes,
    create: bool,
    empty: impl FnOnce() -> Value,
    change: impl FnOnce(&mut Value) -> Result<T, WrongType>,
) -> Result<T, WrongType> {
    let (result, emptied) = match keys.get_mut(key) {
        Some(value) => (change(value)?, value.is_empty()),
        None if create => (change(keys.entry(key.clone()).or_insert_with(empty))?, false),
        None => return Ok(T::default()),
    };
    if emptied {
        keys.remove(key);
    }
    Ok(result)
}
