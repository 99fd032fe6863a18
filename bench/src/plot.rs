//! A picture of latencies over time, one line for each condition: SVG, readable on light and dark.

use crate::neighbour::{Point, quantile};
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 270.0;
const TOP: f64 = 40.0;
const COLOURS: [&str; 4] = ["#2a9d55", "#d1495b", "#2f6fd0", "#d98e04"];

/// Draws the p99 of each second, on a logarithmic scale from 1 ms to 10 s.
#[must_use]
pub fn svg(title: &str, lines: &[(String, Vec<Point>)]) -> String {
    let seconds = lines.iter().flat_map(|(_, points)| points).map(|(at_ms, _)| at_ms / 1e3).fold(1.0, f64::max);
    let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - 20.0);
    let y = |ms: f64| BOTTOM - ms.clamp(1.0, 10_000.0).log10() / 4.0 * (BOTTOM - TOP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>"
    );
    for (ms, label) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1_000.0, "1 s"), (10_000.0, "10 s")] {
        let at = y(ms);
        let end = WIDTH - 20.0;
        let _ = write!(
            text,
            "<path d=\"M{LEFT} {at}H{end}\" stroke=\"#ddd\"/>\
             <text x=\"8\" y=\"{}\" fill=\"#555\">{label}</text>",
            at + 4.0
        );
    }
    for ((name, points), (at, colour)) in lines.iter().zip((0_u32..).zip(COLOURS.iter().cycle())) {
        let mut path = String::new();
        let mut second = 0.0;
        while second < seconds {
            let of_second: Vec<Point> =
                points.iter().copied().filter(|(at_ms, _)| (second..second + 1.0).contains(&(at_ms / 1e3))).collect();
            if !of_second.is_empty() {
                let command = if path.is_empty() { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x(second + 0.5), y(quantile(&of_second, 0.99)));
            }
            second += 1.0;
        }
        let label = LEFT + f64::from(at) * 170.0;
        let _ = write!(
            text,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{label}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            HEIGHT - 15.0
        );
    }
    text.push_str("</svg>\n");
    text
}
