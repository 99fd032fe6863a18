//! The faults that the caller switches on, and a count of those that struck.

use std::collections::BTreeMap;

/// A command that answers with an error when a script calls it. What the script has written before stays
/// (Redis has no rollback).
///
/// The usual causes, with the errors of 7.0.15: the user has no right to the command ([`ACL_DENIED`]), the key
/// holds another type ([`WRONG_TYPE`]), a quota of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandFault {
    /// Lower case.
    pub command: &'static str,
    /// Which call fails, counted from 1 over all scripts from the moment the fault is set.
    pub nth: u32,
    /// Every later call fails too.
    pub lasting: bool,
    /// With its code.
    pub error: &'static str,
    pub(super) seen: u32,
}

/// The error of a command that the user of the script may not run, 7.0.15.
pub const ACL_DENIED: &str = "ERR The user executing the script can't run this command or subcommand";
/// The error of a command on a key of another type.
pub const WRONG_TYPE: &str = super::commands::WRONG_TYPE;

impl CommandFault {
    /// The `nth` call of `command` fails, and no other.
    #[must_use]
    pub fn once(command: &'static str, nth: u32, error: &'static str) -> Self {
        Self { command, nth, lasting: false, error, seen: 0 }
    }

    /// The `nth` call of `command` fails, and all later ones.
    #[must_use]
    pub fn from(command: &'static str, nth: u32, error: &'static str) -> Self {
        Self { lasting: true, ..Self::once(command, nth, error) }
    }

    pub(super) fn strikes(&mut self, command: &str) -> Option<String> {
        if command != self.command {
            return None;
        }
        self.seen += 1;
        (self.seen == self.nth || self.lasting && self.seen > self.nth).then(|| self.error.to_owned())
    }
}

/// How often each kind of fault struck, so that a run can prove that it was no empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strikes(BTreeMap<&'static str, u64>);

impl Strikes {
    pub(super) fn add(&mut self, kind: &'static str) {
        self.add_many(kind, 1);
    }

    pub(super) fn add_many(&mut self, kind: &'static str, count: usize) {
        *self.0.entry(kind).or_default() += count as u64;
    }

    /// `command_in_script`, `out_of_memory`, `read_only`, `stale_read` (a replica answered otherwise than the
    /// leader would have), `no_script`, `units_lost`, `restored`, `scripts_flushed`.
    #[must_use]
    pub fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }
}
