//! The report on the terminal.

use super::{Report, grouped, span};
use crate::oracle::verdict::Grade;
use std::fmt::Write as _;

/// The table, the checks and the verdict.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(text: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(text)?;
    for (name, value) in table(report) {
        writeln!(text, "  {name:<26} {value}")?;
    }
    writeln!(text)?;
    for finding in &report.verdict.findings {
        let mark = match finding.grade {
            Grade::Pass => "ok  ",
            Grade::Fail => "FAIL",
            Grade::NotApplicable => "-   ",
        };
        writeln!(text, "  {mark}  {:<44} {}", finding.check.promise(), finding.note)?;
        for offence in &finding.named {
            let gap = if offence.user.is_empty() { "" } else { " " };
            writeln!(text, "          {}{gap}{}", offence.user, offence.what)?;
        }
        if finding.offences > finding.named.len() {
            writeln!(text, "          and {} more", grouped(finding.offences as u64 - finding.named.len() as u64))?;
        }
    }
    let verdict = if report.verdict.pass { "PASS" } else { "FAIL" };
    writeln!(text, "\nVERDICT: {verdict}  {}", report.summary())
}

/// Names and values, shared with the page.
#[must_use]
pub fn table(report: &Report) -> Vec<(&'static str, String)> {
    let f = &report.figures;
    let count = |n: usize| grouped(n as u64);
    let mut table = vec![
        ("users", format!("{} within {}", grouped(f.users), span(report.over_ms * 1000))),
        ("claims", format!("{} ({} repeats)", count(f.claims), count(f.claims - f.users as usize))),
        ("admitted", format!("{} of {}", count(f.users_in), grouped(f.capacity))),
        ("sold out", count(f.ends.sold_out)),
        ("repeats answered the same", format!("{} users", count(f.repeats_alike))),
    ];
    if f.ends.not_open > 0 {
        table.push(("closed or not open", count(f.ends.not_open)));
    }
    let causes: Vec<String> = f.undecided.iter().map(|(cause, n)| format!("{cause} {}", count(*n))).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    table.push(("asked again", format!("{}{causes}", count(f.asked_again))));
    table.push(("undecided", count(f.ends.undecided)));
    if f.ends.odd > 0 {
        table.push(("answers without sense", count(f.ends.odd)));
    }
    if let Some(rows) = f.rows {
        let refused = if f.refusals > 0 { format!(", {} refusals", count(f.refusals)) } else { String::new() };
        table.push(("rows in MySQL", format!("{}{refused}", count(rows))));
    }
    if let (Some(first), Some(last)) = (f.winners.first(), f.winners.last()) {
        table.push(("slots", format!("{}..{}", first.slot, last.slot)));
    }
    let l = &f.latency;
    table.push(("latency p50 p90 p99 max", [l.p50_us, l.p90_us, l.p99_us, l.max_us].map(span).join("  ")));
    if f.latency_admitted.count > 0 {
        let l = &f.latency_admitted;
        table.push(("  of the admitted", [l.p50_us, l.p90_us, l.p99_us, l.max_us].map(span).join("  ")));
    }
    table.push((
        "waited for a connection",
        format!("p99 {}, max {}", span(f.sent_late.p99_us), span(f.sent_late.max_us)),
    ));
    table.push(("answers/s", grouped(f.answers_per_s.round() as u64)));
    if let Some(us) = f.sold_out_us {
        table.push(("time to sold out", span(us)));
    }
    if let Some(ms) = f.last_row_ms {
        let seen = f.sights.last().map_or_else(String::new, |sight| format!(", seen at {}", span(sight.at_ms * 1000)));
        let at = u64::try_from(ms).map_or_else(|_| format!("{ms} ms"), |ms| span(ms * 1000));
        table.push(("time to last row", format!("{at} by the issuer's clock{seen}")));
    }
    if let (Some(admitted), Some(sold_out)) = (f.latest_admitted_due_us, f.earliest_sold_out_due_us) {
        table.push((
            "first come",
            format!("latest arrival admitted {}, earliest sent away {}", span(admitted), span(sold_out)),
        ));
    }
    table
}
