//! One function for each [`Check`].

use super::evidence::{Evidence, expect_full, is_before};
use super::verdict::{Check, Finding, Grade, Violation};
use crate::load::outcome::{ClaimOutcome, Promise};
use std::collections::{HashMap, HashSet};

/// Violations that are named; all are counted.
const NAMED: usize = 20;
const NOT_READ: &str = "MySQL was not read";

pub(super) fn owed(evidence: &Evidence<'_>) -> Finding {
    if evidence.rows.is_none() {
        return not_applicable(Check::Owed, NOT_READ);
    }
    let mut list = Violations::default();
    let (mut admitted, mut refused) = (0_usize, 0_usize);
    for (user, history) in evidence.users() {
        let Some((_, last)) = history.promises().last() else {
            continue;
        };
        admitted += 1;
        match (history.row, history.refused) {
            (None, None) => list.add(evidence.name(user), format!("was promised slot {} and has no row", last.slot)),
            (None, Some(_)) => refused += 1,
            (Some(row), _) => {
                let wrong = history.promises().find(|(_, promise)| {
                    (promise.slot != row.slot && !evidence.is_allowed_move(promise, row))
                        || promise.code.as_deref().is_some_and(|code| code != row.code)
                });
                if let Some((_, promise)) = wrong {
                    let row = format!("slot {} and code {}", row.slot, row.code);
                    list.add(evidence.name(user), format!("was promised {}, their row has {row}", words(promise)));
                }
            }
        }
    }
    let note = if refused > 0 { format!(", {refused} of them refused afterwards") } else { String::new() };
    let mut finding = list.finding(Check::Owed, format!("{admitted} admitted users{note}"));
    if finding.grade == Grade::Pass && refused > 0 {
        finding.grade = Grade::Refused;
    }
    finding
}

pub(super) fn spurious(evidence: &Evidence<'_>) -> Finding {
    let Some(rows) = evidence.rows else {
        return not_applicable(Check::Spurious, NOT_READ);
    };
    let mut list = Violations::default();
    for (user, history) in evidence.users() {
        let Some(row) = history.row else { continue };
        if history.promises().next().is_some() {
            continue;
        }
        let denial = history.denials().find(|denial| !history.unknown().any(|unknown| is_before(denial, unknown)));
        if let Some(denial) = denial {
            let denial = denial_words(&denial.outcome);
            list.add(evidence.name(user), format!("has slot {} and got the response `{denial}`", row.slot));
        } else if history.unknown().next().is_none() {
            list.add(evidence.name(user), format!("has slot {}, but no request of theirs was processed", row.slot));
        }
    }
    if !evidence.rules.allow_foreign {
        for row in &evidence.foreign {
            list.add(row.user.clone(), format!("has slot {} and is not part of this run", row.slot));
        }
    }
    list.finding(Check::Spurious, format!("{} rows", rows.coupons.len()))
}

pub(super) fn repeats(evidence: &Evidence<'_>) -> Finding {
    let mut list = Violations::default();
    let mut repeated = 0_usize;
    for (user, history) in evidence.users() {
        repeated += usize::from(history.attempts.len() > 1);
        let Some((_, first)) = history.promises().next() else {
            continue;
        };
        let differs = history.promises().find(|(_, promise)| {
            let other_code = match (&first.code, &promise.code) {
                (Some(a), Some(b)) => a != b,
                // A claim that was refused in the meantime has no code.
                _ => false,
            };
            other_code || (promise.slot != first.slot && !evidence.rules.allow_moved)
        });
        if let Some((_, promise)) = differs {
            list.add(evidence.name(user), format!("was promised {}, then {}", words(first), words(promise)));
        }
        let is_admission = |outcome: &ClaimOutcome| matches!(outcome, ClaimOutcome::Admitted(_));
        let admissions = history.attempts.iter().filter(|attempt| is_admission(&attempt.outcome)).count();
        if admissions > 1 {
            list.add(evidence.name(user), format!("was newly admitted {admissions} times"));
        }
        let denial = history.denials().find(|denial| history.promises().any(|(other, _)| !is_before(denial, other)));
        if let Some(denial) = denial {
            let denial = denial_words(&denial.outcome);
            list.add(evidence.name(user), format!("was promised slot {} and got the response `{denial}`", first.slot));
        }
    }
    list.finding(Check::Repeats, format!("{repeated} users claimed more than once"))
}

