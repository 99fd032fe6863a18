//! An in-memory Redis, as Redis 7.0.15 answers, with faults that the caller switches on.
//!
//! `tests/redis_contract/` runs the same sequences on this model and on a real `redis-server` and compares
//! every reply. Sources of the rules stand at the modules that follow them.
//!
//! **Order of checks for a command** (`processCommand`, src/server.c): it exists, its arity, memory, read-only,
//! then it runs.
//!
//! **Memory full** (`maxmemory` reached, `noeviction`): commands that may need memory (`DENYOOM`) are refused;
//! those that free some are not. A script without a first line of flags is refused at its first writing
//! command, and only if that one needs memory (`scriptVerifyOOM`, src/script.c): what it calls after a first
//! write is let through. A script with declared flags is refused as a whole, unless it has `allow-oom` or
//! `no-writes` (`evalGetCommandFlags`, src/eval.c).
//!
//! **Read-only replica**: writing commands are refused with `READONLY`, likewise the first write of a script, or
//! a script with declared flags as a whole unless it has `no-writes`.
//!
//! **Replicas that lag** (Upstash, redis/features/replication and consistency: reads go round-robin to any
//! replica, writes and scripts to the leader): see [`Server::set_replicas`].
//!
//! **Losing the last writes** (asynchronous replication, a failover): [`Server::lose_suffix`]. The unit is what is
//! replicated as one: a command, or all that a script has written (Redis propagates it within MULTI/EXEC).
//!
//! **The script cache** lives in the process: it is empty after a restart, and on a promoted replica (scripts are
//! replicated by their effects). After a restore or a failover, call [`Server::flush_scripts`] too.

mod commands;
mod faults;
mod log;
mod lua;
mod reply;
pub mod rest;
mod script;
mod store;

pub use faults::{ACL_DENIED, CommandFault, Strikes, WRONG_TYPE};
pub use log::Lag;
pub use reply::{Bytes, Reply};
pub use script::{OOM, READ_ONLY};
pub use store::{SortedSet, Value};

use crate::clock::Clock;
use commands::{Command, Machine, NOT_AN_INTEGER, SYNTAX};
use log::Log;
use reply::integer;
use script::{Flags, NO_SCRIPT, Run};
use std::collections::BTreeMap;
use std::mem;
use store::Store;

/// A data set at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(BTreeMap<Bytes, Value>);

/// A Redis.
#[derive(Debug)]
pub struct Server {
    machine: Machine,
    /// Its own clock. Another machine takes over: set the other one's.
    pub clock: Clock,
    /// The hosted service: `#!lua flags=allow-key-locking` is known, `CONFIG` is not.
    pub upstash: bool,
    /// Memory is full.
    pub out_of_memory: bool,
    /// It is a replica: writes are rejected.
    pub read_only: bool,
    scripts: BTreeMap<String, Flags>,
    log: Log,
    fault: Option<CommandFault>,
    strikes: Strikes,
}

impl Server {
    /// An empty server. `order_seed` fixes the order in which it lists what has none.
    #[must_use]
    pub fn new(clock: Clock, order_seed: u64) -> Self {
        Self {
            machine: Machine { order_seed, ..Machine::default() },
            clock,
            upstash: false,
            out_of_memory: false,
            read_only: false,
            scripts: BTreeMap::new(),
            log: Log::default(),
            fault: None,
            strikes: Strikes::default(),
        }
    }

