//! The tables: printed, and written into `docs/benchmarks.md` between two markers.

use crate::stats::{Aim, Ratio, Spread};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::Path;

/// A row of a table.
#[must_use]
pub fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A cell of a table: figures of all rounds.
#[must_use]
pub fn text(figures: &[f64]) -> String {
    Spread::of(figures).to_string()
}

/// What a run has found, in the order in which it is told.
#[derive(Debug, Default)]
pub struct Sheet {
    text: String,
    ratios: Vec<Ratio>,
}

impl Sheet {
    /// A paragraph or a heading.
    pub fn say(&mut self, text: &str) {
        println!("\n{text}");
        self.push(text);
    }

    /// A paragraph for the document alone.
    pub fn note(&mut self, text: &str) {
        self.push(text);
    }

    /// A table of text. The first row is its head.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            // Writing into a string does not fail.
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
        println!("\n{}", aligned(rows));
        self.push(text.trim_end());
    }

    /// A result.
    pub fn ratio(&mut self, name: &str, spread: Spread, aim: Aim) {
        self.ratios.push(Ratio { name: name.to_owned(), spread, aim });
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push_str("\n\n");
    }

    /// Closes with the verdicts, and prints the results one a line, as the last lines of all.
    /// Returns the text for the document.
    #[must_use]
    pub fn close(mut self) -> String {
        let head = row(&["result", "median (least..greatest)", "aim", "verdict"]);
        let rows = self.ratios.iter().map(|ratio| {
            let (aim, verdict) = ratio.verdict();
            vec![format!("`{}`", ratio.name), ratio.spread.to_string(), aim, verdict.to_owned()]
        });
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        self.table(&rows);
        println!();
        for ratio in &self.ratios {
            println!("{ratio}");
        }
        self.text.trim_end().to_owned()
    }
}

/// The table with its columns under each other, for a terminal.
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

/// Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in the file.
///
/// # Errors
/// If the file cannot be read or written, or has no such markers.
pub fn replace(path: &Path, name: &str, text: &str) -> Result<()> {
    let before = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let after = replaced(&before, name, text)
        .with_context(|| format!("{} has no markers <!-- {name}:begin --> and <!-- {name}:end -->", path.display()))?;
    std::fs::write(path, after).with_context(|| format!("{} cannot be written", path.display()))
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
    fn only_what_stands_between_the_markers_is_replaced() {
        let document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let expected = "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n";
        assert_eq!(replaced(document, "x", "new").as_deref(), Some(expected));
        assert_eq!(replaced(expected, "x", "new").as_deref(), Some(expected));
        assert_eq!(replaced(document, "y", "new"), None);
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(aligned(&rows), "  a    bb\n  ccc  d");
    }
}
