//! The report as one page that needs nothing else.

use super::{Report, chart, grouped, span, text};
use crate::oracle::verdict::{Finding, Grade};
use crate::report::figures::Winner;
use std::fmt::Write as _;
use time::OffsetDateTime;

const STYLE: &str = include_str!("../../templates/page.css");
/// More winners than this make the page slow; JSON has them all.
const WINNERS: usize = 1_000;

/// The page.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(page: &mut String, report: &Report) -> std::fmt::Result {
    let title = escape(&report.title);
    let (word, class) = if report.verdict.pass { ("PASS", "pass") } else { ("FAIL", "fail") };
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}: {word}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>"
    )?;
    writeln!(
        page,
        "<p class=\"soft\">campaign <code>{}</code>, {} UTC, {} users within {}, {} connections, seed {}</p>",
        escape(&report.campaign),
        date_time(report.started_ms),
        grouped(report.figures.users),
        span(report.over_ms * 1000),
        report.connections,
        report.seed
    )?;
    writeln!(page, "<div class=\"verdict {class}\"><strong>{word}</strong><p>{}</p></div>", escape(&report.summary()))?;
    tiles(page, report)?;
    charts(page, report)?;
    checks(page, &report.verdict.findings)?;
    writeln!(page, "<section class=\"card\"><h2>Figures</h2><div class=\"scroll\"><table>")?;
    for (name, value) in text::table(report) {
        writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value))?;
    }
    writeln!(page, "</table></div></section>")?;
    winners(page, &report.figures.winners, report.started_ms)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

fn tiles(page: &mut String, report: &Report) -> std::fmt::Result {
    let f = &report.figures;
    let coupons = f
        .rows
        .map_or_else(|| "not read".to_owned(), |rows| format!("{} of {}", grouped(rows as u64), grouped(f.capacity)));
    let mut tiles = vec![
        ("claims sent", grouped(f.claims as u64)),
        ("coupons in MySQL", coupons),
        ("sold out after", f.sold_out_us.map_or_else(|| "not".to_owned(), span)),
        (
            "last row after",
            f.last_row_ms.and_then(|ms| u64::try_from(ms).ok()).map_or_else(|| "none".to_owned(), |ms| span(ms * 1000)),
        ),
        ("latency p50", span(f.latency.p50_us)),
        ("latency p99", span(f.latency.p99_us)),
        ("answers a second", grouped(f.answers_per_s.round() as u64)),
    ];
    if f.asked_again > 0 {
        tiles.push(("asked again", grouped(f.asked_again as u64)));
    }
    writeln!(page, "<div class=\"tiles\">")?;
    for (name, value) in tiles {
        writeln!(page, "<div class=\"tile\"><span class=\"soft\">{name}</span><b>{value}</b></div>")?;
    }
    writeln!(page, "</div>")
}

fn charts(page: &mut String, report: &Report) -> std::fmt::Result {
    let f = &report.figures;
    writeln!(page, "<div class=\"charts\">")?;
    writeln!(page, "<div class=\"card wide\"><h2>Answers in each {} ms</h2>", f.slice_ms)?;
    let kinds = [
        ("admitted", "admitted", f.slices.iter().any(|s| s.admitted > 0)),
        ("already", "the same again", f.slices.iter().any(|s| s.already > 0)),
        ("denied", "sold out, closed or not open", f.slices.iter().any(|s| s.denied > 0)),
        ("undecided", "asked to come again, or no answer", f.slices.iter().any(|s| s.undecided > 0)),
        ("odd", "without sense", f.slices.iter().any(|s| s.odd > 0)),
        ("due", "arrivals", true),
    ];
    legend(page, kinds.into_iter().filter(|(.., used)| *used).map(|(class, name, _)| (class, name)))?;
    writeln!(page, "<div class=\"scroll\">{}</div></div>", chart::timeline(&f.slices, f.slice_ms))?;

    writeln!(page, "<div class=\"card\"><h2>Promised and written</h2>")?;
    legend(page, [("admitted", "told to the user"), ("already", "row in MySQL, by the issuer's clock")].into_iter())?;
    let written: Vec<f64> = f.winners.iter().filter_map(|w| w.row_ms).map(|ms| ms.max(0) as f64).collect();
    writeln!(page, "{}</div>", chart::debts(&f.promised_ms, &written, f.capacity))?;

    writeln!(page, "<div class=\"card\"><h2>Latency by percentile</h2>")?;
    writeln!(page, "<p class=\"soft\">From the scheduled moment of a claim to its definite answer.</p>")?;
    writeln!(page, "{}</div>\n</div>", chart::percentiles(&f.latency))
}

