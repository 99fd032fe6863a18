//! How verbs print.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::io::Write as _;

/// `println!` for a reader who may be gone.
macro_rules! say {
    ($($text:tt)*) => { $crate::operator::output::print_line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line on standard output. The reader may have had enough (`| head`): the work continues nevertheless, and
/// its exit status reports it.
pub fn print_line(line: fmt::Arguments<'_>) {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("issuer: cannot write to standard output: {error}");
        }
        _ => {}
    }
}

/// Columns as wide as their widest cell, two blanks apart.
#[must_use]
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A bar on standard error, if it is wanted and that is a terminal.
#[must_use]
pub fn progress(is_wanted: bool, what: &'static str, total: u64) -> ProgressBar {
    if !is_wanted {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:12} [{bar:40}] {human_pos}/{human_len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// Enough of a user id to recognise one that is known, and not enough to learn it.
#[must_use]
pub fn masked(user: &str) -> String {
    let length = user.chars().count();
    let shown = if length > 6 { 2 } else { 1 };
    format!("{}***({length})", user.chars().take(shown).collect::<String>())
}

/// The version of everything that is printed as JSON. It changes when a field disappears or changes its meaning; new
/// fields may appear at any time.
pub const JSON_VERSION: u32 = 1;

/// A struct as a JSON object with the version.
#[must_use]
pub fn json(value: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        value: &'a T,
    }
    // What the verbs print always serialises.
    serde_json::to_string_pretty(&Versioned { version: JSON_VERSION, value }).unwrap_or_default()
}
