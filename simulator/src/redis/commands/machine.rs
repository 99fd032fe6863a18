//! What the commands work on, and what they share.

use crate::random::place;
use crate::redis::reply::{Bytes, Reply, integer};
use crate::redis::store::{Store, WrongType};
use std::borrow::Cow;

pub(in crate::redis) const SYNTAX: &str = "ERR syntax error";
pub(in crate::redis) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(in crate::redis) const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";
pub(super) const OVERFLOW: &str = "ERR increment or decrement would overflow";

/// Entries up to which a hash or sorted set is a listpack, and their longest text.
const LISTPACK_ENTRIES: usize = 128;
pub(super) const LISTPACK_BYTES: usize = 64;

/// What commands work on.
#[derive(Debug, Default)]
pub(in crate::redis) struct Machine {
    pub store: Store,
    /// The server's clock; it stands still during a command and during a script.
    pub now_us: u64,
    pub order_seed: u64,
    pub scan_repeats: bool,
}

/// The reply, or the text of an error.
pub(in crate::redis) type Outcome = Result<Reply, Cow<'static, str>>;

impl From<WrongType> for Cow<'static, str> {
    fn from(_: WrongType) -> Self {
        Cow::Borrowed(WRONG_TYPE)
    }
}

/// A collection as the scans see it: each entry's name, and what is shown beside it.
pub(super) struct Scanned<'a> {
    /// Its entries are short enough for one page, if there are few.
    pub listpack: bool,
    pub entries: Vec<(&'a Bytes, Option<Bytes>)>,
}

/// Arity has been checked before a command runs, so its arguments always fit its pattern.
pub(super) fn malformed() -> Outcome {
    Err(SYNTAX.into())
}

pub(super) fn is(arg: &[u8], option: &str) -> bool {
    arg.eq_ignore_ascii_case(option.as_bytes())
}

pub(super) fn whole(arg: &[u8]) -> Result<i64, Cow<'static, str>> {
    integer(arg).ok_or(NOT_AN_INTEGER.into())
}

impl Machine {
    /// `items` in this server's arbitrary order.
    pub(super) fn shuffled<'a, T>(&self, items: impl Iterator<Item = (&'a Bytes, T)>) -> Vec<(&'a Bytes, T)> {
        let mut placed: Vec<_> = items.map(|(name, item)| (place(self.order_seed, name), name, item)).collect();
        placed.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        placed.into_iter().map(|(_, name, item)| (name, item)).collect()
    }

    /// A page of a collection from the cursor in `args` on (`scanGenericCommand`, src/db.c).
    pub(super) fn page(&self, args: &[Bytes], collection: Result<Option<Scanned<'_>>, WrongType>) -> Outcome {
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
