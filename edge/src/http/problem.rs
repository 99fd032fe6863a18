//! Why a request fails, and the one table from each problem to its status, type, title and Retry-After.

use crate::http::response::Response;
use crate::labels::Outcome;
use dropgate_shared::fault::Fault;
use serde_json::json;
use std::rc::Rc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    SoldOut,
    Closed,
    NotOpen {
        opens_ms: u64,
        /// Redis's clock.
        now_ms: u64,
    },
    Paused,
    UnknownCampaign,
    /// The user has no claim in the campaign.
    NoClaim,
    /// No valid credentials; the text says which are accepted.
    Unauthenticated(&'static str),
    /// The text names the part of the request that is invalid, and the rule.
    BadRequest(String),
    NotFound,
    MethodNotAllowed {
        allowed: &'static str,
    },
    TooLarge {
        limit_bytes: u64,
    },
    TooLong {
        limit_bytes: usize,
    },
    /// This user, or this network address, exceeds a rate limit.
    TooManyRequests,
    ChallengeFailed,
    /// The outcome is unknown (I8). Repeating the request is safe, and the only way to learn it.
    Unavailable,
    /// The text names the settings.
    Misconfigured(String),
}

impl Problem {
    /// The gate has another secret of coupon codes than the campaign.
    #[must_use]
    pub fn other_code_key() -> Self {
        Self::Misconfigured("COUPON_CODE_SECRET is not the secret of this campaign's codes; see the log".to_owned())
    }

    /// Status, type, title, seconds for Retry-After.
    fn row(&self) -> (u16, Outcome, &'static str, Option<u64>) {
        match self {
            Self::SoldOut => (410, Outcome::SoldOut, "All coupons are taken", None),
            Self::Closed => (410, Outcome::Closed, "The campaign is closed", None),
            Self::NotOpen { opens_ms, now_ms } => {
                let wait_s = opens_ms.saturating_sub(*now_ms).div_ceil(1000).max(1);
                (403, Outcome::NotOpen, "The campaign is not open yet", Some(wait_s))
            }
            Self::Paused => (503, Outcome::Paused, "The campaign is paused", Some(5)),
            Self::UnknownCampaign => (404, Outcome::UnknownCampaign, "Unknown campaign", None),
            Self::NoClaim => (404, Outcome::NoClaim, "No claim in this campaign", None),
            Self::Unauthenticated(_) => (401, Outcome::Unauthenticated, "Authentication required", None),
            Self::BadRequest(_) => (400, Outcome::BadRequest, "Malformed request", None),
            Self::NotFound => (404, Outcome::NotFound, "Not found", None),
            Self::MethodNotAllowed { .. } => (405, Outcome::MethodNotAllowed, "Method not allowed", None),
            Self::TooLarge { .. } => (413, Outcome::TooLarge, "Request body too large", None),
            Self::TooLong { .. } => (414, Outcome::TooLong, "URL too long", None),
            Self::TooManyRequests => (429, Outcome::TooManyRequests, "Too many requests", Some(10)),
            Self::ChallengeFailed => (403, Outcome::ChallengeFailed, "Challenge failed, please try again", None),
            Self::Unavailable => (503, Outcome::Unavailable, "Outcome unknown, please retry", Some(1)),
            Self::Misconfigured(_) => (503, Outcome::Misconfigured, "The gate is misconfigured", Some(30)),
        }
    }

    fn detail(&self) -> Option<String> {
        Some(match self {
            Self::Unauthenticated(text) => (*text).to_owned(),
            Self::BadRequest(text) | Self::Misconfigured(text) => text.clone(),
            Self::MethodNotAllowed { allowed } => format!("This URL accepts {allowed}."),
            Self::TooLarge { limit_bytes } => format!("The limit is {limit_bytes} bytes. A claim needs no body."),
            Self::TooLong { limit_bytes } => format!("The limit is {limit_bytes} bytes."),
            Self::TooManyRequests => "If you were admitted, your slot is kept.".to_owned(),
            Self::Unavailable => "If you were admitted, your slot is kept. \
                                  Repeating this request is safe and returns the outcome."
                .to_owned(),
            _ => return None,
        })
    }

    /// The response: `application/problem+json` (RFC 9457).
    #[must_use]
    pub fn response(&self) -> Response {
        let (status, outcome, title, retry_after_s) = self.row();
        let kind = format!("urn:dropgate:problem:{}", outcome.as_str());
        let mut body = json!({ "type": kind, "title": title, "status": status });
        if let Some(fields) = body.as_object_mut() {
            fields.extend(self.detail().map(|detail| ("detail".to_owned(), detail.into())));
            if let Self::NotOpen { opens_ms, now_ms } = self {
                fields.insert("opens_at".to_owned(), (*opens_ms).into());
                fields.insert("server_time".to_owned(), (*now_ms).into());
            }
        }
        let mut response = Response::json(status, outcome, &body).replace("content-type", "application/problem+json");
        if let Some(seconds) = retry_after_s {
            response = response.with("retry-after", seconds.to_string());
        }
        match self {
            Self::MethodNotAllowed { allowed } => response.with("allow", *allowed),
            Self::Unauthenticated(_) => response.with("www-authenticate", "Bearer"),
            _ => response,
        }
    }
}

impl From<Problem> for Rc<Response> {
    fn from(problem: Problem) -> Self {
        Self::new(problem.response())
    }
}

/// Why a request ends without what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It is decided.
    Problem(Problem),
    /// A call failed: the outcome may be unknown.
    Fault(Fault),
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

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
    fn an_early_claim_is_answered_with_the_opening_time() {
        let response = Problem::NotOpen { opens_ms: 10_500, now_ms: 8_000 }.response();
        assert_eq!((response.status, header(&response, "retry-after")), (403, Some("3")));
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!((&body["opens_at"], &body["server_time"]), (&json!(10_500), &json!(8_000)));
    }

    #[test]
    fn an_unknown_outcome_asks_for_a_retry_and_refuses_nothing() {
        let response = Problem::Unavailable.response();
        assert_eq!((response.status, header(&response, "retry-after")), (503, Some("1")));
    }

    #[test]
    fn a_wrong_method_is_answered_with_the_allowed_ones() {
        let response = Problem::MethodNotAllowed { allowed: "POST" }.response();
        assert_eq!(header(&response, "allow"), Some("POST"));
    }
}
