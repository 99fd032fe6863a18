//! The report of a run: printed, and written into `docs/benchmarks.md` between two markers.

use crate::stats::{Ratio, Spread, Target};
use anyhow::{Context as _, Result};
use std::path::Path;

/// A cell of a table: the figures of all rounds.
#[must_use]
pub fn cell(figures: &[f64]) -> String {
    Spread::of(figures).to_string()
}

/// Markdown, in the order in which the parts are added.
#[derive(Debug, Default)]
pub struct Report {
    markdown: String,
    ratios: Vec<Ratio>,
}

impl Report {
    /// A paragraph or a heading.
    pub fn say(&mut self, text: &str) {
        println!("\n{text}");
        self.note(text);
    }

    /// A paragraph that is not printed.
    pub fn note(&mut self, text: &str) {
        self.markdown.push_str(text);
        self.markdown.push_str("\n\n");
    }

    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) {
        let head = head.iter().map(|&name| name.to_owned()).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        println!("\n{}", aligned(&rows));
        let mut lines: Vec<String> = rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        lines.insert(1, format!("|{}", "---|".repeat(rows.first().map_or(0, Vec::len))));
        self.note(&lines.join("\n"));
    }

    pub fn ratio(&mut self, name: &str, spread: Spread, target: Target) {
        self.ratios.push(Ratio { name: name.to_owned(), spread, target });
    }

    /// Adds the ratios as a table and prints them, one per line, as the last lines of the output.
    /// Returns the markdown.
    #[must_use]
    pub fn finish(mut self) -> String {
        let rows = self.ratios.iter().map(|ratio| {
            let (target, verdict) = ratio.verdict();
            vec![format!("`{}`", ratio.name), ratio.spread.to_string(), target, verdict.to_owned()]
        });
        let rows = rows.collect();
        self.table(&["result", "median (min..max)", "target", "verdict"], rows);
        println!();
        for ratio in &self.ratios {
            println!("{ratio}");
        }
        self.markdown.trim_end().to_owned()
    }
}

/// The rows with aligned columns, for a terminal.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Replaces the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in the file.
///
/// # Errors
/// If the file cannot be read or written, or has no such markers.
pub fn replace(path: &Path, name: &str, text: &str) -> Result<()> {
    let before = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let after = replaced(&before, name, text)
        .with_context(|| format!("{} has no markers <!-- {name}:begin --> and <!-- {name}:end -->", path.display()))?;
    std::fs::write(path, after).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let (head, rest) = document.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{text}\n{end}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let expected = "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n";
        assert_eq!(replaced(document, "x", "new").as_deref(), Some(expected));
        assert_eq!(replaced(expected, "x", "new").as_deref(), Some(expected));
        assert_eq!(replaced(document, "y", "new"), None);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(aligned(&rows), "  a    bb\n  ccc  d");
    }

    #[test]
    fn a_report_is_markdown() {
        let mut report = Report::default();
        report.note("Text.");
        report.table(&["a", "b"], vec![vec!["1".to_owned(), "2".to_owned()]]);
        report.ratio("x.y", Spread::of(&[1.0]), Target::AtLeast(0.5));
        let ratios = "| result | median (min..max) | target | verdict |\n|---|---|---|---|\n\
                      | `x.y` | 1.00 (1.00..1.00) | at least 0.50 | met |";
        assert_eq!(report.finish(), format!("Text.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n{ratios}"));
    }
}
