//! Charts as inline SVG. Colours and sizes come from the page's style sheet, by class.

use crate::report::figures::{Latency, Slice};
use std::fmt::Write as _;

/// At this size text is readable on a phone and not too big on a desk.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// A drawing area with its axes: values up to `x_max` and `y_max`.
struct Frame {
    width: f64,
    x_max: f64,
    y_max: f64,
    svg: String,
}

impl Frame {
    fn new(width: f64, x_max: f64, y_max: f64, label: &str) -> Self {
        let svg = format!(r#"<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{label}">"#);
        Self { width, x_max: x_max.max(f64::MIN_POSITIVE), y_max: y_max.max(f64::MIN_POSITIVE), svg }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (self.width - LEFT - RIGHT) * (value / self.x_max).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / self.y_max).clamp(0.0, 1.0)
    }

    /// Grid lines and their values on the left.
    fn y_axis(&mut self, name: impl Fn(f64) -> String) {
        for value in ticks(self.y_max, 4) {
            let (y, right) = (self.y(value), self.width - RIGHT);
            let _ = write!(
                self.svg,
                r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/><text x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                y + 4.0,
                name(value)
            );
        }
    }

    fn x_label(&mut self, value: f64, text: &str) {
        let _ = write!(
            self.svg,
            r#"<text x="{:.1}" y="{:.0}" text-anchor="middle">{text}</text>"#,
            self.x(value).clamp(LEFT + 8.0, self.width - RIGHT - 18.0),
            HEIGHT - BOTTOM + 18.0
        );
    }

    /// Seconds below.
    fn time_axis(&mut self) {
        for value in ticks(self.x_max, if self.width > WIDTH { 10 } else { 5 }) {
            self.x_label(value, &seconds(value));
        }
    }

    /// A line that keeps its value until the next point.
    fn steps(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut d = format!("M{:.1} {:.1}", self.x(0.0), self.y(0.0));
        for (x, y) in points {
            let _ = write!(d, "H{:.1}V{:.1}", self.x(*x), self.y(*y));
        }
        let _ = write!(d, "H{:.1}", self.x(self.x_max));
        let _ = write!(self.svg, r#"<path class="{class}" d="{d}"/>"#);
    }

    fn end(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// Round values from 0 to `max`, about `count` of them.
fn ticks(max: f64, count: u32) -> Vec<f64> {
    let rough = max / f64::from(count.max(1));
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999).unwrap_or(power);
    (0..=100_u32).map(|i| f64::from(i) * step).take_while(|value| *value <= max * 1.0001).collect()
}

fn seconds(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} s")
}

fn short(value: f64) -> String {
    if value >= 10_000.0 { format!("{}k", value / 1000.0) } else { format!("{value}") }
}

/// Answers in each slice, stacked by what they say, and the arrivals as a line. Full width.
#[must_use]
pub fn timeline(slices: &[Slice], slice_ms: u64) -> String {
    let layers = |s: &Slice| {
        [
            ("admitted", s.admitted),
            ("already", s.already),
            ("denied", s.denied),
            ("undecided", s.undecided),
            ("odd", s.odd),
        ]
    };
    let answers = |s: &Slice| layers(s).iter().map(|(_, n)| n).sum::<u32>();
    let slice_s = slice_ms as f64 / 1000.0;
    let top = slices.iter().map(|s| answers(s).max(s.due)).max().unwrap_or(0).max(4);
    let mut frame = Frame::new(2.0 * WIDTH, slices.len() as f64 * slice_s, f64::from(top), "answers over time");
    frame.y_axis(short);
    frame.time_axis();
    let mut arrivals = Vec::new();
    for (i, slice) in slices.iter().enumerate() {
        let (from_s, to_s) = (i as f64 * slice_s, (i + 1) as f64 * slice_s);
        let (x, right) = (frame.x(from_s), frame.x(to_s));
        let width = (right - x - 0.6).max(0.4);
        let mut below = 0;
        for (class, count) in layers(slice) {
            if count > 0 {
                let (y, bottom) = (frame.y(f64::from(below + count)), frame.y(f64::from(below)));
                let _ = write!(
                    frame.svg,
                    r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}"/>"#,
                    bottom - y
                );
                below += count;
            }
        }
        arrivals.push((from_s, f64::from(slice.due)));
    }
    frame.steps("due", &arrivals);
    frame.end()
}

