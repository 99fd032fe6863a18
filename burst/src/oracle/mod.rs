//! The verdict: the responses to each user, compared with the rows in MySQL.
//!
//! No check has a threshold. One violation is a failure, and its user is named.

mod checks;
mod evidence;
pub mod verdict;

use crate::load::ledger::Ledger;
use crate::rows::Rows;
use evidence::{Evidence, expect_full, promised_users};
use std::collections::HashSet;
use verdict::{Grade, Verdict};

pub use evidence::Rules;

/// How many rows, of both kinds, there must be before [`is_settled`] can hold. Cheaper to compute.
#[must_use]
pub fn rows_expected(ledger: &Ledger, rules: &Rules) -> u64 {
    let full = if expect_full(ledger, rules) { u64::from(rules.capacity) } else { 0 };
    full.max(promised_users(ledger).len() as u64)
}

/// Whether every expected row exists, so that waiting longer cannot help: each admission is a coupon or a
/// refusal, and all `capacity` coupons exist if that many users came.
#[must_use]
pub fn is_settled(ledger: &Ledger, rows: &Rows, rules: &Rules) -> bool {
    let coupons = rows.coupons.iter().filter_map(|row| ledger.crowd.index(&row.user));
    let refusals = rows.refusals.iter().filter_map(|row| ledger.crowd.index(&row.user));
    let settled: HashSet<u32> = coupons.chain(refusals).collect();
    promised_users(ledger).is_subset(&settled)
        && (!expect_full(ledger, rules) || rows.coupons.len() >= rules.capacity as usize)
}

/// Without `rows` (no database was read) the checks that need them do not apply.
#[must_use]
pub fn judge(ledger: &Ledger, rows: Option<&Rows>, rules: &Rules) -> Verdict {
    let evidence = Evidence::new(ledger, rows, rules);
    let findings = vec![
        checks::owed(&evidence),
        checks::spurious(&evidence),
        checks::repeats(&evidence),
        checks::slots(&evidence),
        checks::full(&evidence),
        checks::sold_out(&evidence),
        checks::answers(&evidence),
    ];
    let pass = findings.iter().all(|finding| matches!(finding.grade, Grade::Pass | Grade::NotApplicable));
    Verdict { pass, findings, remarks: evidence.remarks() }
}
