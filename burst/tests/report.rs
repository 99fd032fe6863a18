//! The three reports of one run in which a coupon is missing.
// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dropgate_burst::load::identity::Crowd;
use dropgate_burst::load::ledger::{Attempt, Ledger};
use dropgate_burst::load::outcome::{ClaimOutcome, Promise, UndecidedReason};
use dropgate_burst::load::schedule::{ArrivalPattern, Plan, plan};
use dropgate_burst::oracle::{Rules, judge};
use dropgate_burst::report::figures::figures;
use dropgate_burst::report::{RunReport, html, json, text};
use dropgate_burst::rows::{Coupon, Rows, Sample};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const CAPACITY: u32 = 100;
const STARTED_MS: i64 = 1_763_700_000_000;

/// Users 1 to 100 are admitted, all others are denied. Every fiftieth first attempt is undecided. The row of the
/// first user is missing.
fn report() -> RunReport {
    let (users, over) = (2_000, Duration::from_secs(1));
    let arrivals = plan(&Plan { users, repeats: 0.2, over, pattern: ArrivalPattern::Poisson, seed: 1 });
    let crowd = Crowd::new("<b>&u-", users);
    let mut attempts = Vec::new();
    for (claim, arrival) in (0..).zip(&arrivals) {
        let promise = || {
            let code = Some(format!("CODE-{}", arrival.user).into());
            Box::new(Promise { slot: arrival.user + 1, code, admitted_ms: 1_763_700_000_100, refused: false })
        };
        let outcome = match (arrival.user < CAPACITY, arrival.repeat) {
            (true, false) => ClaimOutcome::Admitted(promise()),
            (true, true) => ClaimOutcome::Already(promise()),
            (false, _) => ClaimOutcome::SoldOut,
        };
        let mut attempt = |number, sent_us, latency_us, outcome| {
            attempts.push(Attempt { claim, number, sent_us, answered_us: sent_us + latency_us, outcome });
        };
        let latency_us = 800 + u64::from(claim * 7919 % 5_000);
        if claim % 50 == 49 {
            attempt(1, arrival.due_us, latency_us, ClaimOutcome::undecided(UndecidedReason::Unavailable));
            attempt(2, arrival.due_us + 200_000, latency_us, outcome);
        } else {
            attempt(1, arrival.due_us, latency_us, outcome);
        }
    }
    attempts.sort_by_key(|attempt| attempt.answered_us);
    let coupons = (1..CAPACITY).map(|user| Coupon {
        slot: user + 1,
        user: crowd.name(user),
        code: format!("CODE-{user}"),
        admitted_ms: 1_763_700_000_100,
        issued_ms: STARTED_MS + 40 + i64::from(user),
    });
    let rows = Rows { coupons: coupons.collect(), refusals: Vec::new() };
    let ledger = Ledger { crowd, arrivals, attempts, started_ms: STARTED_MS };
    RunReport {
        title: "<script>alert('a & b')</script>".to_owned(),
        campaign: "spring".to_owned(),
        started_ms: STARTED_MS,
        over_ms: 1_000,
        connections: 256,
        seed: 1,
        figures: figures(&ledger, Some(&rows), CAPACITY, vec![Sample { at_ms: 200, coupons: 99, refusals: 0 }]),
        verdict: judge(&ledger, Some(&rows), &Rules { capacity: CAPACITY, allow_foreign: false, allow_moved: false }),
    }
}

#[test]
fn the_text_ends_with_the_verdict() {
    let text = text::render(&report());
    println!("{text}");
    assert!(text.contains("\n  FAIL  every admitted user has a coupon "), "{text}");
    assert!(text.contains("\n          <b>&u-1 was promised slot 1 and has no row\n"), "{text}");
    let last = text.lines().last().unwrap();
    let start = "VERDICT: FAIL  99 coupons for 2,000 users, promise broken: every admitted user has a coupon (1), ";
    assert!(last.starts_with(start), "{last}");
}

#[test]
fn the_page_is_well_formed_and_escapes_what_it_shows() {
    let page = html::render(&report());
    std::fs::write(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html"), &page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") || page.ends_with("</html>"));
    assert!(!page.contains("<script") && !page.contains("<b>&u-"), "not escaped");
    assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"));
    for tag in ["main", "section", "div", "ul", "li", "table", "tr", "td", "th", "svg", "span"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert_eq!(page.matches("<svg ").count(), 3);
}

/// Other programs read these names.
#[test]
fn the_names_in_json_are_stable() {
    let value: Value = serde_json::from_str(&json::render(&report())).unwrap();
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let expect = |value: &Value, expected: &str| {
        assert_eq!(names(value), expected.split(' ').map(str::to_owned).collect(), "{value}");
    };
    assert_eq!(value["verdict"], "FAIL");
    expect(&value, "report summary verdict");
    let (report, figures) = (&value["report"], &value["report"]["figures"]);
    expect(report, "campaign connections figures over_ms seed started_ms title verdict");
    let finding = &report["verdict"]["findings"][0];
    expect(finding, "check grade named note offences");
    assert_eq!(
        (&finding["check"], &finding["grade"], &finding["offences"]),
        (&"owed".into(), &"fail".into(), &1.into())
    );
    expect(&finding["named"][0], "user what");
    let remarks = "foreign_rows moved_slots refused undecided_users undecided_with_row";
    expect(&report["verdict"]["remarks"], remarks);
    expect(
        figures,
        "answers_per_s asked_again capacity claims earliest_sold_out_due_us ends first_sold_out_us last_answer_us \
         last_row_ms latency latency_admitted latest_admitted_due_us promised_ms refusals repeats_alike requests rows \
         sent_late sights slice_ms slices sold_out_us undecided users users_in winners",
    );
    expect(&figures["ends"], "admitted already not_open odd sold_out undecided");
    expect(&figures["slices"][0], "admitted already denied due odd undecided");
    expect(&figures["sights"][0], "at_ms coupons refusals");
    expect(&figures["winners"][0], "admitted_ms answered_us code row_ms slot user");
    expect(&figures["latency"], "count curve max_us p50_us p90_us p999_us p99_us");
}
