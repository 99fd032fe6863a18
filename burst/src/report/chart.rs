//! Charts as SVG. Colours and fonts come from a style sheet, by class.

use super::figures::TimeSlice;
use super::latency::Latency;
use std::fmt::Write as _;

/// At this size text is readable on a phone and not too big on a desktop.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 220.0;

enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// Powers of ten, from and to.
    Log10(i32, i32),
}

impl Scale {
    /// From 0 (bottom) to 1 (top).
    fn position(&self, value: f64) -> f64 {
        let position = match self {
            Self::Linear(max) => value / max.max(f64::MIN_POSITIVE),
            Self::Log10(from, to) => (value.log10() - f64::from(*from)) / f64::from(to - from),
        };
        position.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self {
            Self::Linear(max) => ticks(*max, 4),
            Self::Log10(from, to) => (*from..=*to).map(|power| 10_f64.powi(power)).collect(),
        }
    }
}

/// A drawing area with its axes. The edges of the area are in SVG units.
struct Chart {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x_max: f64,
    y_scale: Scale,
    svg: String,
}

// Writing into a String cannot fail.
impl Chart {
    fn new(width: f64, x_max: f64, y_max: f64) -> Self {
        let (left, right, top, bottom) = (50.0, width - 10.0, 10.0, HEIGHT - 34.0);
        Self { left, right, top, bottom, x_max, y_scale: Scale::Linear(y_max), svg: String::new() }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + (self.right - self.left) * (value / self.x_max.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * self.y_scale.position(value)
    }

    fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        let _ = write!(self.svg, r#"<text x="{x:.1}" y="{y:.1}" {attributes}>{text}</text>"#);
    }

    /// Grid lines and their values on the left.
    fn y_axis(&mut self, name: impl Fn(f64) -> String) {
        for value in self.y_scale.ticks() {
            let (y, left, right) = (self.y(value), self.left, self.right);
            let _ = write!(self.svg, r#"<line class="grid" x1="{left}" x2="{right}" y1="{y:.1}" y2="{y:.1}"/>"#);
            self.text(left - 6.0, y + 4.0, r#"text-anchor="end""#, &name(value));
        }
    }

    fn x_label(&mut self, value: f64, text: &str) {
        let x = self.x(value).clamp(self.left + 8.0, self.right - 18.0);
        self.text(x, self.bottom + 18.0, r#"text-anchor="middle""#, text);
    }

    /// Seconds below.
    fn time_axis(&mut self) {
        for value in ticks(self.x_max, if self.right > WIDTH { 10 } else { 5 }) {
            self.x_label(value, &seconds(value));
        }
    }

    fn rect(&mut self, class: &str, (from_x, to_x): (f64, f64), (y, bottom): (f64, f64)) {
        let (width, height) = ((to_x - from_x).max(0.4), bottom - y);
        let _ = write!(
            self.svg,
            r#"<rect class="{class}" x="{from_x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
        );
    }

    fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        let points = points.iter().map(|(x, y)| format!("{:.1} {:.1}", self.x(*x), self.y(*y)));
        let d = points.collect::<Vec<_>>().join("L");
        let _ = write!(self.svg, r#"<path class="{class}" d="M{d}"/>"#);
    }

    /// A line that keeps its value until the next point.
    fn steps(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut d = format!("M{:.1} {:.1}", self.x(0.0), self.y(0.0));
        for (x, y) in points {
            let _ = write!(d, "H{:.1}V{:.1}", self.x(*x), self.y(*y));
        }
        let _ = write!(self.svg, r#"<path class="{class}" d="{d}H{:.1}"/>"#, self.x(self.x_max));
    }
}

fn svg(width: f64, height: f64, label: &str, content: &str) -> String {
    let attributes = format!(r#"viewBox="0 0 {width} {height}" role="img" aria-label="{label}""#);
    format!(r#"<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{content}</svg>"#)
}

/// Round values from 0 to `max`, about `count` of them.
fn ticks(max: f64, count: u32) -> Vec<f64> {
    let max = max.max(f64::MIN_POSITIVE);
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

/// Responses in each slice, stacked by kind, and the arrivals as a line. Full width.
#[must_use]
pub fn timeline(slices: &[TimeSlice], slice_ms: u64) -> String {
    let layers = |s: &TimeSlice| {
        [
            ("admitted", s.admitted),
            ("already", s.already),
            ("denied", s.denied),
            ("undecided", s.undecided),
            ("invalid", s.invalid),
        ]
    };
    let responses = |s: &TimeSlice| layers(s).iter().map(|(_, n)| n).sum::<u32>();
    let slice_s = slice_ms as f64 / 1000.0;
    let top = slices.iter().map(|s| responses(s).max(s.due)).max().unwrap_or(0).max(4);
    let mut chart = Chart::new(2.0 * WIDTH, slices.len() as f64 * slice_s, f64::from(top));
    chart.y_axis(short);
    chart.time_axis();
    let mut arrivals = Vec::new();
    for (i, slice) in slices.iter().enumerate() {
        let (from_s, to_s) = (i as f64 * slice_s, (i + 1) as f64 * slice_s);
        let x = (chart.x(from_s), chart.x(to_s) - 0.6);
        let mut below = 0;
        for (class, count) in layers(slice).into_iter().filter(|(_, count)| *count > 0) {
            let y = (chart.y(f64::from(below + count)), chart.y(f64::from(below)));
            chart.rect(class, x, y);
            below += count;
        }
        arrivals.push((from_s, f64::from(slice.due)));
    }
    chart.steps("due", &arrivals);
    svg(2.0 * WIDTH, HEIGHT, "responses over time", &chart.svg)
}

/// Coupons promised and coupons written over time; times in ms since the start.
#[must_use]
pub fn promised_and_written(promised_ms: &[f64], written_ms: &[f64], capacity: u32) -> String {
    let end_s = promised_ms.iter().chain(written_ms).copied().fold(0.0, f64::max) * 1.05 / 1000.0;
    let most = f64::from(capacity).max(promised_ms.len() as f64).max(written_ms.len() as f64);
    let mut chart = Chart::new(WIDTH, end_s, most);
    chart.y_axis(short);
    chart.time_axis();
    for (class, times_ms) in [("admitted", promised_ms), ("already", written_ms)] {
        let mut sorted = times_ms.to_vec();
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
        chart.steps(class, &points);
    }
    svg(WIDTH, HEIGHT, "coupons promised and written over time", &chart.svg)
}

/// Latency by percentile; each further nine has the same width.
#[must_use]
pub fn percentiles(latency: &Latency) -> String {
    let nines = |percentile: f64| -(1.0 - (percentile / 100.0).min(0.99999)).log10();
    let marks = [(50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")];
    // Percentiles finer than one claim in all of them mean nothing.
    let end = nines(100.0 * (1.0 - 1.0 / latency.count.max(2) as f64)).max(1.0);
    let mut chart = Chart::new(WIDTH, end, latency.max_us as f64 / 1000.0);
    let in_seconds = latency.max_us >= 1_000_000;
    chart.y_axis(|ms| if in_seconds { seconds(ms / 1000.0) } else { format!("{ms} ms") });
    for (percentile, name) in marks {
        let x = nines(percentile);
        if x <= end * 1.001 {
            chart.x_label(x, name);
        }
    }
    let points: Vec<(f64, f64)> = latency.curve.iter().map(|(p, us)| (nines(*p), *us as f64 / 1000.0)).collect();
    chart.steps("already", &points);
    svg(WIDTH, HEIGHT, "latency by percentile", &chart.svg)
}

/// One condition of a comparison: points of seconds and latency in ms.
pub struct LatencyPanel {
    pub title: String,
    pub median: Vec<(f64, f64)>,
    pub p99: Vec<(f64, f64)>,
    /// Seconds, from and to.
    pub shaded: Option<(f64, f64)>,
}

/// A file of its own: the panels below each other on one time axis, latency from 0.1 ms to 10 s on a
/// logarithmic scale.
#[must_use]
pub fn latency_panels(panels: &[LatencyPanel], shaded_means: &str) -> String {
    const STYLE: &str = "<style>text{font:12px sans-serif;fill:#555}.title{font-weight:bold;fill:#000}\
        .grid{stroke:#ddd}.shaded{fill:#fde9c9}path{fill:none;stroke-width:1.5}\
        path.median{stroke:#47a}path.p99{stroke:#c31}tspan.median{fill:#47a}tspan.p99{fill:#c31}</style>\
        <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>";
    const PANEL_HEIGHT: f64 = 176.0;
    let end_s = panels.iter().flat_map(|panel| &panel.p99).map(|(at_s, _)| *at_s).fold(10.0, f64::max).ceil();
    let (width, mut content, mut top) = (2.0 * WIDTH, STYLE.to_owned(), 30.0);
    for panel in panels {
        let y_scale = Scale::Log10(-1, 4);
        let mut chart = Chart { left: 70.0, top, bottom: top + 130.0, y_scale, ..Chart::new(width, end_s, 0.0) };
        if let Some((from_s, to_s)) = panel.shaded {
            chart.rect("shaded", (chart.x(from_s), chart.x(to_s)), (chart.top, chart.bottom));
        }
        chart.y_axis(|ms| format!("{ms} ms"));
        chart.time_axis();
        chart.line("median", &panel.median);
        chart.line("p99", &panel.p99);
        chart.text(chart.left, top - 8.0, r#"class="title""#, &panel.title);
        let lines = r#"<tspan class="median">median</tspan> and <tspan class="p99">p99</tspan> of each second"#;
        let legend = format!("{lines}; shaded: {shaded_means}");
        chart.text(chart.right, top - 8.0, r#"text-anchor="end""#, &legend);
        content.push_str(&chart.svg);
        top += PANEL_HEIGHT;
    }
    svg(width, top, "latency over time in each condition", &content)
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
        for svg in [timeline(&[], 50), promised_and_written(&[], &[], 0), percentiles(&Latency::default())] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn a_bar_is_as_high_as_its_count() {
        let svg = timeline(&[TimeSlice { due: 10, admitted: 5, denied: 5, ..TimeSlice::default() }], 50);
        let heights: Vec<f64> =
            svg.split("height=\"").skip(1).filter_map(|part| part.split('"').next()?.parse().ok()).collect();
        assert_eq!(heights, [88.0, 88.0], "half of the 176 units each");
    }

    #[test]
    fn every_condition_has_its_panel() {
        let panel = |title: &str, shaded| LatencyPanel {
            title: title.to_owned(),
            median: vec![(0.5, 2.0), (1.5, 2.0)],
            p99: vec![(0.5, 200.0), (1.5, 0.0)],
            shaded,
        };
        let svg = latency_panels(&[panel("alone", None), panel("auto", Some((0.5, 1.0)))], "coupons are written");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains(">alone<") && svg.contains(">auto<"));
        assert_eq!(svg.matches("class=\"shaded\"").count(), 1);
        assert_eq!(svg.matches("<path class=\"p99\"").count(), 2);
    }
}
