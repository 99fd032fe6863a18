//! Every check of the oracle, once with a pass and once with a failure.
// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_burst::load::identity::Crowd;
use dropgate_burst::load::ledger::{Attempt, Ledger};
use dropgate_burst::load::outcome::{ClaimOutcome, Promise, UndecidedReason};
use dropgate_burst::load::schedule::Arrival;
use dropgate_burst::oracle::verdict::{Check, Grade, Verdict};
use dropgate_burst::oracle::{Rules, is_settled, judge, rows_expected};
use dropgate_burst::rows::{Coupon, Refusal, Rows};

const ALL: [Check; 7] =
    [Check::Owed, Check::Spurious, Check::Repeats, Check::Slots, Check::Full, Check::SoldOut, Check::Answers];

/// Three users for two coupons: u-1 and u-2 are in, u-3 is not.
struct Scenario {
    users: u32,
    attempts: Vec<(u32, u64, u64, ClaimOutcome)>,
    rows: Rows,
    rules: Rules,
}

fn promise(slot: u32, user: u32) -> Box<Promise> {
    Box::new(Promise { slot, code: Some(format!("CODE-{user}").into()), admitted_ms: 1_000, refused: false })
}

fn admitted(slot: u32, user: u32) -> ClaimOutcome {
    ClaimOutcome::Admitted(promise(slot, user))
}

fn already(slot: u32, user: u32) -> ClaimOutcome {
    ClaimOutcome::Already(promise(slot, user))
}

fn coupon(slot: u32, user: u32) -> Coupon {
    Coupon { slot, user: format!("u-{}", user + 1), code: format!("CODE-{user}"), admitted_ms: 1_000, issued_ms: 2_000 }
}

fn refusal(user: u32) -> Refusal {
    Refusal { user: format!("u-{}", user + 1), proposed_slot: 1, reason: "no-slot-left".to_owned() }
}

