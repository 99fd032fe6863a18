//! Sets. A set of words is a hash table from its first member on, so it is always scanned in pages; a set of
//! whole numbers (intset) is not distinguished.

use super::{Machine, Outcome, Scanned, malformed};
use crate::redis::reply::{Bytes, Reply};
use crate::redis::store::{Value, WrongType};
use std::collections::BTreeSet;

impl Machine {
    fn set(&self, key: &[u8]) -> Result<Option<&BTreeSet<Bytes>>, WrongType> {
        match self.store.get(key) {
            None => Ok(None),
            Some(Value::Set(members)) => Ok(Some(members)),
            Some(_) => Err(WrongType),
        }
    }

    fn put_members(&mut self, args: &[Bytes], present: bool) -> Outcome {
        let [_, key, members @ ..] = args else { return malformed() };
        self.set(key)?;
        let mut changed = 0;
        for member in members {
            changed += usize::from(self.store.put_member(key, member, present)?);
        }
        Ok(Reply::count(changed))
    }
}

pub fn sadd(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    machine.put_members(args, true)
}

pub fn srem(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    machine.put_members(args, false)
}

pub fn scard(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::count(machine.set(key)?.map_or(0, BTreeSet::len)))
}

pub fn sismember(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, member] = args else { return malformed() };
    Ok(Reply::flag(machine.set(key)?.is_some_and(|members| members.contains(member))))
}

pub fn smismember(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, asked @ ..] = args else { return malformed() };
    let members = machine.set(key)?;
    let present = |member: &Bytes| Reply::flag(members.is_some_and(|members| members.contains(member)));
    Ok(Reply::Array(asked.iter().map(present).collect()))
}

pub fn smembers(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    let members = machine.set(key)?.into_iter().flatten();
    Ok(Reply::list(machine.shuffled(members.map(|member| (member, ()))).into_iter().map(|(member, ())| member.clone())))
}

pub fn sscan(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, ..] = args else { return malformed() };
    machine.page(args, machine.set(key).map(|set| set.map(scanned)))
}

fn scanned(members: &BTreeSet<Bytes>) -> Scanned<'_> {
    Scanned { listpack: false, entries: members.iter().map(|member| (member, None)).collect() }
}
