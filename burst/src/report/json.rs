//! The report for programs.

use super::RunReport;
use serde_json::{Value, json};

/// `verdict` is `PASS` or `FAIL`, `summary` the verdict line of the text report, `report` everything.
/// Units are in the names.
#[must_use]
pub fn render(report: &RunReport) -> String {
    let body = serde_json::to_value(report).unwrap_or(Value::Null);
    let verdict = report.verdict.word();
    format!("{:#}\n", json!({ "verdict": verdict, "summary": report.summary(), "report": body }))
}
