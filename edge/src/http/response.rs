//! Answers, and the one table from each problem to its status, type, and Retry-After.

use crate::http::request::CommonHeaders;
use serde_json::{Value, json};

/// An answer to a visitor, ready to be put into the platform's own type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// What it says in a word, for logs and counters; a problem's label.
    pub outcome: &'static str,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: String,
}

impl Response {
    /// A JSON answer that nobody may cache.
    #[must_use]
    pub fn json(status: u16, outcome: &'static str, body: &Value) -> Self {
        Self {
            status,
            outcome,
            headers: vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())],
            body: body.to_string(),
        }
    }

    /// An answer without a body.
    #[must_use]
    pub fn empty(status: u16, outcome: &'static str) -> Self {
        Self { status, outcome, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
    }

    /// The same with what this request's answer carries whatever it says.
    #[must_use]
    pub fn dressed(&self, common_headers: &CommonHeaders) -> Self {
        let mut response = self.clone();
        response.headers.extend(common_headers.headers().map(|(name, value)| (name, value.to_owned())));
        response
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Why a request does not get what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// All slots are handed out.
    SoldOut,
    /// The campaign's time is over.
    Closed,
    /// The campaign has not begun.
    NotOpen {
        /// When it begins, ms since the epoch.
        opens_ms: u64,
        /// Redis's clock, ms since the epoch.
        now_ms: u64,
    },
    /// The operator has paused the campaign.
    Paused,
    /// No campaign of this id.
    UnknownCampaign,
    /// This user holds no claim.
    NoClaim,
    /// The visitor has not said who he is, or nothing vouches for it; the text says how to.
    Unauthenticated(&'static str),
    /// Something in the request cannot be right; the text says what would be.
    BadRequest(String),
    /// No such place.
    NotFound,
    /// The place exists, the method does not.
    Method {
        /// The method that does.
        allowed: &'static str,
    },
    /// The body is larger than the limit.
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The address is longer than the limit.
    TooLong {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// This user, or this network address, asks too often.
    TooMany,
    /// Nothing says that the visitor is no program.
    ChallengeFailed,
    /// It is not known what became of the request: asking again is safe, and the only way to know.
    Unavailable,
    /// The gate itself is set up wrongly; the text names the settings.
    Misconfigured(String),
}

impl Problem {
    /// Stable word: the end of the problem type, and the label in logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.row().1
    }

    /// status, label, title, seconds for Retry-After.
    fn row(&self) -> (u16, &'static str, &'static str, Option<u64>) {
        match self {
            Self::SoldOut => (410, "sold-out", "All coupons are taken", None),
            Self::Closed => (410, "closed", "The campaign is over", None),
            Self::NotOpen { opens_ms, now_ms } => {
                let wait_s = opens_ms.saturating_sub(*now_ms).div_ceil(1000).max(1);
                (403, "not-open", "The campaign has not begun", Some(wait_s))
            }
            Self::Paused => (503, "paused", "The campaign is paused", Some(5)),
            Self::UnknownCampaign => (404, "unknown-campaign", "There is no such campaign", None),
            Self::NoClaim => (404, "no-claim", "You hold no claim in this campaign", None),
            Self::Unauthenticated(_) => (401, "unauthenticated", "It is not known who you are", None),
            Self::BadRequest(_) => (400, "bad-request", "The request cannot be right", None),
            Self::NotFound => (404, "not-found", "There is nothing here", None),
            Self::Method { .. } => (405, "method-not-allowed", "Another method is needed", None),
            Self::TooLarge { .. } => (413, "too-large", "The request is too large", None),
            Self::TooLong { .. } => (414, "too-long", "The address is too long", None),
            Self::TooMany => (429, "too-many-requests", "You ask too often", Some(10)),
            Self::ChallengeFailed => (403, "challenge-failed", "Please show again that you are no program", None),
            Self::Unavailable => (503, "unavailable", "Not decided yet, please ask again", Some(1)),
            Self::Misconfigured(_) => (503, "misconfigured", "The gate is not set up", Some(30)),
        }
    }

    /// The answer: `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn response(&self) -> Response {
        let (status, label, title, retry_after_s) = self.row();
        let mut body = json!({ "type": format!("urn:dropgate:problem:{label}"), "title": title, "status": status });
        let detail = match self {
            Self::Unauthenticated(text) => Some((*text).to_owned()),
            Self::BadRequest(text) | Self::Misconfigured(text) => Some(text.clone()),
            Self::Method { allowed } => Some(format!("this address takes {allowed}")),
            Self::TooLarge { limit_bytes } => Some(format!("a claim needs no body; {limit_bytes} bytes at most")),
            Self::TooLong { limit_bytes } => Some(format!("{limit_bytes} bytes at most")),
            Self::TooMany => Some("your place, if you have got one, is kept".to_owned()),
            Self::Unavailable => {
                Some("your place, if you have got one, is kept: the same request again is safe and tells".to_owned())
            }
            _ => None,
        };
        if let Some(fields) = body.as_object_mut() {
            if let Some(detail) = detail {
                fields.insert("detail".to_owned(), detail.into());
            }
            if let Self::NotOpen { opens_ms, .. } = self {
                fields.insert("opens_at".to_owned(), (*opens_ms).into());
            }
        }
        let mut response = Response::json(status, label, &body);
        if let Some(kind) = response.headers.first_mut() {
            kind.1 = "application/problem+json".to_owned();
        }
        if let Some(seconds) = retry_after_s {
            response = response.with("retry-after", seconds.to_string());
        }
        match self {
            Self::Method { allowed } => response.with("allow", *allowed),
            Self::Unauthenticated(_) => response.with("www-authenticate", "Bearer"),
            _ => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn problems_are_problem_json_with_a_stable_type() {
        let response = Problem::SoldOut.response();
        assert_eq!(response.status, 410);
        assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["type"], "urn:dropgate:problem:sold-out");
        assert_eq!(body["status"], 410);
    }

    #[test]
    fn early_visitors_hear_when_to_come_back() {
        let response = Problem::NotOpen { opens_ms: 10_500, now_ms: 8_000 }.response();
        assert_eq!((response.status, header(&response, "retry-after")), (403, Some("3")));
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["opens_at"], 10_500);
    }

    #[test]
    fn an_unknown_outcome_asks_to_come_again_and_refuses_nothing() {
        let response = Problem::Unavailable.response();
        assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));
    }

    #[test]
    fn wrong_method_names_the_right_one() {
        assert_eq!(header(&Problem::Method { allowed: "POST" }.response(), "allow"), Some("POST"));
    }
}