    /// Answers a client's command.
    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let args: Vec<Bytes> = args.iter().map(|arg| arg.as_ref().into()).collect();
        self.execute(&args)
    }

    /// Answers a reading command from the leader's data, past every fault: for an oracle.
    pub fn inspect<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        let args: Vec<Bytes> = args.iter().map(|arg| arg.as_ref().into()).collect();
        let command = args.first().and_then(|name| commands::find(name));
        match command.filter(|command| command.reads() && command.takes(args.len())).and_then(|command| command.run) {
            Some(run) => run(&mut self.machine, &args).unwrap_or_else(|error| Reply::Error(error.into())),
            None => Reply::Error("ERR inspect only reads".to_owned()),
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.machine.store.data().clone())
    }

    /// Replaces the data set, as a restart from a file or a backup does. What was written before can then no
    /// longer be lost by [`Server::lose_suffix`]. The script cache stays.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.machine.store = Store::with_data(snapshot.0.clone());
        self.log.reset(&self.machine.store);
        self.strikes.add("restored");
    }

    /// Takes back the last `count` units that changed anything, each a command or a whole script; returns how
    /// many were lost: fewer, if there are no more (10,000 are kept).
    pub fn lose_suffix(&mut self, count: usize) -> usize {
        let lost = self.log.lose_suffix(&mut self.machine.store, count);
        self.strikes.add_many("units_lost", lost);
        lost
    }

    /// How many units were written in the last `ms` by the server's clock: what a replica that lags may not have.
    #[must_use]
    pub fn units_within(&self, ms: u64) -> usize {
        self.log.since(self.clock.now_ms().saturating_sub(ms))
    }

    /// From now on, reading commands outside of scripts are answered by these replicas in turn. They start with
    /// what the leader has, and follow it each with its own lag; `Lag::Writes(0)` is one that never lags, such
    /// as the leader itself. Two reads in a row may so go back in time. With none, the leader answers.
    pub fn set_replicas(&mut self, lags: &[Lag]) {
        self.log.set_replicas(&self.machine.store, lags);
    }

    /// Makes a command fail inside scripts; `None` ends that.
    pub fn fail_command_in_script(&mut self, fault: Option<CommandFault>) {
        self.fault = fault;
    }

    /// Whether a page of a scan repeats the last entry of the page before.
    pub fn set_scan_repeats(&mut self, repeats: bool) {
        self.machine.scan_repeats = repeats;
    }

    pub fn flush_scripts(&mut self) {
        self.scripts.clear();
        self.strikes.add("scripts_flushed");
    }

    /// Which faults struck, and how often.
    pub fn strikes(&self) -> &Strikes {
        &self.strikes
    }

    pub(crate) fn execute(&mut self, args: &[Bytes]) -> Reply {
        self.machine.now_us = self.clock.now_us();
        let reply = self.checked(args).unwrap_or_else(Reply::Error);
        self.log.commit(&mut self.machine.store, self.machine.now_us / 1_000);
        reply
    }

    fn checked(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let name = args.first().ok_or("ERR empty command")?;
        let known = commands::find(name).filter(|command| !(self.upstash && command.name == "config"));
        let command = known.ok_or_else(|| unknown(args))?;
        if !command.takes(args.len()) {
            return Err(command.arity_error());
        }
        let declared = self.declared_flags(command, args);
        let grows = declared.map_or(command.grows(), |flags| !flags.allow_oom && !flags.no_writes);
        if grows && self.out_of_memory {
            self.strikes.add("out_of_memory");
            return Err(OOM.to_owned());
        }
        if declared.map_or(command.writes(), |flags| !flags.no_writes) && self.read_only {
            self.strikes.add("read_only");
            return Err(READ_ONLY.to_owned());
        }
        match command.run {
            Some(run) if command.reads() => self.read(run, args),
            Some(run) => run(&mut self.machine, args).map_err(Into::into),
            None if command.name == "config" => config(args),
            None if command.name == "script" => self.script(args),
            None => self.eval(args, command.name == "evalsha"),
        }
    }

    /// What the script that `args` call says of itself in its first line, if it has one.
    fn declared_flags(&self, command: &Command, args: &[Bytes]) -> Option<Flags> {
        let [_, script, ..] = args else { return None };
        let flags = match command.name {
            "evalsha" => self.scripts.get(&name_of(script)?).copied()?,
            "eval" => Flags::split(script, self.upstash).ok()?.0,
            _ => return None,
        };
        flags.declared.then_some(flags)
    }

    fn read(&mut self, run: commands::Run, args: &[Bytes]) -> Result<Reply, String> {
        let leader = run(&mut self.machine, args).map_err(Into::into);
        let Some(store) = self.log.replica(self.machine.now_us / 1_000) else { return leader };
        mem::swap(store, &mut self.machine.store);
        let reply = run(&mut self.machine, args).map_err(Into::into);
        mem::swap(store, &mut self.machine.store);
        if reply != leader {
            self.strikes.add("stale_read");
        }
        reply
    }

    /// EVAL and EVALSHA (`evalGenericCommand`, src/eval.c).
    fn eval(&mut self, args: &[Bytes], by_name: bool) -> Result<Reply, String> {
        let [_, script, count, rest @ ..] = args else { return Err(SYNTAX.to_owned()) };
        let sha = match by_name {
            true => name_of(script).ok_or(NO_SCRIPT)?,
            false => lua::sha1_hex(script),
        };
        let count = integer(count).ok_or(NOT_AN_INTEGER)?;
        let count = usize::try_from(count).map_err(|_| "ERR Number of keys can't be negative")?;
        let (keys, args) =
            rest.split_at_checked(count).ok_or("ERR Number of keys can't be greater than number of args")?;
        let flags = match self.scripts.get(&sha) {
            Some(flags) => *flags,
            None if by_name => {
                self.strikes.add("no_script");
                return Err(NO_SCRIPT.to_owned());
            }
            None => self.load(&sha, script)?,
        };
        let run = Run {
            machine: mem::take(&mut self.machine),
            flags,
            out_of_memory: self.out_of_memory,
            read_only_server: self.read_only,
            keys: keys.to_vec(),
            fault: self.fault.take(),
            strikes: mem::take(&mut self.strikes),
            dirty: false,
        };
        let (run, reply) = lua::run(&sha, run, args);
        (self.machine, self.fault, self.strikes) = (run.machine, run.fault, run.strikes);
        Ok(reply)
    }

    fn load(&mut self, sha: &str, script: &[u8]) -> Result<Flags, String> {
        let (flags, body) = Flags::split(script, self.upstash)?;
        lua::compile(sha, body)?;
        self.scripts.insert(sha.to_owned(), flags);
        Ok(flags)
    }

    fn script(&mut self, args: &[Bytes]) -> Result<Reply, String> {
        let [_, verb, rest @ ..] = args else { return Err(SYNTAX.to_owned()) };
        let verb = String::from_utf8_lossy(verb);
        let lower = verb.to_ascii_lowercase();
        match (lower.as_str(), rest) {
            ("load", [script]) => {
                let sha = lua::sha1_hex(script);
                if !self.scripts.contains_key(&sha) {
                    self.load(&sha, script)?;
                }
                Ok(Reply::bulk(sha))
            }
            ("exists", [_, ..]) => {
                let known = |sha: &Bytes| name_of(sha).is_some_and(|sha| self.scripts.contains_key(&sha));
                Ok(Reply::Array(rest.iter().map(|sha| Reply::flag(known(sha))).collect()))
            }
            ("flush", []) => {
                self.scripts.clear();
                Ok(Reply::OK)
            }
            ("flush", [mode]) if mode.eq_ignore_ascii_case(b"sync") || mode.eq_ignore_ascii_case(b"async") => {
                self.scripts.clear();
                Ok(Reply::OK)
            }
            ("flush", _) => Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option".to_owned()),
            ("load" | "exists", _) => Err(format!("ERR wrong number of arguments for 'script|{lower}' command")),
            _ => Err(format!("ERR unknown subcommand '{verb}'. Try SCRIPT HELP.")),
        }
    }
}