fn legend<'a>(page: &mut String, entries: impl Iterator<Item = (&'a str, &'a str)>) -> std::fmt::Result {
    write!(page, "<div class=\"legend\">")?;
    for (class, name) in entries {
        write!(page, "<span><i class=\"{class}\"></i>{name}</span>")?;
    }
    writeln!(page, "</div>")
}

fn checks(page: &mut String, findings: &[Finding]) -> std::fmt::Result {
    writeln!(page, "<section class=\"card\"><h2>Was anybody wronged?</h2>")?;
    for finding in findings {
        let (mark, class) = match finding.grade {
            Grade::Pass => ("\u{2713} holds", "pass"),
            Grade::Fail => ("\u{2717} broken", "fail"),
            Grade::NotApplicable => ("\u{2013}", "not-applicable"),
        };
        let note = if finding.note.is_empty() { String::new() } else { format!(" ({})", escape(&finding.note)) };
        writeln!(
            page,
            "<div class=\"check\"><span class=\"mark {class}\">{mark}</span><div><h3>{}<span class=\"soft\">{note}</span></h3>\
             <p class=\"soft\">{}</p>",
            finding.check.promise(),
            escape(finding.check.explanation())
        )?;
        if !finding.named.is_empty() {
            writeln!(page, "<ul>")?;
            for offence in &finding.named {
                writeln!(page, "<li><code>{}</code> {}</li>", escape(&offence.user), escape(&offence.what))?;
            }
            if finding.offences > finding.named.len() {
                writeln!(page, "<li>and {} more</li>", grouped((finding.offences - finding.named.len()) as u64))?;
            }
            writeln!(page, "</ul>")?;
        }
        writeln!(page, "</div></div>")?;
    }
    writeln!(page, "</section>")
}

fn winners(page: &mut String, winners: &[Winner], started_ms: i64) -> std::fmt::Result {
    writeln!(page, "<section class=\"card\"><h2>Who got a coupon</h2>")?;
    if winners.len() > WINNERS {
        writeln!(
            page,
            "<p class=\"soft\">The first {} of {}; --json has all.</p>",
            grouped(WINNERS as u64),
            grouped(winners.len() as u64)
        )?;
    }
    writeln!(
        page,
        "<div class=\"scroll\"><table class=\"winners\"><tr><th class=\"num\">slot</th><th>user</th><th>code</th>\
         <th>admitted (UTC)</th><th class=\"num\">answered in</th><th class=\"num\">row at</th></tr>"
    )?;
    for winner in winners.iter().take(WINNERS) {
        let row = winner.row_ms.map_or_else(String::new, |ms| format!("{:+.3} s", ms as f64 / 1000.0));
        let answered = winner.answered_us.map_or_else(|| "never told".to_owned(), span);
        writeln!(
            page,
            "<tr><td class=\"num\">{}</td><td>{}</td><td><code>{}</code></td><td>{}</td><td class=\"num\">{answered}</td>\
             <td class=\"num\">{row}</td></tr>",
            winner.slot,
            escape(&winner.user),
            escape(&winner.code),
            clock(winner.admitted_ms),
        )?;
    }
    writeln!(
        page,
        "</table></div><p class=\"soft\">\u{201c}Row at\u{201d} counts from the start, {} UTC.</p></section>",
        clock(started_ms)
    )
}

fn moment(ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn clock(ms: i64) -> String {
    let t = moment(ms);
    format!("{:02}:{:02}:{:02}.{:03}", t.hour(), t.minute(), t.second(), t.millisecond())
}

fn date_time(ms: i64) -> String {
    format!("{} {}", moment(ms).date(), clock(ms))
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(escape("<script a='b'>&\"</script>"), "&lt;script a=&#39;b&#39;&gt;&amp;&quot;&lt;/script&gt;");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(clock(1_763_700_000_123), "04:40:00.123");
        assert_eq!(date_time(1_763_700_000_123), "2025-11-21 04:40:00.123");
    }
}
