//! A response, independent of the runtime's own type.

use crate::labels::Outcome;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// For logs and metrics; it is not sent.
    pub outcome: Outcome,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Response {
    /// A JSON response that may not be cached.
    #[must_use]
    pub fn json(status: u16, outcome: Outcome, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
        Self { status, outcome, headers, body: body.to_string() }
    }

    /// A response without a body.
    #[must_use]
    pub fn empty(status: u16, outcome: Outcome) -> Self {
        Self { status, outcome, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
    }

    /// The same with another value of a header that it has.
    #[must_use]
    pub fn replace(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Some((_, old)) = self.headers.iter_mut().find(|(known, _)| *known == name) {
            *old = value.into();
        }
        self
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
