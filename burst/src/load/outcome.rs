//! What a response of the edge means for the user who claimed.

use serde::Deserialize;
use std::time::Duration;

/// The slot that a response promises to its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub slot: u32,
    /// None if the claim was refused after its admission.
    pub code: Option<Box<str>>,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: u64,
    /// The claim was admitted and can never be issued.
    pub refused: bool,
}

/// Why a claim is undecided. The user retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UndecidedReason {
    /// 503
    Unavailable,
    /// 429
    TooMany,
    /// Another 5xx, from the edge or from something in front of it.
    ServerError,
    Timeout,
    /// The connection broke after the request was sent.
    Broken,
    /// No connection could be opened: the request was never sent.
    NoConnection,
}

impl UndecidedReason {
    pub const ALL: [Self; 6] =
        [Self::Unavailable, Self::TooMany, Self::ServerError, Self::Timeout, Self::Broken, Self::NoConnection];

    /// For people and for JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "503",
            Self::TooMany => "429",
            Self::ServerError => "5xx",
            Self::Timeout => "timeout",
            Self::Broken => "broken connection",
            Self::NoConnection => "no connection",
        }
    }

    /// Whether the claim may have been admitted although no response says so (I8).
    #[must_use]
    pub fn may_have_admitted(self) -> bool {
        !matches!(self, Self::TooMany | Self::NoConnection)
    }
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// 202: admitted by this request.
    Admitted(Box<Promise>),
    /// 200: admitted before.
    Already(Box<Promise>),
    /// 410
    SoldOut,
    /// 410, the campaign is over.
    Closed,
    /// 403, the campaign has not begun.
    NotOpen,
    Undecided {
        reason: UndecidedReason,
        retry_after: Option<Duration>,
    },
    /// A response that no valid claim can get: 400, 401, 404, or a malformed body.
    Invalid {
        status: u16,
        /// The end of the problem's type, or what is wrong with the body.
        what: Box<str>,
    },
}

impl ClaimOutcome {
    /// Undecided, without `Retry-After`.
    #[must_use]
    pub fn undecided(reason: UndecidedReason) -> Self {
        Self::Undecided { reason, retry_after: None }
    }

    #[must_use]
    pub fn promise(&self) -> Option<&Promise> {
        match self {
            Self::Admitted(promise) | Self::Already(promise) => Some(promise),
            _ => None,
        }
    }

    #[must_use]
    pub fn undecided_reason(&self) -> Option<UndecidedReason> {
        match self {
            Self::Undecided { reason, .. } => Some(*reason),
            _ => None,
        }
    }

    /// Sold out, closed or not open.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::SoldOut | Self::Closed | Self::NotOpen)
    }
}

/// Parses a response. `retry_after` is the raw value of the header.
#[must_use]
pub fn parse_response(status: u16, retry_after: Option<&[u8]>, body: &[u8], campaign: &str) -> ClaimOutcome {
    let invalid = |what: &str| ClaimOutcome::Invalid { status, what: what.chars().take(60).collect() };
    match status {
        200 | 202 => match serde_json::from_slice::<ClaimBody<'_>>(body) {
            Ok(claim) if claim.campaign != campaign => invalid("the claim of another campaign"),
            Ok(claim) => {
                let refused = claim.status == "refused";
                if claim.code.is_none() && !refused {
                    return invalid("a claim without a code");
                }
                let promise = Box::new(Promise {
                    slot: claim.slot,
                    code: claim.code.map(Box::from),
                    admitted_ms: claim.admitted_at,
                    refused,
                });
                if status == 202 { ClaimOutcome::Admitted(promise) } else { ClaimOutcome::Already(promise) }
            }
            Err(_) => invalid("a malformed claim"),
        },
        429 | 500.. => ClaimOutcome::Undecided {
            reason: match status {
                429 => UndecidedReason::TooMany,
                503 => UndecidedReason::Unavailable,
                _ => UndecidedReason::ServerError,
            },
            retry_after: retry_after.and_then(seconds),
        },
        _ => {
            let problem: Option<Problem<'_>> = serde_json::from_slice(body).ok();
            let kind = problem.and_then(|p| p.kind.rsplit([':', '/', '#']).next()).unwrap_or("no problem document");
            match (status, kind) {
                (410, "sold-out") => ClaimOutcome::SoldOut,
                (410, "closed") => ClaimOutcome::Closed,
                (403, "not-open") => ClaimOutcome::NotOpen,
                _ => invalid(kind),
            }
        }
    }
}

