//! The report on the terminal.

use super::{RunReport, grouped, span};
use crate::oracle::verdict::Grade;
use std::fmt::Write as _;

/// The figures, the checks and the verdict.
#[must_use]
pub fn render(report: &RunReport) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut text, report);
    text
}

fn write_all(text: &mut String, report: &RunReport) -> std::fmt::Result {
    writeln!(text)?;
    for (name, value) in table(report) {
        writeln!(text, "  {name:<26} {value}")?;
    }
    writeln!(text)?;
    for finding in &report.verdict.findings {
        let mark = match finding.grade {
            Grade::Pass => "ok  ",
            Grade::Fail => "FAIL",
            Grade::Refused => "NO  ",
            Grade::NotApplicable => "-   ",
        };
        writeln!(text, "  {mark}  {:<44} {}", finding.check.statement(), finding.note)?;
        for violation in &finding.named {
            let gap = if violation.user.is_empty() { "" } else { " " };
            writeln!(text, "          {}{gap}{}", violation.user, violation.what)?;
        }
        if finding.violations > finding.named.len() {
            writeln!(text, "          and {} more", grouped((finding.violations - finding.named.len()) as u64))?;
        }
    }
    writeln!(text, "\nVERDICT: {}  {}", report.verdict.word(), report.summary())
}

/// Names and values, shared with the page.
#[must_use]
pub fn table(report: &RunReport) -> Vec<(&'static str, String)> {
    let f = &report.figures;
    let count = |n: usize| grouped(n as u64);
    let mut table = vec![
        ("users", format!("{} within {}", grouped(f.users), span(report.over_ms * 1000))),
        ("claims", format!("{} ({} repeats)", count(f.claims), count(f.claims - f.users as usize))),
        ("users admitted", format!("{} of {}", count(f.users_in), grouped(f.capacity))),
        ("claims sold out", count(f.ends.sold_out)),
        ("repeats with same answer", format!("{} users", count(f.repeats_alike))),
    ];
    if f.ends.not_open > 0 {
        table.push(("claims closed or not open", count(f.ends.not_open)));
    }
    let reasons: Vec<String> = f.undecided.iter().map(|(reason, n)| format!("{reason} {}", count(*n))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    table.push(("retries", format!("{}{reasons}", count(f.asked_again))));
    table.push(("claims undecided", count(f.ends.undecided)));
    if f.ends.invalid > 0 {
        table.push(("claims with invalid answer", count(f.ends.invalid)));
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
        table.push(("  admitted claims", [l.p50_us, l.p90_us, l.p99_us, l.max_us].map(span).join("  ")));
    }
    table
        .push(("wait for a connection", format!("p99 {}, max {}", span(f.sent_late.p99_us), span(f.sent_late.max_us))));
    table.push(("responses/s", grouped(f.answers_per_s.round() as u64)));
    if let Some(us) = f.sold_out_us {
        table.push(("time to sold out", span(us)));
    }
    if let Some(ms) = f.last_row_ms {
        let seen =
            f.samples.last().map_or_else(String::new, |last| format!(", observed at {}", span(last.at_ms * 1000)));
        let at = u64::try_from(ms).map_or_else(|_| format!("{ms} ms"), |ms| span(ms * 1000));
        table.push(("time to last row", format!("{at} by the issuer's clock{seen}")));
    }
    if let (Some(admitted), Some(sold_out)) = (f.latest_admitted_due_us, f.earliest_sold_out_due_us) {
        let (admitted, sold_out) = (span(admitted), span(sold_out));
        table.push(("order of arrivals", format!("last admitted at {admitted}, first sold out at {sold_out}")));
    }
    table
}