/// A script's name in lower case; `None` if it cannot be one.
fn name_of(sha: &[u8]) -> Option<String> {
    (sha.len() == 40).then(|| String::from_utf8_lossy(sha).to_ascii_lowercase())
}

/// `commandCheckExistence`, src/server.c.
fn unknown(args: &[Bytes]) -> String {
    let mut shown = String::new();
    for arg in args.iter().skip(1) {
        if shown.len() >= 128 {
            break;
        }
        let room = 128 - shown.len();
        shown += &format!("'{}' ", String::from_utf8_lossy(arg.get(..room.min(arg.len())).unwrap_or_default()));
    }
    let name = args.first().map(|name| name.get(..name.len().min(128)).unwrap_or_default()).unwrap_or_default();
    let text = format!("ERR unknown command '{}', with args beginning with: {shown}", String::from_utf8_lossy(name));
    // A reply of one line: trimmed at its end, and without line ends within.
    text.replace(['\r', '\n'], " ")
}

/// The one setting that the project asks for.
fn config(args: &[Bytes]) -> Result<Reply, String> {
    match args {
        [_, verb, name] if verb.eq_ignore_ascii_case(b"get") && name.eq_ignore_ascii_case(b"maxmemory-policy") => {
            Ok(Reply::list([&b"maxmemory-policy"[..], &b"noeviction"[..]]))
        }
        _ => Ok(Reply::Array(Vec::new())),
    }
}

#[cfg(test)]
mod tests;
