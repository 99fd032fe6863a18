//! The report for machines.

use super::Report;
use serde_json::{Value, json};

/// The report as JSON: `verdict` is `PASS` or `FAIL`, `summary` the line of the terminal, `report` the
/// whole of it. Units are in the names.
#[must_use]
pub fn render(report: &Report) -> String {
    let verdict = if report.verdict.pass { "PASS" } else { "FAIL" };
    let body = serde_json::to_value(report).unwrap_or(Value::Null);
    format!("{:#}\n", json!({ "verdict": verdict, "summary": report.summary(), "report": body }))
}
