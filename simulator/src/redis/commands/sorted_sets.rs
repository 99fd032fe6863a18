//! Sorted sets.

use super::{LISTPACK_BYTES, Machine, NOT_AN_INTEGER, Outcome, SYNTAX, Scanned, is, malformed, whole};
use crate::redis::reply::{self, Bytes, Reply};
use crate::redis::store::{Score, SortedSet, Value, WrongType};
use std::borrow::Cow;

const NOT_A_FLOAT: &str = "ERR value is not a valid float";
const BAD_RANGE: &str = "ERR min or max is not a float";

impl Machine {
    fn sorted(&self, key: &[u8]) -> Result<Option<&SortedSet>, WrongType> {
        match self.store.get(key) {
            None => Ok(None),
            Some(Value::Sorted(sorted)) => Ok(Some(sorted)),
            Some(_) => Err(WrongType),
        }
    }

    fn score(&self, key: &[u8], member: &[u8]) -> Result<Option<f64>, WrongType> {
        Ok(self.sorted(key)?.and_then(|sorted| sorted.scores.get(member).copied()))
    }

    fn within(&self, key: &[u8], range: &Range) -> Result<Vec<(f64, Bytes)>, WrongType> {
        Ok(self.sorted(key)?.map_or_else(Vec::new, |sorted| range.of(sorted)))
    }
}

/// A range of scores (`zslParseRange`, src/t_zset.c).
struct Range {
    least: f64,
    most: f64,
    above: bool,
    below: bool,
}

impl Range {
    fn parse(least: &[u8], most: &[u8]) -> Result<Self, Cow<'static, str>> {
        let bound = |text: &[u8]| {
            let (exclusive, digits) = match text {
                [b'(', digits @ ..] => (true, digits),
                digits => (false, digits),
            };
            // `strtod` reads nothing as 0.
            let value = if digits.is_empty() { Some(0.0) } else { reply::score(digits) };
            Ok::<_, Cow<'static, str>>((exclusive, value.ok_or(BAD_RANGE)?))
        };
        let ((above, least), (below, most)) = (bound(least)?, bound(most)?);
        Ok(Self { least, most, above, below })
    }

    fn of(&self, sorted: &SortedSet) -> Vec<(f64, Bytes)> {
        let first = (Score(self.least), Bytes::from([]));
        sorted
            .order
            .range(first..)
            .map(|(score, member)| (score.0, member))
            .skip_while(|(score, _)| self.above && *score == self.least)
            .take_while(|(score, _)| if self.below { *score < self.most } else { *score <= self.most })
            .map(|(score, member)| (score, member.clone()))
            .collect()
    }
}

fn pairs(entries: impl IntoIterator<Item = (f64, Bytes)>, with_scores: bool) -> Reply {
    let show = |(score, member)| [Some(Reply::Bulk(member)), with_scores.then(|| Reply::score(score))];
    Reply::Array(entries.into_iter().flat_map(show).flatten().collect())
}

#[derive(Default)]
struct AddOptions {
    only_new: bool,
    only_known: bool,
    greater: bool,
    less: bool,
    changed: bool,
    increment: bool,
}

pub fn zadd(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, rest @ ..] = args else { return malformed() };
    let mut options = AddOptions::default();
    let mut rest = rest;
    while let [option, following @ ..] = rest {
        match () {
            () if is(option, "nx") => options.only_new = true,
            () if is(option, "xx") => options.only_known = true,
            () if is(option, "gt") => options.greater = true,
            () if is(option, "lt") => options.less = true,
            () if is(option, "ch") => options.changed = true,
            () if is(option, "incr") => options.increment = true,
            () => break,
        }
        rest = following;
    }
    add(machine, key, &options, rest)
}

pub fn zincrby(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, rest @ ..] = args else { return malformed() };
    add(machine, key, &AddOptions { increment: true, ..AddOptions::default() }, rest)
}

fn add(machine: &mut Machine, key: &Bytes, options: &AddOptions, rest: &[Bytes]) -> Outcome {
    let (given, []) = rest.as_chunks::<2>() else { return malformed() };
    if given.is_empty() {
        return malformed();
    }
    let &AddOptions { only_new, only_known, greater, less, .. } = options;
    if only_new && only_known {
        return Err("ERR XX and NX options at the same time are not compatible".into());
    }
    if (only_new && (greater || less)) || (greater && less) {
        return Err("ERR GT, LT, and/or NX options at the same time are not compatible".into());
    }
    if options.increment && given.len() > 1 {
        return Err("ERR INCR option supports a single increment-element pair".into());
    }
    // All scores are read before anything is written.
    let scores: Option<Vec<f64>> = given.iter().map(|[score, _]| reply::score(score)).collect();
    let scores = scores.ok_or(NOT_A_FLOAT)?;
    machine.sorted(key)?;
    let (mut added, mut updated, mut result) = (0, 0, None);
    for ([_, member], mut score) in given.iter().zip(scores) {
        match machine.score(key, member)? {
            Some(_) if only_new => continue,
            None if only_known => continue,
            Some(before) => {
                if options.increment {
                    score += before;
                    if score.is_nan() {
                        return Err("ERR resulting score is not a number (NaN)".into());
                    }
                }
                if (less && score >= before) || (greater && score <= before) {
                    continue;
                }
                updated += usize::from(score != before);
            }
            None => added += 1,
        }
        machine.store.put_score(key, member, Some(score))?;
        result = Some(score);
    }
    Ok(match (options.increment, options.changed) {
        (true, _) => result.map_or(Reply::Nil, Reply::score),
        (false, true) => Reply::count(added + updated),
        (false, false) => Reply::count(added),
    })
}