impl Scenario {
    fn correct() -> Self {
        Self {
            users: 3,
            attempts: vec![
                (0, 10, 20, admitted(1, 0)),
                (1, 11, 21, admitted(2, 1)),
                (2, 12, 22, ClaimOutcome::SoldOut),
                (0, 13, 23, already(1, 0)),
            ],
            rows: Rows { coupons: vec![coupon(1, 0), coupon(2, 1)], refusals: Vec::new() },
            rules: Rules { capacity: 2, allow_foreign: false, allow_moved: false },
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger {
            crowd: Crowd::new("u-", self.users),
            arrivals: self
                .attempts
                .iter()
                .map(|(user, ..)| Arrival { due_us: 0, user: *user, repeat: false })
                .collect(),
            attempts: (0..)
                .zip(&self.attempts)
                .map(|(claim, (_, sent_us, answered_us, outcome))| Attempt {
                    claim,
                    number: 1,
                    sent_us: *sent_us,
                    answered_us: *answered_us,
                    outcome: outcome.clone(),
                })
                .collect(),
            started_ms: 0,
        }
    }

    fn judge(&self) -> Verdict {
        judge(&self.ledger(), Some(&self.rows), &self.rules)
    }

    fn settled(&self) -> bool {
        let settled = is_settled(&self.ledger(), &self.rows, &self.rules);
        let rows = (self.rows.coupons.len() + self.rows.refusals.len()) as u64;
        assert!(
            !settled || rows >= rows_expected(&self.ledger(), &self.rules),
            "rows_expected is stricter than is_settled"
        );
        settled
    }

    /// The checks that fail, and the users whom they name.
    fn failing(&self) -> Vec<(Check, Vec<String>)> {
        let verdict = self.judge();
        let failing: Vec<_> = verdict
            .findings
            .iter()
            .filter(|finding| finding.grade == Grade::Fail)
            .map(|finding| (finding.check, finding.named.iter().map(|violation| violation.user.clone()).collect()))
            .collect();
        assert_eq!(verdict.status() != 1, failing.is_empty());
        failing
    }
}

fn one(check: Check, user: &str) -> Vec<(Check, Vec<String>)> {
    vec![(check, vec![user.to_owned()])]
}

#[test]
fn a_correct_run_passes_every_check() {
    let verdict = Scenario::correct().judge();
    assert!(verdict.pass);
    assert_eq!(verdict.findings.iter().map(|f| (f.check, f.grade)).collect::<Vec<_>>(), ALL.map(|c| (c, Grade::Pass)));
    assert!(Scenario::correct().settled());
}

#[test]
fn owed_a_row_that_is_missing() {
    let mut scenario = Scenario::correct();
    scenario.rows.coupons.remove(0);
    assert!(!scenario.settled());
    let failing = scenario.failing();
    assert_eq!(failing[0], (Check::Owed, vec!["u-1".to_owned()]));
    // One missing coupon fails the checks on the whole campaign too.
    assert_eq!(failing[1..].iter().map(|f| f.0).collect::<Vec<_>>(), [Check::Full, Check::SoldOut]);
}

#[test]
fn owed_a_row_with_another_slot_or_code() {
    let mut scenario = Scenario::correct();
    scenario.rows.coupons[0].code = "OTHER".to_owned();
    assert_eq!(scenario.failing(), one(Check::Owed, "u-1"));

    let mut scenario = Scenario::correct();
    scenario.attempts[0].3 = admitted(2, 0);
    scenario.attempts[3].3 = already(2, 0);
    scenario.attempts[1].3 = admitted(1, 1);
    assert_eq!(scenario.failing(), [(Check::Owed, vec!["u-1".to_owned(), "u-2".to_owned()])]);
    // After Redis lost data the slot in MySQL counts; the code is the same.
    scenario.rules.allow_moved = true;
    assert_eq!(scenario.failing(), []);
    assert_eq!(scenario.judge().remarks.moved_slots, 2);
}

#[test]
fn a_refusal_settles_an_admission_and_is_reported() {
    // Redis lost the admission of u-1 and admitted u-3 instead; two rows exist, u-3 is refused.
    let mut scenario = Scenario::correct();
    scenario.attempts[2].3 = admitted(2, 2);
    scenario.rules.allow_moved = true;
    assert!(!scenario.settled());
    assert_eq!(scenario.failing(), one(Check::Owed, "u-3"));
    scenario.rows.refusals.push(refusal(2));
    assert!(scenario.settled());
    assert_eq!(scenario.failing(), []);
    let verdict = scenario.judge();
    assert_eq!(verdict.remarks.refused, [("no-slot-left".to_owned(), 1)]);
    assert_eq!((verdict.pass, verdict.word(), verdict.status()), (false, "CAPACITY KEPT", 4));
    let owed = &verdict.findings[0];
    assert_eq!((owed.check, owed.grade), (Check::Owed, Grade::Refused));
    assert!(owed.note.ends_with(", 1 of them refused afterwards"), "{}", owed.note);
    assert_eq!(Scenario::correct().judge().status(), 0);
}

#[test]
fn spurious_a_row_of_a_user_who_was_denied() {
    for denial in [ClaimOutcome::SoldOut, ClaimOutcome::Closed, ClaimOutcome::NotOpen] {
        let mut scenario = Scenario::correct();
        scenario.attempts[1].3 = denial;
        assert!(
            scenario.failing().contains(&(Check::Spurious, vec!["u-2".to_owned()])),
            "{scenario:?}",
            scenario = scenario.attempts
        );
    }
}

#[test]
fn spurious_a_row_without_a_request_that_was_processed() {
    for cause in UndecidedReason::ALL {
        let mut scenario = Scenario::correct();
        scenario.attempts[1].3 = ClaimOutcome::undecided(cause);
        if cause.may_have_admitted() {
            assert_eq!(scenario.failing(), [], "{cause:?}");
            let remarks = scenario.judge().remarks;
            assert_eq!((remarks.undecided_users, remarks.undecided_with_row), (1, 1));
        } else {
            assert_eq!(scenario.failing(), one(Check::Spurious, "u-2"), "{cause:?}");
        }
    }
}

#[test]
fn spurious_an_unknown_outcome_reported_as_a_denial() {
    // I8: the first request timed out and was admitted, the second gets `sold out`.
    let mut scenario = Scenario::correct();
    scenario.attempts[1] = (1, 11, 50, ClaimOutcome::undecided(UndecidedReason::Timeout));
    scenario.attempts.push((1, 60, 70, ClaimOutcome::SoldOut));
    assert_eq!(scenario.failing(), one(Check::Spurious, "u-2"));
    // In the other order the capacity may have been raised in between.
    scenario.attempts[1] = (1, 71, 99, ClaimOutcome::undecided(UndecidedReason::Timeout));
    assert_eq!(scenario.failing(), []);
}

#[test]
fn spurious_a_user_outside_this_run() {
    let mut scenario = Scenario::correct();
    scenario.attempts[1].3 = ClaimOutcome::SoldOut;
    scenario.rows.coupons[1] = Coupon { user: "someone".to_owned(), ..coupon(2, 0) };
    assert_eq!(scenario.failing(), one(Check::Spurious, "someone"));
    scenario.rules.allow_foreign = true;
    assert_eq!(scenario.failing(), []);
    assert_eq!(scenario.judge().remarks.foreign_rows, 1);
}

#[test]
fn repeats_that_name_another_slot_or_code() {
    let mut scenario = Scenario::correct();
    scenario.attempts[3].3 = already(2, 0);
    let failing = scenario.failing();
    assert!(failing.contains(&(Check::Repeats, vec!["u-1".to_owned()])), "{failing:?}");

    let mut scenario = Scenario::correct();
    scenario.attempts[3].3 = already(1, 7);
    assert_eq!(scenario.failing(), [(Check::Owed, vec!["u-1".to_owned()]), (Check::Repeats, vec!["u-1".to_owned()])]);
}

#[test]
fn repeats_admitted_twice() {
    let mut scenario = Scenario::correct();
    scenario.attempts[3].3 = admitted(1, 0);
    assert_eq!(scenario.failing(), one(Check::Repeats, "u-1"));
    // No 202 at all is valid: it was lost, and 200 came.
    scenario.attempts[0].3 = ClaimOutcome::undecided(UndecidedReason::Broken);
    scenario.attempts[3].3 = already(1, 0);
    assert_eq!(scenario.failing(), []);
}

#[test]
fn repeats_denied_after_the_admission() {
    for denial in [ClaimOutcome::SoldOut, ClaimOutcome::Closed, ClaimOutcome::NotOpen] {
        let mut scenario = Scenario::correct();
        scenario.attempts[3].3 = denial.clone();
        let failing = scenario.failing();
        assert!(failing.contains(&(Check::Repeats, vec!["u-1".to_owned()])), "{failing:?}");
        // Also if both were in flight: one step decides both.
        scenario.attempts[3] = (0, 5, 15, denial.clone());
        assert!(scenario.failing().contains(&(Check::Repeats, vec!["u-1".to_owned()])));
        // Denied before the admission was requested: no contradiction.
        scenario.attempts[3] = (0, 5, 10, denial);
        assert!(!scenario.failing().iter().any(|(check, _)| *check == Check::Repeats));
    }
}

#[test]
fn a_claim_refused_meanwhile_has_no_code_to_compare() {
    let mut scenario = Scenario::correct();
    scenario.attempts[3].3 = ClaimOutcome::Already(Box::new(Promise { code: None, refused: true, ..*promise(1, 0) }));
    assert_eq!(scenario.failing(), []);
}

#[test]
fn slots_beyond_the_last() {
    // Coupon N+1: u-3 gets slot 3 of 2.
    let mut scenario = Scenario::correct();
    scenario.attempts[2].3 = admitted(3, 2);
    scenario.rows.coupons.push(coupon(3, 2));
    let failing = scenario.failing();
    assert_eq!(failing[0], (Check::Slots, vec!["u-3".to_owned(), String::new(), "u-3".to_owned()]));
    assert_eq!(failing[1].0, Check::Full);
    // The promise alone is a violation.
    scenario.rows.coupons.pop();
    assert!(scenario.failing().contains(&(Check::Slots, vec!["u-3".to_owned()])));
    let mut scenario = Scenario::correct();
    scenario.attempts[0].3 = admitted(0, 0);
    assert!(scenario.failing().iter().any(|(check, _)| *check == Check::Slots));
}

#[test]
fn slots_held_twice() {
    let mut scenario = Scenario::correct();
    scenario.rows.coupons[1].slot = 1;
    scenario.attempts[1].3 = admitted(1, 1);
    assert_eq!(scenario.failing(), [(Check::Slots, vec!["u-2".to_owned(), "u-2".to_owned()])]);
    // One user with two slots.
    let mut scenario = Scenario::correct();
    scenario.rows.coupons[1] = coupon(2, 0);
    assert!(scenario.failing().contains(&(Check::Slots, vec!["u-1".to_owned()])));
}

#[test]
fn slots_promised_twice() {
    let mut scenario = Scenario::correct();
    scenario.attempts[1].3 = admitted(1, 1);
    let failing = scenario.failing();
    assert!(failing.contains(&(Check::Slots, vec!["u-2".to_owned()])), "{failing:?}");
}

#[test]
fn full_if_enough_users_came() {
    // u-2 was never decided, u-3 neither; one coupon is left.
    let mut scenario = Scenario::correct();
    scenario.attempts[1].3 = ClaimOutcome::undecided(UndecidedReason::Unavailable);
    scenario.attempts[2].3 = ClaimOutcome::undecided(UndecidedReason::Unavailable);
    scenario.rows.coupons.pop();
    assert!(!scenario.settled());
    assert_eq!(scenario.failing(), one(Check::Full, ""));
    assert_eq!(scenario.judge().remarks.undecided_users, 2);
    // Fewer users than coupons.
    scenario.rules.capacity = 4;
    let grade =
        |scenario: &Scenario| scenario.judge().findings.iter().find(|f| f.check == Check::Full).map(|f| f.grade);
    assert_eq!(grade(&scenario), Some(Grade::NotApplicable));
    assert!(scenario.settled());
    // The campaign closed while they came.
    scenario.rules.capacity = 2;
    scenario.attempts[2].3 = ClaimOutcome::Closed;
    assert_eq!(grade(&scenario), Some(Grade::NotApplicable));
}

#[test]
fn a_run_without_any_admission_fails() {
    let mut scenario = Scenario::correct();
    for one in &mut scenario.attempts {
        one.3 = ClaimOutcome::NotOpen;
    }
    scenario.rows = Rows::default();
    assert_eq!(scenario.failing(), one(Check::Full, ""));
}

#[test]
fn sold_out_while_a_coupon_is_left() {
    let mut scenario = Scenario::correct();
    scenario.rules.capacity = 4;
    assert_eq!(scenario.failing(), one(Check::SoldOut, "u-3"));
}

#[test]
fn answers_that_a_valid_claim_cannot_get() {
    let mut scenario = Scenario::correct();
    scenario.attempts[2].3 = ClaimOutcome::Invalid { status: 404, what: "unknown-campaign".into() };
    let verdict = scenario.judge();
    assert_eq!(scenario.failing(), one(Check::Answers, "u-3"));
    let what = &verdict.findings.last().unwrap().named[0].what;
    assert!(what.contains("404") && what.contains("unknown-campaign"), "{what}");
}

#[test]
fn all_are_counted_and_twenty_are_named() {
    let mut scenario = Scenario::correct();
    scenario.users = 100;
    scenario.rules.capacity = 4;
    for user in 3..100 {
        scenario.attempts.push((user, 20, 30, ClaimOutcome::SoldOut));
    }
    let verdict = scenario.judge();
    let finding = verdict.findings.iter().find(|f| f.check == Check::SoldOut).unwrap();
    assert_eq!((finding.violations, finding.named.len()), (98, 20));
}

#[test]
fn without_a_database_only_the_answers_are_judged() {
    let mut scenario = Scenario::correct();
    let grades = |scenario: &Scenario| {
        let verdict = judge(&scenario.ledger(), None, &scenario.rules);
        verdict
            .findings
            .iter()
            .filter(|f| f.grade != Grade::NotApplicable)
            .map(|f| (f.check, f.grade))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        grades(&scenario),
        [(Check::Repeats, Grade::Pass), (Check::Slots, Grade::Pass), (Check::Answers, Grade::Pass)]
    );
    scenario.attempts[1].3 = admitted(1, 1);
    assert!(grades(&scenario).contains(&(Check::Slots, Grade::Fail)));
}
