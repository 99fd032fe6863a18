//! Strings, keys of any type, and the server as a whole.

use super::{Machine, OVERFLOW, Outcome, is, malformed, whole};
use crate::redis::reply::{Bytes, Reply, integer};
use crate::redis::store::{Value, WrongType};
use std::borrow::Cow;

impl Machine {
    fn text(&self, key: &[u8]) -> Result<Option<&Bytes>, WrongType> {
        match self.store.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WrongType),
        }
    }

    fn add(&mut self, key: &Bytes, by: i64) -> Outcome {
        let before = match self.text(key)? {
            Some(text) => integer(text).ok_or(super::NOT_AN_INTEGER)?,
            None => 0,
        };
        let after = before.checked_add(by).ok_or(OVERFLOW)?;
        self.store.put_key(key, Some(Value::Text(after.to_string().as_bytes().into())));
        Ok(Reply::Int(after))
    }
}

pub fn get(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::optional(machine.text(key)?))
}

pub fn mget(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, keys @ ..] = args else { return malformed() };
    // MGET alone reads a key of another type as missing.
    Ok(Reply::Array(keys.iter().map(|key| Reply::optional(machine.text(key).unwrap_or(None))).collect()))
}

pub fn set(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, value, options @ ..] = args else { return malformed() };
    let given = |name| options.iter().any(|option| is(option, name));
    let (only_new, only_known, old) = (given("nx"), given("xx"), given("get"));
    let known = |option: &Bytes| ["nx", "xx", "get"].iter().any(|name| is(option, name));
    if (only_new && only_known) || !options.iter().all(known) {
        return malformed();
    }
    let before = if old { Reply::optional(machine.text(key)?) } else { Reply::OK };
    let exists = machine.store.get(key).is_some();
    if (only_new && exists) || (only_known && !exists) {
        return Ok(if old { before } else { Reply::Nil });
    }
    machine.store.put_key(key, Some(Value::Text(value.clone())));
    Ok(before)
}

pub fn incr(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    machine.add(key, 1)
}

pub fn decr(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    machine.add(key, -1)
}

pub fn incrby(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, by] = args else { return malformed() };
    let by = whole(by)?;
    machine.add(key, by)
}

pub fn del(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, keys @ ..] = args else { return malformed() };
    Ok(Reply::count(keys.iter().filter(|key| machine.store.put_key(key, None).is_some()).count()))
}

pub fn exists(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, keys @ ..] = args else { return malformed() };
    Ok(Reply::count(keys.iter().filter(|key| machine.store.get(key).is_some()).count()))
}

pub fn type_of(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::Status(Cow::Borrowed(machine.store.get(key).map_or("none", Value::type_name))))
}

pub fn dbsize(machine: &mut Machine, _: &[Bytes]) -> Outcome {
    Ok(Reply::count(machine.store.len()))
}

pub fn flushall(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    match args {
        [_] => {}
        [_, mode] if is(mode, "sync") || is(mode, "async") => {}
        _ => return malformed(),
    }
    let keys: Vec<Bytes> = machine.store.keys().cloned().collect();
    for key in keys {
        machine.store.put_key(&key, None);
    }
    Ok(Reply::OK)
}

pub fn ping(_: &mut Machine, args: &[Bytes]) -> Outcome {
    match args {
        [_] => Ok(Reply::Status(Cow::Borrowed("PONG"))),
        [_, text] => Ok(Reply::Bulk(text.clone())),
        _ => Err("ERR wrong number of arguments for 'ping' command".into()),
    }
}

pub fn time(machine: &mut Machine, _: &[Bytes]) -> Outcome {
    let (seconds, us) = (machine.now_us / 1_000_000, machine.now_us % 1_000_000);
    Ok(Reply::Array(vec![Reply::bulk(seconds.to_string()), Reply::bulk(us.to_string())]))
}