pub fn zrem(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, members @ ..] = args else { return malformed() };
    machine.sorted(key)?;
    let mut removed = 0;
    for member in members {
        removed += usize::from(machine.store.put_score(key, member, None)?.is_some());
    }
    Ok(Reply::count(removed))
}

pub fn zcard(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key] = args else { return malformed() };
    Ok(Reply::count(machine.sorted(key)?.map_or(0, |sorted| sorted.scores.len())))
}

pub fn zscore(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, member] = args else { return malformed() };
    Ok(machine.score(key, member)?.map_or(Reply::Nil, Reply::score))
}

pub fn zmscore(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, members @ ..] = args else { return malformed() };
    let sorted = machine.sorted(key)?;
    let score = |member: &Bytes| sorted?.scores.get(member).copied();
    Ok(Reply::Array(members.iter().map(|member| score(member).map_or(Reply::Nil, Reply::score)).collect()))
}

pub fn zcount(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, least, most] = args else { return malformed() };
    let range = Range::parse(least, most)?;
    Ok(Reply::count(machine.within(key, &range)?.len()))
}

pub fn zremrangebyscore(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, least, most] = args else { return malformed() };
    let range = Range::parse(least, most)?;
    remove(machine, key, machine.within(key, &range)?).map(|removed| Reply::count(removed.len()))
}

pub fn zpopmin(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    const OUT_OF_RANGE: &str = "ERR value is out of range, must be positive";
    let (key, count) = match args {
        [_, key] => (key, 1),
        [_, key, count] => (key, reply::integer(count).and_then(|n| usize::try_from(n).ok()).ok_or(OUT_OF_RANGE)?),
        _ => return malformed(),
    };
    let everything = Range { least: f64::NEG_INFINITY, most: f64::INFINITY, above: false, below: false };
    let first = machine.within(key, &everything)?.into_iter().take(count).collect();
    remove(machine, key, first).map(|removed| pairs(removed, true))
}

fn remove(
    machine: &mut Machine,
    key: &Bytes,
    entries: Vec<(f64, Bytes)>,
) -> Result<Vec<(f64, Bytes)>, Cow<'static, str>> {
    for (_, member) in &entries {
        machine.store.put_score(key, member, None)?;
    }
    Ok(entries)
}

pub fn zrangebyscore(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    range(machine, args, true)
}

pub fn zrange(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    range(machine, args, false)
}

/// `zrangeGenericCommand`, src/t_zset.c.
fn range(machine: &mut Machine, args: &[Bytes], old_form: bool) -> Outcome {
    let [_, key, start, stop, options @ ..] = args else { return malformed() };
    let (mut by_score, mut reverse, mut with_scores, mut offset, mut limit) = (old_form, false, false, 0, -1);
    let mut rest = options;
    while let [option, following @ ..] = rest {
        rest = following;
        match following {
            _ if is(option, "withscores") => with_scores = true,
            [first, count, after @ ..] if is(option, "limit") => {
                (offset, limit) = (whole(first)?, whole(count)?);
                rest = after;
            }
            _ if is(option, "rev") && !old_form => reverse = true,
            _ if is(option, "byscore") && !old_form && !by_score => by_score = true,
            _ => return Err(SYNTAX.into()),
        }
    }
    if limit != -1 && !by_score {
        let only = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
        return Err(only.into());
    }
    let mut entries;
    if by_score {
        let (least, most) = if reverse { (stop, start) } else { (start, stop) };
        entries = machine.within(key, &Range::parse(least, most)?)?;
        if reverse {
            entries.reverse();
        }
        // A negative offset skips all, a negative limit none.
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let take = usize::try_from(limit).unwrap_or(usize::MAX);
        entries = entries.into_iter().skip(skip).take(take).collect();
    } else {
        let (start, stop) = (whole(start)?, whole(stop)?);
        entries = machine.sorted(key)?.map_or_else(Vec::new, |sorted| {
            sorted.order.iter().map(|(score, member)| (score.0, member.clone())).collect()
        });
        if reverse {
            entries.reverse();
        }
        let length = i64::try_from(entries.len()).map_err(|_| NOT_AN_INTEGER)?;
        let from_end = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
        let (start, stop) = (from_end(start).max(0), from_end(stop));
        let skip = usize::try_from(start).unwrap_or(usize::MAX);
        let take = usize::try_from(stop.saturating_sub(start).saturating_add(1)).unwrap_or(0);
        entries = entries.into_iter().skip(skip).take(take).collect();
    }
    Ok(pairs(entries, with_scores))
}

pub fn zscan(machine: &mut Machine, args: &[Bytes]) -> Outcome {
    let [_, key, ..] = args else { return malformed() };
    machine.page(args, machine.sorted(key).map(|sorted| sorted.map(scanned)))
}

fn scanned(sorted: &SortedSet) -> Scanned<'_> {
    let shown = |(member, score): (_, &f64)| (member, Some(Bytes::from(reply::number(*score).as_bytes())));
    Scanned {
        listpack: sorted.scores.keys().all(|member| member.len() <= LISTPACK_BYTES),
        entries: sorted.scores.iter().map(shown).collect(),
    }
}
