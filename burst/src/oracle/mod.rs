//! The verdict: what users were told, held against what stands in MySQL.
//!
//! Nothing here is a threshold. One user who was wronged is a failure, and is named.

mod checks;
pub mod verdict;

use self::verdict::{Grade, Remarks, Verdict};
use crate::load::ledger::{Coupon, Ledger, Rows, Try};
use crate::load::outcome::{Outcome, Told};
use std::collections::{HashMap, HashSet};

/// What the oracle is asked.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// N: how many coupons there are.
    pub capacity: u32,
    /// Rows of users that we did not send are no fault.
    pub allow_foreign: bool,
    /// A user may end in another slot than he was told: Redis lost data and MySQL had given it away.
    pub allow_moved: bool,
}

/// All that concerns one user.
#[derive(Default)]
struct Case<'a> {
    tries: Vec<&'a Try>,
    row: Option<&'a Coupon>,
    refused: Option<&'a str>,
}

impl<'a> Case<'a> {
    fn told(&self) -> impl Iterator<Item = (&'a Try, &'a Told)> {
        self.tries.iter().copied().filter_map(|one| Some((one, one.outcome.told()?)))
    }

    fn denials(&self) -> impl Iterator<Item = &'a Try> {
        self.tries.iter().copied().filter(|one| one.outcome.is_denial())
    }

    /// A try of which nobody knows whether it was admitted.
    fn unknown(&self) -> impl Iterator<Item = &'a Try> {
        self.tries.iter().copied().filter(|one| one.outcome.cause().is_some_and(|cause| cause.may_have_admitted()))
    }
}

/// A denial is no fault if the admission was asked for only after it: the capacity may have been
/// raised, or the campaign opened, in between.
fn overtaken(denial: &Try, admission: &Try) -> bool {
    denial.answered_us <= admission.sent_us
}

fn users_owed(ledger: &Ledger) -> HashSet<u32> {
    ledger.tries.iter().filter(|one| one.outcome.told().is_some()).filter_map(|one| ledger.user(one)).collect()
}

/// How many rows, of either kind, there must be before [`settled`] can hold: cheaper to ask for.
#[must_use]
pub fn rows_expected(ledger: &Ledger, terms: &Terms) -> u64 {
    let full = if expect_full(ledger, terms) { u64::from(terms.capacity) } else { 0 };
    full.max(users_owed(ledger).len() as u64)
}

/// Whether everything that is owed is there, so that waiting longer cannot help: each admission is a
/// row or a refusal, and all `capacity` rows exist if that many users came.
#[must_use]
pub fn settled(ledger: &Ledger, rows: &Rows, terms: &Terms) -> bool {
    let mut there: HashSet<u32> = rows.coupons.iter().filter_map(|row| ledger.crowd.index(&row.user)).collect();
    there.extend(rows.refusals.iter().filter_map(|row| ledger.crowd.index(&row.user)));
    users_owed(ledger).is_subset(&there)
        && (!expect_full(ledger, terms) || rows.coupons.len() >= terms.capacity as usize)
}

fn expect_full(ledger: &Ledger, terms: &Terms) -> bool {
    let outside = ledger.tries.iter().any(|one| matches!(one.outcome, Outcome::Closed | Outcome::NotOpen));
    ledger.crowd.users() >= terms.capacity && !outside
}

/// Judges. Without `rows` (no database was read) the checks that need them do not apply.
#[must_use]
pub fn judge(ledger: &Ledger, rows: Option<&Rows>, terms: &Terms) -> Verdict {
    let mut cases: Vec<Case<'_>> = Vec::new();
    cases.resize_with(ledger.crowd.users() as usize, Case::default);
    for one in &ledger.tries {
        if let Some(case) = ledger.user(one).and_then(|user| cases.get_mut(user as usize)) {
            case.tries.push(one);
        }
    }
    let mut strangers = Vec::new();
    for row in rows.iter().flat_map(|rows| &rows.coupons) {
        match ledger.crowd.index(&row.user).and_then(|user| cases.get_mut(user as usize)) {
            Some(case) => case.row = Some(row),
            None => strangers.push(row),
        }
    }
    for row in rows.iter().flat_map(|rows| &rows.refusals) {
        if let Some(case) = ledger.crowd.index(&row.user).and_then(|user| cases.get_mut(user as usize)) {
            case.refused = Some(&row.reason);
        }
    }
    let court = Court { ledger, rows, terms, cases, strangers };
    let findings = vec![
        court.owed(),
        court.spurious(),
        court.repeats(),
        court.slots(),
        court.full(),
        court.sold_out(),
        court.answers(),
    ];
    Verdict { pass: findings.iter().all(|finding| finding.grade != Grade::Fail), findings, remarks: court.remarks() }
}

struct Court<'a> {
    ledger: &'a Ledger,
    rows: Option<&'a Rows>,
    terms: &'a Terms,
    /// By user.
    cases: Vec<Case<'a>>,
    strangers: Vec<&'a Coupon>,
}

impl<'a> Court<'a> {
    fn cases(&self) -> impl Iterator<Item = (u32, &Case<'a>)> {
        (0_u32..).zip(&self.cases)
    }

    fn name(&self, user: u32) -> String {
        self.ledger.crowd.name(user)
    }

    fn moved(&self, told: &Told, row: &Coupon) -> bool {
        told.slot != row.slot && self.terms.allow_moved
    }

    fn remarks(&self) -> Remarks {
        let mut remarks = Remarks { foreign_rows: self.strangers.len(), ..Remarks::default() };
        let mut reasons: HashMap<&str, usize> = HashMap::new();
        for (_, case) in self.cases() {
            if let (None, Some(reason)) = (case.row, case.refused) {
                *reasons.entry(reason).or_default() += 1;
            }
            if !case.tries.iter().any(|one| one.outcome.cause().is_none()) {
                remarks.undecided_users += 1;
                remarks.undecided_with_row += usize::from(case.row.is_some());
            }
            if let Some(row) = case.row {
                remarks.moved_slots += usize::from(case.told().any(|(_, told)| self.moved(told, row)));
            }
        }
        remarks.refused = reasons.into_iter().map(|(reason, users)| (reason.to_owned(), users)).collect();
        remarks.refused.sort();
        remarks
    }
}