/// Only the form in seconds: the edge never sends a date.
fn seconds(header: &[u8]) -> Option<Duration> {
    std::str::from_utf8(header).ok()?.trim().parse().ok().map(Duration::from_secs)
}

// Borrowed strings: neither a code nor a problem type contains characters that JSON escapes.
#[derive(Deserialize)]
struct ClaimBody<'a> {
    status: &'a str,
    campaign: &'a str,
    slot: u32,
    code: Option<&'a str>,
    admitted_at: u64,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: &str =
        r#"{"admitted_at":1763700000123,"campaign":"c","code":"7ZQK-3M9F-XW20-BC8D","slot":57,"status":"admitted"}"#;

    fn problem(status: u16, kind: &str) -> ClaimOutcome {
        parse_response(status, None, format!(r#"{{"type":"{kind}","title":"t","status":{status}}}"#).as_bytes(), "c")
    }

    #[test]
    fn an_admission_and_the_same_again() {
        let promise = Promise {
            slot: 57,
            code: Some("7ZQK-3M9F-XW20-BC8D".into()),
            admitted_ms: 1_763_700_000_123,
            refused: false,
        };
        assert_eq!(parse_response(202, None, CLAIM.as_bytes(), "c"), ClaimOutcome::Admitted(Box::new(promise.clone())));
        assert_eq!(parse_response(200, None, CLAIM.as_bytes(), "c"), ClaimOutcome::Already(Box::new(promise)));
    }

    #[test]
    fn a_refused_claim_has_no_code() {
        let body = CLAIM.replace(r#""7ZQK-3M9F-XW20-BC8D""#, "null");
        assert!(matches!(parse_response(200, None, body.as_bytes(), "c"), ClaimOutcome::Invalid { .. }));
        let body = body.replace("\"admitted\"", "\"refused\"");
        let outcome = parse_response(200, None, body.as_bytes(), "c");
        assert!(outcome.promise().is_some_and(|p| p.refused && p.code.is_none()), "{outcome:?}");
    }

    #[test]
    fn problems_are_distinguished_by_the_end_of_their_type() {
        for base in ["urn:dropgate:problem:", "https://example.org/problems/", "https://example.org/problems#"] {
            assert_eq!(problem(410, &format!("{base}sold-out")), ClaimOutcome::SoldOut);
            assert_eq!(problem(410, &format!("{base}closed")), ClaimOutcome::Closed);
            assert_eq!(problem(403, &format!("{base}not-open")), ClaimOutcome::NotOpen);
        }
        assert_eq!(
            problem(404, "urn:dropgate:problem:unknown-campaign"),
            ClaimOutcome::Invalid { status: 404, what: "unknown-campaign".into() }
        );
        // A 410 without a problem type says nothing about the coupons.
        assert!(matches!(parse_response(410, None, b"Gone", "c"), ClaimOutcome::Invalid { status: 410, .. }));
        assert!(matches!(problem(403, "urn:dropgate:problem:forbidden"), ClaimOutcome::Invalid { .. }));
    }

    #[test]
    fn undecided_responses_and_their_retry_after() {
        let parse = |status, header: Option<&[u8]>| parse_response(status, header, b"busy", "c");
        let undecided = |reason, seconds: Option<u64>| ClaimOutcome::Undecided {
            reason,
            retry_after: seconds.map(Duration::from_secs),
        };
        assert_eq!(parse(503, Some(b"2")), undecided(UndecidedReason::Unavailable, Some(2)));
        assert_eq!(parse(503, Some(b"Wed, 21 Oct 2026 07:28:00 GMT")), undecided(UndecidedReason::Unavailable, None));
        assert_eq!(parse(429, Some(b" 1 ")), undecided(UndecidedReason::TooMany, Some(1)));
        assert_eq!(parse(502, None), undecided(UndecidedReason::ServerError, None));
    }

    #[test]
    fn a_malformed_response_is_no_admission() {
        for body in ["", "{}", "ok", r#"{"slot":1}"#, &CLAIM.replace("57", "-1"), &CLAIM.replace("\"c\"", "\"d\"")] {
            assert!(
                matches!(parse_response(202, None, body.as_bytes(), "c"), ClaimOutcome::Invalid { status: 202, .. }),
                "{body}"
            );
        }
        assert!(matches!(parse_response(204, None, b"", "c"), ClaimOutcome::Invalid { .. }));
    }
}
