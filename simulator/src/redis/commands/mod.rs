//! The commands on data, as Redis 7.0.15 answers them (src/t_hash.c, t_zset.c, t_set.c, t_string.c, db.c;
//! arity and flags from src/commands/*.json). Errors are worded as there.
//!
//! Deliberately different:
//!
//! - **Order.** `HGETALL`, `HKEYS`, `HVALS`, `SMEMBERS` and the scans answer in an order that is arbitrary and
//!   fixed by [`Machine::order_seed`]. Redis promises no order; a small hash keeps the order of insertion and a
//!   large one does not, so code that relies on it fails with the size of the campaign. Here it fails at once.
//! - **Scans.** A hash or sorted set of at most 128 entries of at most 64 bytes comes in one page whatever
//!   `COUNT` says (listpack, `scanGenericCommand` in src/db.c). Larger ones come in pages of `COUNT`. As
//!   documented for SCAN, what stays in the collection from the first page to the last is returned, the rest
//!   may or may not be; with [`Machine::scan_repeats`] each page repeats the last entry of the one before.
//! - **Not modelled:** expiry, lists, streams, `BYLEX`, `MATCH` other than `*`, transactions, publish and
//!   subscribe. A command that is not in the table is answered as an unknown command, an option that is not
//!   modelled as a syntax error.

mod hashes;
mod keys;
mod sets;
mod sorted_sets;

use super::reply::{Bytes, Reply, integer};
use super::store::{Store, WrongType};
use crate::random::place;
use std::borrow::Cow;

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
const OVERFLOW: &str = "ERR increment or decrement would overflow";

/// Entries up to which a hash or sorted set is a listpack, and their longest text.
const LISTPACK_ENTRIES: usize = 128;
const LISTPACK_BYTES: usize = 64;

/// What commands work on.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub store: Store,
    /// The server's clock; it stands still during a command and during a script.
    pub now_us: u64,
    pub order_seed: u64,
    pub scan_repeats: bool,
}

/// The reply, or the text of an error.
pub(super) type Outcome = Result<Reply, Cow<'static, str>>;

pub(super) type Run = fn(&mut Machine, &[Bytes]) -> Outcome;

/// What the server has to know of a command before it runs it.
#[derive(Debug)]
pub(super) struct Command {
    /// Lower case, as in error messages.
    pub name: &'static str,
    /// Arguments with the name; negative: at least as many.
    arity: i64,
    flags: u8,
    pub keys: Keys,
    /// `None`: the server's own (scripts, settings).
    pub run: Option<Run>,
}

/// Which arguments are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    None,
    First,
    All,
}

const READ: u8 = 1;
const WRITE: u8 = 2;
const DENY_OOM: u8 = 4;
const GROWS: u8 = WRITE | DENY_OOM;
const NO_SCRIPT: u8 = 8;

impl Command {
    pub fn reads(&self) -> bool {
        self.flags & READ != 0
    }

    pub fn writes(&self) -> bool {
        self.flags & WRITE != 0
    }

    /// Refused when memory is full.
    pub fn grows(&self) -> bool {
        self.flags & DENY_OOM != 0
    }

    pub fn barred_from_scripts(&self) -> bool {
        self.flags & NO_SCRIPT != 0
    }

    pub fn takes(&self, arguments: usize) -> bool {
        let arguments = i64::try_from(arguments).unwrap_or(i64::MAX);
        if self.arity < 0 { arguments >= -self.arity } else { arguments == self.arity }
    }

    /// `wrong number of arguments`.
    pub fn arity_error(&self) -> String {
        format!("ERR wrong number of arguments for '{}' command", self.name)
    }

    /// The keys among `args`.
    pub fn keys_of<'a>(&self, args: &'a [Bytes]) -> &'a [Bytes] {
        match self.keys {
            Keys::None => &[],
            Keys::First => args.get(1..2).unwrap_or_default(),
            Keys::All => args.get(1..).unwrap_or_default(),
        }
    }
}

const fn data(name: &'static str, arity: i64, flags: u8, keys: Keys, run: Run) -> Command {
    Command { name, arity, flags, keys, run: Some(run) }
}

const fn own(name: &'static str, arity: i64) -> Command {
    Command { name, arity, flags: NO_SCRIPT, keys: Keys::None, run: None }
}

/// The command of that name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

