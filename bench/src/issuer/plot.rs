//! The neighbours' latency over time, one panel a condition, as an SVG.

use super::neighbour::{Visit, quantile};
use std::fmt::Write as _;

/// One condition.
pub struct Panel {
    /// Its title.
    pub title: String,
    /// Who came.
    pub visits: Vec<Visit>,
    /// Between which seconds coupons were written, if any were.
    pub writing: Option<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 130.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 30.0;
const GAP: f64 = 46.0;
/// The axis of latency is logarithmic, from 0.1 ms to 10 s.
const DECADES: (i32, i32) = (-1, 4);

/// Draws the panels under each other, on one axis of time.
#[must_use]
pub fn svg(panels: &[Panel]) -> String {
    let ends = panels.iter().filter_map(|panel| panel.visits.last()).map(|visit| visit.at_s);
    let seconds = ends.fold(10.0_f64, f64::max).ceil();
    let height = TOP + panels.iter().map(|_| HEIGHT + GAP).sum::<f64>();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        LEFT + WIDTH + 20.0
    );
    let mut top = TOP;
    for panel in panels {
        draw(&mut out, panel, top, seconds);
        top += HEIGHT + GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel, top: f64, seconds: f64) {
    let x = |at_s: f64| LEFT + at_s / seconds * WIDTH;
    let (low, high) = (f64::from(DECADES.0), f64::from(DECADES.1));
    let y = |ms: f64| top + HEIGHT * (1.0 - (ms.log10().clamp(low, high) - low) / (high - low));
    let bottom = top + HEIGHT;
    // Writing into a string does not fail.
    if let Some((from, to)) = panel.writing {
        let (from, width) = (x(from), x(to) - x(from));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"#fde9c9\"/>"
        );
    }
    for decade in DECADES.0..=DECADES.1 {
        let ms = 10_f64.powi(decade);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {0:.1}h{WIDTH}\" stroke=\"#ddd\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\" \
             fill=\"#555\">{ms} ms</text>",
            y(ms),
            LEFT - 6.0,
            y(ms) + 4.0
        );
    }
    let step = if seconds > 90.0 { 20 } else { 10 };
    let mut second = 0.0;
    while second <= seconds {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{second} s</text>",
            x(second),
            bottom + 15.0
        );
        second += f64::from(step);
    }
    for (of, colour, width) in [(0.5, "#4477aa", 1.2), (0.99, "#cc3311", 1.6)] {
        let mut path = String::new();
        let mut second = 0.0;
        while second < seconds {
            let ms = quantile(&panel.visits, second, second + 1.0, of);
            if ms.is_finite() {
                let verb = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{verb}{:.1} {:.1}", x(second + 0.5), y(ms));
            }
            second += 1.0;
        }
        let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>");
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">\
         <tspan fill=\"#4477aa\">median</tspan> and <tspan fill=\"#cc3311\">p99</tspan> of each second; coupons are \
         written where it is shaded</text>",
        top - 8.0,
        panel.title,
        LEFT + WIDTH,
        top - 8.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_has_its_panel() {
        let visits = vec![Visit { at_s: 0.5, took_ms: 2.0 }, Visit { at_s: 1.5, took_ms: 200.0 }];
        let panel = |title: &str, writing| Panel { title: title.to_owned(), visits: visits.clone(), writing };
        let svg = svg(&[panel("alone", None), panel("auto", Some((0.5, 1.0)))]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains(">alone<") && svg.contains(">auto<"));
        assert_eq!(svg.matches("fill=\"#fde9c9\"").count(), 1);
        assert_eq!(svg.matches("stroke=\"#cc3311\"").count(), 2);
    }
}
