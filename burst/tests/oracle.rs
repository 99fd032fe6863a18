//! Every check of the oracle, seen holding and seen failing.
// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_burst::load::identity::Crowd;
use dropgate_burst::load::ledger::{Coupon, Ledger, Refusal, Rows, Try};
use dropgate_burst::load::outcome::{Cause, Outcome, Told};
use dropgate_burst::load::schedule::Arrival;
use dropgate_burst::oracle::verdict::{Check, Grade, Verdict};
use dropgate_burst::oracle::{Terms, judge, rows_expected, settled};

const ALL: [Check; 7] =
    [Check::Owed, Check::Spurious, Check::Repeats, Check::Slots, Check::Full, Check::SoldOut, Check::Answers];

/// Three users for two coupons: u-1 and u-2 are in, u-3 is not.
struct Story {
    users: u32,
    tries: Vec<(u32, u64, u64, Outcome)>,
    rows: Rows,
    terms: Terms,
}

fn told(slot: u32, user: u32) -> Box<Told> {
    Box::new(Told { slot, code: Some(format!("CODE-{user}").into()), admitted_ms: 1_000, refused: false })
}

fn admitted(slot: u32, user: u32) -> Outcome {
    Outcome::Admitted(told(slot, user))
}

fn already(slot: u32, user: u32) -> Outcome {
    Outcome::Already(told(slot, user))
}

fn coupon(slot: u32, user: u32) -> Coupon {
    Coupon { slot, user: format!("u-{}", user + 1), code: format!("CODE-{user}"), admitted_ms: 1_000, issued_ms: 2_000 }
}

fn refusal(user: u32) -> Refusal {
    Refusal { user: format!("u-{}", user + 1), proposed_slot: 1, reason: "no-slot-left".to_owned() }
}

