//! Everything that is known about each user: their attempts and their rows.

use super::verdict::Remarks;
use crate::load::ledger::{Attempt, Ledger};
use crate::load::outcome::{ClaimOutcome, Promise};
use crate::rows::{Coupon, Rows};
use std::collections::{HashMap, HashSet};

/// What the oracle expects.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// N: the number of coupons.
    pub capacity: u32,
    /// Rows of users who are not part of this run are no violation.
    pub allow_foreign: bool,
    /// A row may have another slot than was promised: Redis lost data and MySQL had issued that slot.
    pub allow_moved: bool,
}

#[derive(Default)]
pub(super) struct UserHistory<'a> {
    pub attempts: Vec<&'a Attempt>,
    pub row: Option<&'a Coupon>,
    pub refused: Option<&'a str>,
}

impl<'a> UserHistory<'a> {
    pub fn promises(&self) -> impl Iterator<Item = (&'a Attempt, &'a Promise)> {
        self.attempts.iter().filter_map(|attempt| Some((*attempt, attempt.outcome.promise()?)))
    }

    pub fn denials(&self) -> impl Iterator<Item = &'a Attempt> {
        self.attempts.iter().copied().filter(|attempt| attempt.outcome.is_denial())
    }

    /// Attempts that may have been admitted although no response says so.
    pub fn unknown(&self) -> impl Iterator<Item = &'a Attempt> {
        let may_have = |attempt: &&Attempt| attempt.outcome.undecided_reason().is_some_and(|r| r.may_have_admitted());
        self.attempts.iter().copied().filter(may_have)
    }
}

/// A denial is no violation if the admission was requested only after it: the capacity may have been
/// raised, or the campaign opened, in between.
pub(super) fn is_before(denial: &Attempt, admission: &Attempt) -> bool {
    denial.answered_us <= admission.sent_us
}

pub(super) fn promised_users(ledger: &Ledger) -> HashSet<u32> {
    let promised = ledger.attempts.iter().filter(|attempt| attempt.outcome.promise().is_some());
    promised.filter_map(|attempt| ledger.user(attempt)).collect()
}

pub(super) fn expect_full(ledger: &Ledger, rules: &Rules) -> bool {
    let outside = |attempt: &Attempt| matches!(attempt.outcome, ClaimOutcome::Closed | ClaimOutcome::NotOpen);
    ledger.crowd.users() >= rules.capacity && !ledger.attempts.iter().any(outside)
}

pub(super) struct Evidence<'a> {
    pub ledger: &'a Ledger,
    pub rows: Option<&'a Rows>,
    pub rules: &'a Rules,
    /// By user.
    histories: Vec<UserHistory<'a>>,
    /// Rows of users who are not part of this run.
    pub foreign: Vec<&'a Coupon>,
}

impl<'a> Evidence<'a> {
    pub fn new(ledger: &'a Ledger, rows: Option<&'a Rows>, rules: &'a Rules) -> Self {
        let mut histories: Vec<UserHistory<'_>> = Vec::new();
        histories.resize_with(ledger.crowd.users() as usize, UserHistory::default);
        for attempt in &ledger.attempts {
            if let Some(history) = ledger.user(attempt).and_then(|user| histories.get_mut(user as usize)) {
                history.attempts.push(attempt);
            }
        }
        let mut foreign = Vec::new();
        for row in rows.iter().flat_map(|rows| &rows.coupons) {
            match ledger.crowd.index(&row.user).and_then(|user| histories.get_mut(user as usize)) {
                Some(history) => history.row = Some(row),
                None => foreign.push(row),
            }
        }
        for row in rows.iter().flat_map(|rows| &rows.refusals) {
            if let Some(history) = ledger.crowd.index(&row.user).and_then(|user| histories.get_mut(user as usize)) {
                history.refused = Some(&row.reason);
            }
        }
        Self { ledger, rows, rules, histories, foreign }
    }

    pub fn users(&self) -> impl Iterator<Item = (u32, &UserHistory<'a>)> {
        (0_u32..).zip(&self.histories)
    }

    pub fn name(&self, user: u32) -> String {
        self.ledger.crowd.name(user)
    }

    pub fn is_allowed_move(&self, promise: &Promise, row: &Coupon) -> bool {
        promise.slot != row.slot && self.rules.allow_moved
    }

    pub fn remarks(&self) -> Remarks {
        let mut remarks = Remarks { foreign_rows: self.foreign.len(), ..Remarks::default() };
        let mut reasons: HashMap<&str, usize> = HashMap::new();
        for (_, history) in self.users() {
            if let (None, Some(reason)) = (history.row, history.refused) {
                *reasons.entry(reason).or_default() += 1;
            }
            if history.attempts.iter().all(|attempt| attempt.outcome.undecided_reason().is_some()) {
                remarks.undecided_users += 1;
                remarks.undecided_with_row += usize::from(history.row.is_some());
            }
            if let Some(row) = history.row {
                let moved = history.promises().any(|(_, promise)| self.is_allowed_move(promise, row));
                remarks.moved_slots += usize::from(moved);
            }
        }
        remarks.refused = reasons.into_iter().map(|(reason, users)| (reason.to_owned(), users)).collect();
        remarks.refused.sort();
        remarks
    }
}