/// Coupons promised and coupons written over time; moments in ms since the start.
#[must_use]
pub fn debts(promised_ms: &[f64], written_ms: &[f64], capacity: u32) -> String {
    let end_s = promised_ms.iter().chain(written_ms).copied().fold(0.0, f64::max) * 1.05 / 1000.0;
    let most = f64::from(capacity).max(promised_ms.len() as f64).max(written_ms.len() as f64);
    let mut frame = Frame::new(WIDTH, end_s, most, "coupons promised and written over time");
    frame.y_axis(short);
    frame.time_axis();
    for (class, moments_ms) in [("admitted", promised_ms), ("already", written_ms)] {
        let mut sorted = moments_ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        // A thousand steps are finer than any screen.
        let stride = sorted.len() / 1000 + 1;
        let last = sorted.len().saturating_sub(1);
        let points: Vec<(f64, f64)> = sorted
            .iter()
            .enumerate()
            .filter(|(i, _)| i % stride == 0 || *i == last)
            .map(|(i, ms)| (ms / 1000.0, (i + 1) as f64))
            .collect();
        frame.steps(class, &points);
    }
    frame.end()
}

/// Latency by percentile; the scale gives each further nine the same room.
#[must_use]
pub fn percentiles(latency: &Latency) -> String {
    let nines = |percentile: f64| -(1.0 - (percentile / 100.0).min(0.99999)).log10();
    let marks = [(50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];
    // Percentiles finer than one claim in all of them say nothing.
    let end = nines(100.0 * (1.0 - 1.0 / latency.count.max(2) as f64)).max(1.0);
    let mut frame = Frame::new(WIDTH, end, latency.max_us as f64 / 1000.0, "latency by percentile");
    let in_seconds = frame.y_max >= 1_000.0;
    frame.y_axis(|ms| if in_seconds { seconds(ms / 1000.0) } else { format!("{ms} ms") });
    for (percentile, name) in marks {
        let x = nines(percentile);
        if x <= end * 1.001 {
            frame.x_label(x, name);
        }
    }
    let points: Vec<(f64, f64)> = latency.curve.iter().map(|(p, us)| (nines(*p), *us as f64 / 1000.0)).collect();
    frame.steps("already", &points);
    frame.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(ticks(100.0, 4), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(ticks(7.0, 4), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!(ticks(1.3, 5), [0.0, 0.5, 1.0]);
        assert!(ticks(f64::MIN_POSITIVE, 4).len() <= 101);
    }

    #[test]
    fn seconds_and_counts_are_short() {
        assert_eq!([0.0, 0.25, 1.0, 12.5].map(seconds), ["0 s", "0.25 s", "1 s", "12.5 s"]);
        assert_eq!([0.0, 600.0, 20_000.0].map(short), ["0", "600", "20k"]);
    }

    #[test]
    fn charts_of_nothing_are_still_charts() {
        for svg in [timeline(&[], 50), debts(&[], &[], 0), percentiles(&Latency::default())] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_bar_is_as_high_as_its_count() {
        let svg = timeline(&[Slice { due: 10, admitted: 5, denied: 5, ..Slice::default() }], 50);
        let heights: Vec<f64> =
            svg.split("height=\"").skip(1).filter_map(|part| part.split('"').next()?.parse().ok()).collect();
        assert_eq!(heights, [88.0, 88.0], "half of the {} units each", HEIGHT - TOP - BOTTOM);
    }
}
