//! The report as one page without any other file.

use super::figures::{TimeSlice, Winner};
use super::{RunReport, chart, grouped, span, text};
use crate::oracle::verdict::Grade;
use askama::Template;
use time::OffsetDateTime;

/// More winners than this make the page slow; JSON has them all.
const WINNERS: usize = 1_000;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a RunReport,
    start: String,
    crowd: String,
    tiles: Vec<(&'static str, String)>,
    /// Classes and names of the layers of the timeline.
    kinds: Vec<(&'static str, &'static str)>,
    timeline: String,
    promised_and_written: String,
    percentiles: String,
    table: Vec<(&'static str, String)>,
    /// With the texts for admission, latency and row.
    winners: Vec<(&'a Winner, String, String, String)>,
}

#[must_use]
pub fn render(report: &RunReport) -> String {
    let f = &report.figures;
    let written: Vec<f64> = f.winners.iter().filter_map(|w| w.row_ms).map(|ms| ms.max(0) as f64).collect();
    let row = |winner: &Winner| winner.row_ms.map_or_else(String::new, |ms| format!("{:+.3} s", ms as f64 / 1000.0));
    let latency = |winner: &Winner| winner.answered_us.map_or_else(|| "no response".to_owned(), span);
    let page = Page {
        report,
        start: date_time(report.started_ms),
        crowd: format!("{} users within {}", grouped(f.users), span(report.over_ms * 1000)),
        tiles: tiles(report),
        kinds: kinds(&f.slices),
        timeline: chart::timeline(&f.slices, f.slice_ms),
        promised_and_written: chart::promised_and_written(&f.promised_ms, &written, f.capacity),
        percentiles: chart::percentiles(&f.latency),
        table: text::table(report),
        winners: f.winners.iter().take(WINNERS).map(|w| (w, clock(w.admitted_ms), latency(w), row(w))).collect(),
    };
    // Only a value whose Display fails can make it fail, and there is none.
    page.render().unwrap_or_default()
}

fn tiles(report: &RunReport) -> Vec<(&'static str, String)> {
    let f = &report.figures;
    let of_capacity = |rows: usize| format!("{} of {}", grouped(rows as u64), grouped(f.capacity));
    let last_row_us = f.last_row_ms.and_then(|ms| u64::try_from(ms * 1000).ok());
    let mut tiles = vec![
        ("claims sent", grouped(f.claims as u64)),
        ("coupons in MySQL", f.rows.map_or_else(|| "not read".to_owned(), of_capacity)),
        ("sold out after", f.sold_out_us.map_or_else(|| "not".to_owned(), span)),
        ("last row after", last_row_us.map_or_else(|| "none".to_owned(), span)),
        ("latency p50", span(f.latency.p50_us)),
        ("latency p99", span(f.latency.p99_us)),
        ("responses a second", grouped(f.answers_per_s.round() as u64)),
    ];
    if f.asked_again > 0 {
        tiles.push(("retries", grouped(f.asked_again as u64)));
    }
    tiles
}

/// Only those that occur.
fn kinds(slices: &[TimeSlice]) -> Vec<(&'static str, &'static str)> {
    let any = |count: fn(&TimeSlice) -> u32| slices.iter().any(|slice| count(slice) > 0);
    [
        ("admitted", "admitted", any(|s| s.admitted)),
        ("already", "admitted before", any(|s| s.already)),
        ("denied", "sold out, closed or not open", any(|s| s.denied)),
        ("undecided", "undecided", any(|s| s.undecided)),
        ("invalid", "invalid", any(|s| s.invalid)),
        ("due", "arrivals", true),
    ]
    .into_iter()
    .filter_map(|(class, name, used)| used.then_some((class, name)))
    .collect()
}

fn utc(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn clock(ms: i64) -> String {
    let t = utc(ms);
    format!("{:02}:{:02}:{:02}.{:03}", t.hour(), t.minute(), t.second(), t.millisecond())
}

fn date_time(ms: i64) -> String {
    format!("{} {}", utc(ms).date(), clock(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(clock(1_763_700_000_123), "04:40:00.123");
        assert_eq!(date_time(1_763_700_000_123), "2025-11-21 04:40:00.123");
    }
}