impl Story {
    fn fair() -> Self {
        Self {
            users: 3,
            tries: vec![
                (0, 10, 20, admitted(1, 0)),
                (1, 11, 21, admitted(2, 1)),
                (2, 12, 22, Outcome::SoldOut),
                (0, 13, 23, already(1, 0)),
            ],
            rows: Rows { coupons: vec![coupon(1, 0), coupon(2, 1)], refusals: Vec::new() },
            terms: Terms { capacity: 2, allow_foreign: false, allow_moved: false },
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger {
            crowd: Crowd::new("u-", self.users),
            arrivals: self.tries.iter().map(|(user, ..)| Arrival { due_us: 0, user: *user, repeat: false }).collect(),
            tries: (0..)
                .zip(&self.tries)
                .map(|(claim, (_, sent_us, answered_us, outcome))| Try {
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
        judge(&self.ledger(), Some(&self.rows), &self.terms)
    }

    fn settled(&self) -> bool {
        let settled = settled(&self.ledger(), &self.rows, &self.terms);
        let rows = (self.rows.coupons.len() + self.rows.refusals.len()) as u64;
        assert!(
            !settled || rows >= rows_expected(&self.ledger(), &self.terms),
            "the cheap question hides the true one"
        );
        settled
    }

    /// The checks that fail, and whom they name.
    fn failing(&self) -> Vec<(Check, Vec<String>)> {
        let verdict = self.judge();
        let failing: Vec<_> = verdict
            .findings
            .iter()
            .filter(|finding| finding.grade == Grade::Fail)
            .map(|finding| (finding.check, finding.named.iter().map(|offence| offence.user.clone()).collect()))
            .collect();
        assert_eq!(verdict.pass, failing.is_empty());
        failing
    }
}

fn one(check: Check, user: &str) -> Vec<(Check, Vec<String>)> {
    vec![(check, vec![user.to_owned()])]
}

#[test]
fn a_fair_run_passes_every_check() {
    let verdict = Story::fair().judge();
    assert!(verdict.pass);
    assert_eq!(verdict.findings.iter().map(|f| (f.check, f.grade)).collect::<Vec<_>>(), ALL.map(|c| (c, Grade::Pass)));
    assert!(Story::fair().settled());
}

#[test]
fn owed_a_row_that_is_missing() {
    let mut story = Story::fair();
    story.rows.coupons.remove(0);
    assert!(!story.settled());
    let failing = story.failing();
    assert_eq!(failing[0], (Check::Owed, vec!["u-1".to_owned()]));
    // The coupon that is missing is missing for all.
    assert_eq!(failing[1..].iter().map(|f| f.0).collect::<Vec<_>>(), [Check::Full, Check::SoldOut]);
}

#[test]
fn owed_a_row_with_another_slot_or_code() {
    let mut story = Story::fair();
    story.rows.coupons[0].code = "OTHER".to_owned();
    assert_eq!(story.failing(), one(Check::Owed, "u-1"));

    let mut story = Story::fair();
    story.tries[0].3 = admitted(2, 0);
    story.tries[3].3 = already(2, 0);
    story.tries[1].3 = admitted(1, 1);
    assert_eq!(story.failing(), [(Check::Owed, vec!["u-1".to_owned(), "u-2".to_owned()])]);
    // Where Redis loses data on purpose, MySQL's slot counts; the code stays.
    story.terms.allow_moved = true;
    assert_eq!(story.failing(), []);
    assert_eq!(story.judge().remarks.moved_slots, 2);
}

#[test]
fn a_refusal_settles_a_debt_and_is_told() {
    // Redis lost u-1's admission and admitted u-3 in his place; two rows exist, u-3 is refused.
    let mut story = Story::fair();
    story.tries[2].3 = admitted(2, 2);
    story.terms.allow_moved = true;
    assert!(!story.settled());
    assert_eq!(story.failing(), one(Check::Owed, "u-3"));
    story.rows.refusals.push(refusal(2));
    assert!(story.settled());
    assert_eq!(story.failing(), []);
    assert_eq!(story.judge().remarks.refused, [("no-slot-left".to_owned(), 1)]);
}

#[test]
fn spurious_a_row_of_someone_who_was_sent_away() {
    for denial in [Outcome::SoldOut, Outcome::Closed, Outcome::NotOpen] {
        let mut story = Story::fair();
        story.tries[1].3 = denial;
        assert!(story.failing().contains(&(Check::Spurious, vec!["u-2".to_owned()])), "{story:?}", story = story.tries);
    }
}

#[test]
fn spurious_a_row_that_no_request_can_have_got() {
    for cause in Cause::ALL {
        let mut story = Story::fair();
        story.tries[1].3 = Outcome::undecided(cause);
        if cause.may_have_admitted() {
            assert_eq!(story.failing(), [], "{cause:?}");
            let remarks = story.judge().remarks;
            assert_eq!((remarks.undecided_users, remarks.undecided_with_row), (1, 1));
        } else {
            assert_eq!(story.failing(), one(Check::Spurious, "u-2"), "{cause:?}");
        }
    }
}

#[test]
fn spurious_an_unknown_outcome_told_as_a_refusal() {
    // I8: his first request timed out and had been admitted, the second is told `sold out`.
    let mut story = Story::fair();
    story.tries[1] = (1, 11, 50, Outcome::undecided(Cause::Timeout));
    story.tries.push((1, 60, 70, Outcome::SoldOut));
    assert_eq!(story.failing(), one(Check::Spurious, "u-2"));
    // The other way round the capacity may have been raised in between.
    story.tries[1] = (1, 71, 99, Outcome::undecided(Cause::Timeout));
    assert_eq!(story.failing(), []);
}

#[test]
fn spurious_a_stranger() {
    let mut story = Story::fair();
    story.tries[1].3 = Outcome::SoldOut;
    story.rows.coupons[1] = Coupon { user: "someone".to_owned(), ..coupon(2, 0) };
    assert_eq!(story.failing(), one(Check::Spurious, "someone"));
    story.terms.allow_foreign = true;
    assert_eq!(story.failing(), []);
    assert_eq!(story.judge().remarks.foreign_rows, 1);
}

#[test]
fn repeats_that_name_another_slot_or_code() {
    let mut story = Story::fair();
    story.tries[3].3 = already(2, 0);
    let failing = story.failing();
    assert!(failing.contains(&(Check::Repeats, vec!["u-1".to_owned()])), "{failing:?}");

    let mut story = Story::fair();
    story.tries[3].3 = already(1, 7);
    assert_eq!(story.failing(), [(Check::Owed, vec!["u-1".to_owned()]), (Check::Repeats, vec!["u-1".to_owned()])]);
}

#[test]
fn repeats_admitted_twice() {
    let mut story = Story::fair();
    story.tries[3].3 = admitted(1, 0);
    assert_eq!(story.failing(), one(Check::Repeats, "u-1"));
    // No 202 at all is fine: it was lost, and 200 came.
    story.tries[0].3 = Outcome::undecided(Cause::Broken);
    story.tries[3].3 = already(1, 0);
    assert_eq!(story.failing(), []);
}

#[test]
fn repeats_sent_away_after_the_admission() {
    for denial in [Outcome::SoldOut, Outcome::Closed, Outcome::NotOpen] {
        let mut story = Story::fair();
        story.tries[3].3 = denial.clone();
        let failing = story.failing();
        assert!(failing.contains(&(Check::Repeats, vec!["u-1".to_owned()])), "{failing:?}");
        // Both under way at once is no excuse: one step decides, for both.
        story.tries[3] = (0, 5, 15, denial.clone());
        assert!(story.failing().contains(&(Check::Repeats, vec!["u-1".to_owned()])));
        // Told before he asked for what was granted: no contradiction.
        story.tries[3] = (0, 5, 10, denial);
        assert!(!story.failing().iter().any(|(check, _)| *check == Check::Repeats));
    }
}

#[test]
fn a_claim_refused_meanwhile_has_no_code_to_compare() {
    let mut story = Story::fair();
    story.tries[3].3 = Outcome::Already(Box::new(Told { code: None, refused: true, ..*told(1, 0) }));
    assert_eq!(story.failing(), []);
}

#[test]
fn slots_beyond_the_last() {
    // Coupon N+1: u-3 gets slot 3 of 2.
    let mut story = Story::fair();
    story.tries[2].3 = admitted(3, 2);
    story.rows.coupons.push(coupon(3, 2));
    let failing = story.failing();
    assert_eq!(failing[0], (Check::Slots, vec!["u-3".to_owned(), String::new(), "u-3".to_owned()]));
    assert_eq!(failing[1].0, Check::Full);
    // Told alone is bad enough.
    story.rows.coupons.pop();
    assert!(story.failing().contains(&(Check::Slots, vec!["u-3".to_owned()])));
    let mut story = Story::fair();
    story.tries[0].3 = admitted(0, 0);
    assert!(story.failing().iter().any(|(check, _)| *check == Check::Slots));
}

#[test]
fn slots_held_twice() {
    let mut story = Story::fair();
    story.rows.coupons[1].slot = 1;
    story.tries[1].3 = admitted(1, 1);
    assert_eq!(story.failing(), [(Check::Slots, vec!["u-2".to_owned(), "u-2".to_owned()])]);
    // One user with two slots.
    let mut story = Story::fair();
    story.rows.coupons[1] = coupon(2, 0);
    assert!(story.failing().contains(&(Check::Slots, vec!["u-1".to_owned()])));
}

#[test]
fn slots_promised_twice() {
    let mut story = Story::fair();
    story.tries[1].3 = admitted(1, 1);
    let failing = story.failing();
    assert!(failing.contains(&(Check::Slots, vec!["u-2".to_owned()])), "{failing:?}");
}

#[test]
fn full_if_enough_users_came() {
    // u-2 was never decided, u-3 neither; one coupon is left.
    let mut story = Story::fair();
    story.tries[1].3 = Outcome::undecided(Cause::Unavailable);
    story.tries[2].3 = Outcome::undecided(Cause::Unavailable);
    story.rows.coupons.pop();
    assert!(!story.settled());
    assert_eq!(story.failing(), one(Check::Full, ""));
    assert_eq!(story.judge().remarks.undecided_users, 2);
    // Fewer users than coupons: nothing to be full of.
    story.terms.capacity = 4;
    let grade = |story: &Story| story.judge().findings.iter().find(|f| f.check == Check::Full).map(|f| f.grade);
    assert_eq!(grade(&story), Some(Grade::NotApplicable));
    assert!(story.settled());
    // A campaign that closed while they came owes nobody a coupon more.
    story.terms.capacity = 2;
    story.tries[2].3 = Outcome::Closed;
    assert_eq!(grade(&story), Some(Grade::NotApplicable));
}

#[test]
fn a_run_in_which_nobody_got_anything_proves_nothing() {
    let mut story = Story::fair();
    for one in &mut story.tries {
        one.3 = Outcome::NotOpen;
    }
    story.rows = Rows::default();
    assert_eq!(story.failing(), one(Check::Full, ""));
}

#[test]
fn sold_out_told_while_a_coupon_is_left() {
    let mut story = Story::fair();
    story.terms.capacity = 4;
    assert_eq!(story.failing(), one(Check::SoldOut, "u-3"));
}

#[test]
fn answers_that_a_valid_claim_cannot_get() {
    let mut story = Story::fair();
    story.tries[2].3 = Outcome::Odd { status: 404, what: "unknown-campaign".into() };
    let verdict = story.judge();
    assert_eq!(story.failing(), one(Check::Answers, "u-3"));
    let what = &verdict.findings.last().unwrap().named[0].what;
    assert!(what.contains("404") && what.contains("unknown-campaign"), "{what}");
}

#[test]
fn all_are_counted_and_twenty_are_named() {
    let mut story = Story::fair();
    story.users = 100;
    story.terms.capacity = 4;
    for user in 3..100 {
        story.tries.push((user, 20, 30, Outcome::SoldOut));
    }
    let verdict = story.judge();
    let finding = verdict.findings.iter().find(|f| f.check == Check::SoldOut).unwrap();
    assert_eq!((finding.offences, finding.named.len()), (98, 20));
}

#[test]
fn without_a_database_only_the_answers_are_judged() {
    let mut story = Story::fair();
    let grades = |story: &Story| {
        let verdict = judge(&story.ledger(), None, &story.terms);
        verdict
            .findings
            .iter()
            .filter(|f| f.grade != Grade::NotApplicable)
            .map(|f| (f.check, f.grade))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        grades(&story),
        [(Check::Repeats, Grade::Pass), (Check::Slots, Grade::Pass), (Check::Answers, Grade::Pass)]
    );
    story.tries[1].3 = admitted(1, 1);
    assert!(grades(&story).contains(&(Check::Slots, Grade::Fail)));
}
