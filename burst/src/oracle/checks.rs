//! The checks, one function each. What they promise stands in [`Check::promise`].

use super::{Court, expect_full, overtaken};
use crate::load::outcome::{Outcome, Told};
use crate::oracle::verdict::{Check, Finding, Grade, Offence};
use std::collections::{HashMap, HashSet};

/// Offenders that are named; all are counted.
const NAMED: usize = 20;

impl Court<'_> {
    pub(super) fn owed(&self) -> Finding {
        if self.rows.is_none() {
            return not_applicable(Check::Owed, "MySQL was not read");
        }
        let mut list = Offences::default();
        let mut owed = 0_usize;
        for (user, case) in self.cases() {
            let Some((_, last)) = case.told().last() else {
                continue;
            };
            owed += 1;
            match (case.row, case.refused) {
                (None, None) => list.add(self.name(user), format!("was told slot {}, and has no row", last.slot)),
                (None, Some(_)) => {}
                (Some(row), _) => {
                    let wrong = case.told().find(|(_, told)| {
                        (told.slot != row.slot && !self.moved(told, row))
                            || told.code.as_deref().is_some_and(|code| code != row.code)
                    });
                    if let Some((_, told)) = wrong {
                        let code = told.code.as_deref().unwrap_or("none");
                        list.add(
                            self.name(user),
                            format!(
                                "was told slot {} and code {code}, his row has slot {} and code {}",
                                told.slot, row.slot, row.code
                            ),
                        );
                    }
                }
            }
        }
        list.finding(Check::Owed, format!("{owed} users were told that they are in"))
    }

    pub(super) fn spurious(&self) -> Finding {
        let Some(rows) = self.rows else {
            return not_applicable(Check::Spurious, "MySQL was not read");
        };
        let mut list = Offences::default();
        for (user, case) in self.cases() {
            let Some(row) = case.row else { continue };
            if case.told().next().is_some() {
                continue;
            }
            let denial = case.denials().find(|denial| !case.unknown().any(|unknown| overtaken(denial, unknown)));
            if let Some(denial) = denial {
                list.add(self.name(user), format!("holds slot {} and was told `{}`", row.slot, words(&denial.outcome)));
            } else if case.unknown().next().is_none() {
                list.add(self.name(user), format!("holds slot {} and no request of his can have got it", row.slot));
            }
        }
        if !self.terms.allow_foreign {
            for row in &self.strangers {
                list.add(row.user.clone(), format!("holds slot {} and was not sent by this run", row.slot));
            }
        }
        list.finding(Check::Spurious, format!("{} rows", rows.coupons.len()))
    }

    pub(super) fn repeats(&self) -> Finding {
        let mut list = Offences::default();
        let mut repeated = 0_usize;
        for (user, case) in self.cases() {
            repeated += usize::from(case.tries.len() > 1);
            let Some((_, first)) = case.told().next() else {
                continue;
            };
            let differs = case.told().find(|(_, told)| {
                let other_code = match (&first.code, &told.code) {
                    (Some(a), Some(b)) => a != b,
                    // A claim that was refused in the meantime has no code to show.
                    _ => false,
                };
                other_code || (told.slot != first.slot && !self.terms.allow_moved)
            });
            if let Some((_, told)) = differs {
                let code = |told: &Told| told.code.as_deref().unwrap_or("none").to_owned();
                list.add(
                    self.name(user),
                    format!(
                        "was told slot {} and code {}, then slot {} and code {}",
                        first.slot,
                        code(first),
                        told.slot,
                        code(told)
                    ),
                );
            }
            let admissions = case.tries.iter().filter(|one| matches!(one.outcome, Outcome::Admitted(_))).count();
            if admissions > 1 {
                list.add(self.name(user), format!("was admitted anew {admissions} times"));
            }
            let denial = case.denials().find(|denial| case.told().any(|(told, _)| !overtaken(denial, told)));
            if let Some(denial) = denial {
                list.add(
                    self.name(user),
                    format!("holds slot {} and was told `{}` all the same", first.slot, words(&denial.outcome)),
                );
            }
        }
        list.finding(Check::Repeats, format!("{repeated} users asked more than once"))
    }

    pub(super) fn slots(&self) -> Finding {
        let mut list = Offences::default();
        let capacity = self.terms.capacity;
        let mut holders: HashMap<u32, &str> = HashMap::new();
        let mut seats: HashMap<&str, u32> = HashMap::new();
        for row in self.rows.iter().flat_map(|rows| &rows.coupons) {
            if !(1..=capacity).contains(&row.slot) {
                list.add(row.user.clone(), format!("holds slot {} of {capacity}", row.slot));
            }
            if let Some(other) = holders.insert(row.slot, &row.user) {
                list.add(row.user.clone(), format!("holds slot {} together with {other}", row.slot));
            }
            if let Some(other) = seats.insert(&row.user, row.slot) {
                list.add(row.user.clone(), format!("holds slot {} and slot {other}", row.slot));
            }
        }
        let rows = self.rows.map_or(0, |rows| rows.coupons.len());
        if rows > capacity as usize {
            list.add(String::new(), format!("{rows} rows for {capacity} coupons"));
        }
        let mut promised: HashMap<u32, u32> = HashMap::new();
        for (user, case) in self.cases() {
            let slots: HashSet<u32> = case.told().map(|(_, told)| told.slot).collect();
            for slot in slots {
                if !(1..=capacity).contains(&slot) {
                    list.add(self.name(user), format!("was told slot {slot} of {capacity}"));
                }
                // Where slots may move, the rows alone say who holds which.
                if let Some(other) = promised.insert(slot, user)
                    && !self.terms.allow_moved
                {
                    list.add(self.name(user), format!("was told slot {slot}, and so was {}", self.name(other)));
                }
            }
        }
        list.finding(Check::Slots, format!("{} slots told, {rows} rows", promised.len()))
    }

    pub(super) fn full(&self) -> Finding {
        let mut list = Offences::default();
        let (users, capacity) = (self.ledger.crowd.users(), self.terms.capacity);
        if users > 0 && !self.cases().any(|(_, case)| case.row.is_some() || case.told().next().is_some()) {
            list.add(String::new(), format!("none of {users} users got anything: this run has tested nothing"));
            return list.finding(Check::Full, String::new());
        }
        let Some(rows) = self.rows else {
            return not_applicable(Check::Full, "MySQL was not read");
        };
        if !expect_full(self.ledger, self.terms) {
            let why = if users < capacity { "fewer users than coupons" } else { "the campaign was not open to all" };
            return not_applicable(Check::Full, why);
        }
        if rows.coupons.len() != capacity as usize {
            list.add(String::new(), format!("{} rows, {users} users came for {capacity} coupons", rows.coupons.len()));
        }
        list.finding(Check::Full, format!("{} of {capacity}", rows.coupons.len()))
    }

    pub(super) fn sold_out(&self) -> Finding {
        let Some(rows) = self.rows else {
            return not_applicable(Check::SoldOut, "MySQL was not read");
        };
        let mut list = Offences::default();
        let mut told = 0_usize;
        let short = rows.coupons.len() < self.terms.capacity as usize;
        for (user, case) in self.cases() {
            if case.tries.iter().any(|one| one.outcome == Outcome::SoldOut) {
                told += 1;
                if short {
                    let left = self.terms.capacity as usize - rows.coupons.len();
                    list.add(
                        self.name(user),
                        format!("was told `sold out`, and {left} of {} slots have no row", self.terms.capacity),
                    );
                }
            }
        }
        list.finding(Check::SoldOut, format!("{told} users were told so"))
    }

    pub(super) fn answers(&self) -> Finding {
        let mut list = Offences::default();
        for one in &self.ledger.tries {
            if let Outcome::Odd { status, what } = &one.outcome {
                let user = self.ledger.user(one).map(|user| self.name(user)).unwrap_or_default();
                list.add(user, format!("was answered {status}, {what}"));
            }
        }
        list.finding(Check::Answers, format!("{} answers", self.ledger.tries.len()))
    }
}

fn words(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::SoldOut => "sold out",
        Outcome::Closed => "closed",
        Outcome::NotOpen => "not open",
        _ => "something else",
    }
}

#[derive(Default)]
struct Offences {
    count: usize,
    named: Vec<Offence>,
}

impl Offences {
    fn add(&mut self, user: String, what: String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(Offence { user, what });
        }
    }

    fn finding(self, check: Check, note: String) -> Finding {
        let grade = if self.count == 0 { Grade::Pass } else { Grade::Fail };
        Finding { check, grade, note, offences: self.count, named: self.named }
    }
}

fn not_applicable(check: Check, why: &str) -> Finding {
    Finding { check, grade: Grade::NotApplicable, note: why.to_owned(), offences: 0, named: Vec::new() }
}
