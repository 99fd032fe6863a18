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
mod machine;
mod sets;
mod sorted_sets;

use super::reply::Bytes;
pub(super) use machine::{Machine, NOT_AN_INTEGER, Outcome, SYNTAX, WRONG_TYPE};

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