pub(super) fn slots(evidence: &Evidence<'_>) -> Finding {
    let mut list = Violations::default();
    let capacity = evidence.rules.capacity;
    let mut holders: HashMap<u32, &str> = HashMap::new();
    let mut slots: HashMap<&str, u32> = HashMap::new();
    for row in evidence.rows.iter().flat_map(|rows| &rows.coupons) {
        if !(1..=capacity).contains(&row.slot) {
            list.add(row.user.clone(), format!("has slot {} of {capacity}", row.slot));
        }
        if let Some(other) = holders.insert(row.slot, &row.user) {
            list.add(row.user.clone(), format!("has slot {}, and so has {other}", row.slot));
        }
        if let Some(other) = slots.insert(&row.user, row.slot) {
            list.add(row.user.clone(), format!("has slot {} and slot {other}", row.slot));
        }
    }
    let rows = evidence.rows.map_or(0, |rows| rows.coupons.len());
    if rows > capacity as usize {
        list.add(String::new(), format!("{rows} rows for {capacity} coupons"));
    }
    let mut promised: HashMap<u32, u32> = HashMap::new();
    for (user, history) in evidence.users() {
        let slots: HashSet<u32> = history.promises().map(|(_, promise)| promise.slot).collect();
        for slot in slots {
            if !(1..=capacity).contains(&slot) {
                list.add(evidence.name(user), format!("was promised slot {slot} of {capacity}"));
            }
            // Where slots may move, only the rows decide who has which.
            if let Some(other) = promised.insert(slot, user)
                && !evidence.rules.allow_moved
            {
                let other = evidence.name(other);
                list.add(evidence.name(user), format!("was promised slot {slot}, and so was {other}"));
            }
        }
    }
    list.finding(Check::Slots, format!("{} slots promised, {rows} rows", promised.len()))
}

pub(super) fn full(evidence: &Evidence<'_>) -> Finding {
    let mut list = Violations::default();
    let (users, capacity) = (evidence.ledger.crowd.users(), evidence.rules.capacity);
    if users > 0 && !evidence.users().any(|(_, user)| user.row.is_some() || user.promises().next().is_some()) {
        list.add(String::new(), format!("none of {users} users was admitted: this run has tested nothing"));
        return list.finding(Check::Full, String::new());
    }
    let Some(rows) = evidence.rows else {
        return not_applicable(Check::Full, NOT_READ);
    };
    if !expect_full(evidence.ledger, evidence.rules) {
        let why = if users < capacity { "fewer users than coupons" } else { "the campaign was not open to all" };
        return not_applicable(Check::Full, why);
    }
    let rows = rows.coupons.len();
    if rows != capacity as usize {
        list.add(String::new(), format!("{rows} rows, but {users} users claimed {capacity} coupons"));
    }
    list.finding(Check::Full, format!("{rows} of {capacity}"))
}

pub(super) fn sold_out(evidence: &Evidence<'_>) -> Finding {
    let Some(rows) = evidence.rows else {
        return not_applicable(Check::SoldOut, NOT_READ);
    };
    let mut list = Violations::default();
    let mut denied = 0_usize;
    let capacity = evidence.rules.capacity;
    let left = (capacity as usize).saturating_sub(rows.coupons.len());
    for (user, history) in evidence.users() {
        if history.attempts.iter().any(|attempt| attempt.outcome == ClaimOutcome::SoldOut) {
            denied += 1;
            if left > 0 {
                let what = format!("got the response `sold out`, but {left} of {capacity} slots have no row");
                list.add(evidence.name(user), what);
            }
        }
    }
    list.finding(Check::SoldOut, format!("{denied} users got `sold out`"))
}

pub(super) fn answers(evidence: &Evidence<'_>) -> Finding {
    let mut list = Violations::default();
    for attempt in &evidence.ledger.attempts {
        if let ClaimOutcome::Invalid { status, what } = &attempt.outcome {
            let user = evidence.ledger.user(attempt).map(|user| evidence.name(user)).unwrap_or_default();
            list.add(user, format!("got the response {status}, {what}"));
        }
    }
    list.finding(Check::Answers, format!("{} responses", evidence.ledger.attempts.len()))
}

fn words(promise: &Promise) -> String {
    format!("slot {} and code {}", promise.slot, promise.code.as_deref().unwrap_or("none"))
}

fn denial_words(outcome: &ClaimOutcome) -> &'static str {
    match outcome {
        ClaimOutcome::SoldOut => "sold out",
        ClaimOutcome::Closed => "closed",
        _ => "not open",
    }
}

#[derive(Default)]
struct Violations {
    count: usize,
    named: Vec<Violation>,
}

impl Violations {
    fn add(&mut self, user: String, what: String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(Violation { user, what });
        }
    }

    fn finding(self, check: Check, note: String) -> Finding {
        let grade = if self.count == 0 { Grade::Pass } else { Grade::Fail };
        Finding { check, grade, note, violations: self.count, named: self.named }
    }
}

fn not_applicable(check: Check, why: &str) -> Finding {
    Finding { check, grade: Grade::NotApplicable, note: why.to_owned(), violations: 0, named: Vec::new() }
}
