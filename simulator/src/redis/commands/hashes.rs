//! Hashes.

use super::{LISTPACK_BYTES, Machine, OVERFLOW, Outcome, Scanned, malformed, whole};
use crate::redis::reply::{Bytes, Reply, integer};
use crate::redis::store::{Value, WrongType};
use std::collections::BTreeMap;

type Fields = BTreeMap<Bytes, Bytes>;

impl Machine {
    fn hash(&self, key: &[u8]) -> Result<Option<&Fields>, WrongType> {
        match self.store.get(key) {
            None => Ok(None),
            Some(Value::Hash(fields)) => Ok(Some(fields)),
            Some(_) => Err(WrongType),
        }
    }

    fn field(&self, key: &[u8], field: &[u8]) -> Result<Option<&Bytes>, WrongType> {
        Ok(self.hash(key)?.and_then(|fields| fields.get(field)))
    }

    fn fields_in_order(&self, key: &[u8]) -> Result<Vec<(&Bytes, &Bytes)>, WrongType> {
        Ok(self.hash(key)?.map_or_else(Vec::new, |fields| self.shuffled(fields.iter())))
    }
}

pub fn hget(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, field] = args else { return malformed() };
    Ok(Reply::optional(machine.field(key, field)?))
}

pub fn hmget(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, fields @ ..] = args else { return malformed() };
    let hash = machine.hash(key)?;
    let value = |field: &Bytes| Reply::optional(hash.and_then(|hash| hash.get(field)));
    Ok(Reply::Array(fields.iter().map(value).collect()))
}

pub fn hset(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, pairs @ ..] = args else { return malformed() };
    let (pairs, []) = pairs.as_chunks::<2>() else {
        return Err("ERR wrong number of arguments for 'hset' command".into());
    };
    let mut created = 0;
    for [field, value] in pairs {
        created += usize::from(machine.store.put_field(key, field, Some(value.clone()))?.is_none());
    }
    Ok(Reply::count(created))
}

pub fn hsetnx(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, field, value] = args else { return malformed() };
    let absent = machine.field(key, field)?.is_none();
    if absent {
        machine.store.put_field(key, field, Some(value.clone()))?;
    }
    Ok(Reply::flag(absent))
}

pub fn hincrby(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, field, by] = args else { return malformed() };
    let by = whole(by)?;
    let before = match machine.field(key, field)? {
        Some(value) => integer(value).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let after = before.checked_add(by).ok_or(OVERFLOW)?;
    machine.store.put_field(key, field, Some(after.to_string().as_bytes().into()))?;
    Ok(Reply::Int(after))
}

pub fn hdel(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, fields @ ..] = args else { return malformed() };
    machine.hash(key)?;
    let mut removed = 0;
    for field in fields {
        removed += usize::from(machine.store.put_field(key, field, None)?.is_some());
    }
    Ok(Reply::count(removed))
}

pub fn hlen(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::count(machine.hash(key)?.map_or(0, BTreeMap::len)))
}

pub fn hexists(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, field] = args else { return malformed() };
    Ok(Reply::flag(machine.field(key, field)?.is_some()))
}

pub fn hgetall(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    let fields = machine.fields_in_order(key)?;
    Ok(Reply::list(fields.into_iter().flat_map(|(field, value)| [field.clone(), value.clone()])))
}

pub fn hkeys(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::list(machine.fields_in_order(key)?.into_iter().map(|(field, _)| field.clone())))
}

pub fn hvals(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::list(machine.fields_in_order(key)?.into_iter().map(|(_, value)| value.clone())))
}

pub fn hscan(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, ..] = args else { return malformed() };
    machine.page(args, machine.hash(key).map(|hash| hash.map(scanned)))
}

fn scanned(fields: &Fields) -> Scanned<'_> {
    let short = |text: &Bytes| text.len() <= LISTPACK_BYTES;
    Scanned {
        listpack: fields.iter().all(|(field, value)| short(field) && short(value)),
        entries: fields.iter().map(|(field, value)| (field, Some(value.clone()))).collect(),
    }
}
