//! Tables of a run: into a document, between two marks of its own, and the ratios at the end of the
//! output.

use crate::ratio::Spread;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::Path;

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Stands above it.
    pub title: String,
    /// The names of its columns.
    pub head: Vec<&'static str>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

/// A ratio that the run is about.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    /// Its name.
    pub name: &'static str,
    /// What came out.
    pub value: Spread,
    /// What was aimed at, in words, and whether it was met.
    pub aim: Option<(&'static str, bool)>,
}

/// What a run has to tell.
#[derive(Debug, Default)]
pub struct Report {
    /// In this order.
    pub tables: Vec<Table>,
    /// In this order.
    pub ratios: Vec<Ratio>,
}

impl Report {
    /// Adds a ratio with its aim.
    pub fn ratio(&mut self, name: &'static str, value: Spread, aim: Option<(&'static str, bool)>) {
        self.ratios.push(Ratio { name, value, aim });
    }

    /// As Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for Table { title, head, rows } in &self.tables {
            let _ = writeln!(text, "**{title}**\n\n| {} |", head.join(" | "));
            let _ = writeln!(text, "|{}", "---|".repeat(head.len()));
            for row in rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
            text.push('\n');
        }
        let _ = writeln!(text, "| ratio | median (min..max) | aim | |\n|---|---|---|---|");
        for Ratio { name, value, aim } in &self.ratios {
            let (aim, met) = aim.map_or(("", ""), |(aim, met)| (aim, if met { "met" } else { "missed" }));
            let _ = writeln!(text, "| `{name}` | {value} | {aim} | {met} |");
        }
        text
    }

    /// Puts the tables between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the document.
    ///
    /// # Errors
    /// If the document has no such marks, or cannot be written.
    pub fn write(&self, document: &Path, name: &str, preface: &str) -> Result<()> {
        let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
        let text = std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
        let (before, rest) =
            text.split_once(&begin).with_context(|| format!("no {begin} in {}", document.display()))?;
        let (_, after) = rest.split_once(&end).with_context(|| format!("no {end} in {}", document.display()))?;
        let text = format!("{before}{begin}\n{preface}\n\n{}{end}{after}", self.markdown());
        std::fs::write(document, text).with_context(|| format!("cannot write {}", document.display()))
    }

    /// The ratios, one a line, for whoever reads the end of the output.
    pub fn print(&self) {
        println!("\n{}", self.markdown());
        for Ratio { name, value, .. } in &self.ratios {
            println!("ratio {name} {value}");
        }
    }
}