static COMMANDS: &[Command] = &[
    own("evalsha", -3),
    data("hget", 3, READ, Keys::First, hashes::hget),
    data("hset", -4, GROWS, Keys::First, hashes::hset),
    data("hlen", 2, READ, Keys::First, hashes::hlen),
    data("hmget", -3, READ, Keys::First, hashes::hmget),
    data("zadd", -4, GROWS, Keys::First, sorted_sets::zadd),
    data("zrem", -3, WRITE, Keys::First, sorted_sets::zrem),
    data("time", 1, 0, Keys::None, keys::time),
    data("zcard", 2, READ, Keys::First, sorted_sets::zcard),
    data("zrangebyscore", -4, READ, Keys::First, sorted_sets::zrangebyscore),
    data("dbsize", 1, READ, Keys::None, keys::dbsize),
    data("decr", 2, GROWS, Keys::First, keys::decr),
    data("del", -2, WRITE, Keys::All, keys::del),
    data("exists", -2, READ, Keys::All, keys::exists),
    data("flushall", -1, WRITE, Keys::None, keys::flushall),
    data("get", 2, READ, Keys::First, keys::get),
    data("hdel", -3, WRITE, Keys::First, hashes::hdel),
    data("hexists", 3, READ, Keys::First, hashes::hexists),
    data("hgetall", 2, READ, Keys::First, hashes::hgetall),
    data("hincrby", 4, GROWS, Keys::First, hashes::hincrby),
    data("hkeys", 2, READ, Keys::First, hashes::hkeys),
    data("hscan", -3, READ, Keys::First, hashes::hscan),
    data("hsetnx", 4, GROWS, Keys::First, hashes::hsetnx),
    data("hvals", 2, READ, Keys::First, hashes::hvals),
    data("incr", 2, GROWS, Keys::First, keys::incr),
    data("incrby", 3, GROWS, Keys::First, keys::incrby),
    data("mget", -2, READ, Keys::All, keys::mget),
    data("ping", -1, 0, Keys::None, keys::ping),
    data("sadd", -3, GROWS, Keys::First, sets::sadd),
    data("scard", 2, READ, Keys::First, sets::scard),
    data("set", -3, GROWS, Keys::First, keys::set),
    data("sismember", 3, READ, Keys::First, sets::sismember),
    data("smembers", 2, READ, Keys::First, sets::smembers),
    data("smismember", -3, READ, Keys::First, sets::smismember),
    data("srem", -3, WRITE, Keys::First, sets::srem),
    data("sscan", -3, READ, Keys::First, sets::sscan),
    data("type", 2, READ, Keys::First, keys::type_of),
    data("unlink", -2, WRITE, Keys::All, keys::del),
    data("zcount", 4, READ, Keys::First, sorted_sets::zcount),
    data("zincrby", 4, GROWS, Keys::First, sorted_sets::zincrby),
    data("zmscore", -3, READ, Keys::First, sorted_sets::zmscore),
    data("zpopmin", -2, WRITE, Keys::First, sorted_sets::zpopmin),
    data("zrange", -4, READ, Keys::First, sorted_sets::zrange),
    data("zremrangebyscore", 4, WRITE, Keys::First, sorted_sets::zremrangebyscore),
    data("zscan", -3, READ, Keys::First, sorted_sets::zscan),
    data("zscore", 3, READ, Keys::First, sorted_sets::zscore),
    own("config", -2),
    own("eval", -3),
    own("script", -2),
];

impl From<WrongType> for Cow<'static, str> {
    fn from(_: WrongType) -> Self {
        Cow::Borrowed(WRONG_TYPE)
    }
}

/// A collection as the scans see it: each entry's name, and what is shown beside it.
struct Scanned<'a> {
    /// Its entries are short enough for one page, if there are few.
    listpack: bool,
    entries: Vec<(&'a Bytes, Option<Bytes>)>,
}

/// Arity has been checked before a command runs, so its arguments always fit its pattern.
fn malformed() -> Outcome {
    Err(SYNTAX.into())
}

fn is(arg: &[u8], option: &str) -> bool {
    arg.eq_ignore_ascii_case(option.as_bytes())
}

fn whole(arg: &[u8]) -> Result<i64, Cow<'static, str>> {
    integer(arg).ok_or(NOT_AN_INTEGER.into())
}

impl Machine {
    /// `items` in this server's arbitrary order.
    fn shuffled<'a, T>(&self, items: impl Iterator<Item = (&'a Bytes, T)>) -> Vec<(&'a Bytes, T)> {
        let mut placed: Vec<_> = items.map(|(name, item)| (place(self.order_seed, name), name, item)).collect();
        placed.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        placed.into_iter().map(|(_, name, item)| (name, item)).collect()
    }

    /// A page of a collection from the cursor in `args` on (`scanGenericCommand`, src/db.c).
    fn page(&self, args: &[Bytes], collection: Result<Option<Scanned<'_>>, WrongType>) -> Outcome {
        let [_, _, cursor, options @ ..] = args else { return malformed() };
        let cursor = std::str::from_utf8(cursor).ok().and_then(|text| text.parse::<u64>().ok());
        let cursor = cursor.ok_or("ERR invalid cursor")?;
        let Some(Scanned { listpack, entries }) = collection? else {
            return Ok(Reply::Array(vec![Reply::bulk("0"), Reply::Array(Vec::new())]));
        };
        let mut count = 10;
        let mut rest = options;
        while let [option, value, following @ ..] = rest {
            if is(option, "count") {
                count = usize::try_from(whole(value)?).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            } else if !is(option, "match") || **value != *b"*" {
                return malformed();
            }
            rest = following;
        }
        if !rest.is_empty() {
            return malformed();
        }
        // Position 0 would be the cursor that means "from the start", or "that was all".
        let position = |name: &Bytes| place(self.order_seed, name).max(1);
        let ordered = self.shuffled(entries.into_iter());
        let one_page = listpack && ordered.len() <= LISTPACK_ENTRIES;
        let start = ordered.partition_point(|(name, _)| position(name) < cursor);
        let start = if self.scan_repeats && cursor > 0 { start.saturating_sub(1) } else { start };
        let mut page = Vec::new();
        let mut next = 0;
        for (index, (name, shown)) in ordered.into_iter().enumerate().skip(if one_page { 0 } else { start }) {
            if !one_page && index >= start + count + usize::from(self.scan_repeats) {
                next = position(name);
                break;
            }
            page.push(Reply::Bulk(name.clone()));
            page.extend(shown.map(Reply::Bulk));
        }
        Ok(Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(page)]))
    }
}
