//! The report of a run: as text, as JSON and as an HTML page.

pub mod chart;
pub mod figures;
pub mod html;
pub mod json;
pub mod latency;
pub mod text;

use crate::oracle::verdict::Verdict;
use figures::Figures;
use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    pub title: String,
    pub campaign: String,
    /// The start, in ms since the epoch.
    pub started_ms: i64,
    /// The window of arrivals.
    pub over_ms: u64,
    pub connections: usize,
    /// Seed of the schedule.
    pub seed: u64,
    pub verdict: Verdict,
    pub figures: Figures,
}

impl RunReport {
    /// The verdict in one line, without the word PASS or FAIL.
    #[must_use]
    pub fn summary(&self) -> String {
        let figures = &self.figures;
        let coupons = figures.rows.unwrap_or(figures.users_in);
        let mut parts = vec![format!("{} coupons for {} users", grouped(coupons as u64), grouped(figures.users))];
        if self.verdict.pass {
            let held = if figures.rows.is_some() { "every promise held" } else { "the responses are consistent" };
            parts.push(held.to_owned());
        }
        for finding in self.verdict.findings.iter().filter(|finding| finding.violations > 0) {
            let (statement, count) = (finding.check.statement(), grouped(finding.violations as u64));
            parts.push(format!("promise broken: {statement} ({count})"));
        }
        let remarks = &self.verdict.remarks;
        for (reason, users) in &remarks.refused {
            parts.push(format!("{users} admitted and then refused ({reason})"));
        }
        for (count, what) in [
            (remarks.undecided_users, "users undecided"),
            (remarks.foreign_rows, "rows of users outside this run"),
            (remarks.moved_slots, "users moved to another slot"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if figures.rows.is_none() {
            parts.push("MySQL not read".to_owned());
        }
        parts.join(", ")
    }
}

/// A whole number with a thousands separator: 12,000.
#[must_use]
pub fn grouped(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in a unit that fits it: 850 us, 1.2 ms, 12 ms, 1.20 s.
#[must_use]
pub fn span(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        1_000_000..100_000_000 => format!("{:.2} s", us as f64 / 1e6),
        _ => format!("{:.0} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_spans() {
        assert_eq!([0_u64, 999, 1_000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
        assert_eq!(
            [850, 1_250, 12_300, 999_400, 1_204_000, 120_000_000].map(span),
            ["850 us", "1.2 ms", "12 ms", "999 ms", "1.20 s", "120 s"]
        );
    }
}
