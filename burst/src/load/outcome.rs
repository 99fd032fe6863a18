//! What an answer of the edge means for the visitor.

use serde::Deserialize;
use std::time::Duration;

/// What a user was told about the slot that he holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The slot.
    pub slot: u32,
    /// The coupon code; none where the claim was refused after all.
    pub code: Option<Box<str>>,
    /// Time of admission, in ms since the epoch.
    pub admitted_ms: u64,
    /// The claim was admitted and can never be issued: the edge says so.
    pub refused: bool,
}

/// Why nothing is decided. The visitor presses again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// 503: not decided, please ask again.
    Unavailable,
    /// 429.
    TooMany,
    /// Another 5xx, out of the edge or of something in front of it.
    ServerError,
    /// No answer in time.
    Timeout,
    /// The connection broke after the request had left.
    Broken,
    /// No connection could be opened: the request never left.
    NoConnection,
}

impl Cause {
    /// All of them, in the order of the enum.
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

    /// Whether the request may have been admitted all the same (I8).
    #[must_use]
    pub fn may_have_admitted(self) -> bool {
        !matches!(self, Self::TooMany | Self::NoConnection)
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// 202: admitted by this very request.
    Admitted(Box<Told>),
    /// 200: admitted before.
    Already(Box<Told>),
    /// 410, sold out.
    SoldOut,
    /// 410, the campaign is over.
    Closed,
    /// 403, the campaign has not begun.
    NotOpen,
    /// Nothing definite.
    Undecided {
        /// Why.
        cause: Cause,
        /// What `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// Nothing that a valid claim should be answered with: 400, 401, 404, or a body that is none.
    Odd {
        /// Status code.
        status: u16,
        /// The end of the problem's type, or what is wrong with the body.
        what: Box<str>,
    },
}

impl Outcome {
    /// Nothing definite, and no word on when to ask again.
    #[must_use]
    pub fn undecided(cause: Cause) -> Self {
        Self::Undecided { cause, retry_after: None }
    }

    /// What the user was told about the slot he holds.
    #[must_use]
    pub fn told(&self) -> Option<&Told> {
        match self {
            Self::Admitted(told) | Self::Already(told) => Some(told),
            _ => None,
        }
    }

    /// Why nothing is decided.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Undecided { cause, .. } => Some(*cause),
            _ => None,
        }
    }

    /// Whether the user was sent away: sold out, closed or not open.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self, Self::SoldOut | Self::Closed | Self::NotOpen)
    }
}

/// Reads an answer. `retry_after` is the header as it came.
#[must_use]
pub fn read(status: u16, retry_after: Option<&[u8]>, body: &[u8], campaign: &str) -> Outcome {
    let odd = |what: &str| Outcome::Odd { status, what: what.chars().take(60).collect() };
    match status {
        200 | 202 => match serde_json::from_slice::<ClaimBody<'_>>(body) {
            Ok(claim) if claim.campaign != campaign => odd("the claim of another campaign"),
            Ok(claim) => {
                let refused = claim.status == "refused";
                if claim.code.is_none() && !refused {
                    return odd("a claim without a code");
                }
                let told = Box::new(Told {
                    slot: claim.slot,
                    code: claim.code.map(Box::from),
                    admitted_ms: claim.admitted_at,
                    refused,
                });
                if status == 202 { Outcome::Admitted(told) } else { Outcome::Already(told) }
            }
            Err(_) => odd("a body that is no claim"),
        },
        429 | 500.. => Outcome::Undecided {
            cause: match status {
                429 => Cause::TooMany,
                503 => Cause::Unavailable,
                _ => Cause::ServerError,
            },
            retry_after: retry_after.and_then(seconds),
        },
        _ => {
            let problem: Option<Problem<'_>> = serde_json::from_slice(body).ok();
            let kind = problem.and_then(|p| p.kind.rsplit([':', '/', '#']).next()).unwrap_or("no problem document");
            match (status, kind) {
                (410, "sold-out") => Outcome::SoldOut,
                (410, "closed") => Outcome::Closed,
                (403, "not-open") => Outcome::NotOpen,
                _ => odd(kind),
            }
        }
    }
}

/// Only the form in seconds: the edge sends no date.
fn seconds(header: &[u8]) -> Option<Duration> {
    std::str::from_utf8(header).ok()?.trim().parse().ok().map(Duration::from_secs)
}

// Borrowed strings: neither a code nor a problem type holds anything that JSON has to escape.
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

    fn problem(status: u16, kind: &str) -> Outcome {
        read(status, None, format!(r#"{{"type":"{kind}","title":"t","status":{status}}}"#).as_bytes(), "c")
    }

    #[test]
    fn an_admission_and_the_same_again() {
        let told =
            Told { slot: 57, code: Some("7ZQK-3M9F-XW20-BC8D".into()), admitted_ms: 1_763_700_000_123, refused: false };
        assert_eq!(read(202, None, CLAIM.as_bytes(), "c"), Outcome::Admitted(Box::new(told.clone())));
        assert_eq!(read(200, None, CLAIM.as_bytes(), "c"), Outcome::Already(Box::new(told)));
    }

    #[test]
    fn a_refused_claim_has_no_code() {
        let body = CLAIM.replace(r#""7ZQK-3M9F-XW20-BC8D""#, "null");
        assert!(matches!(read(200, None, body.as_bytes(), "c"), Outcome::Odd { .. }));
        let body = body.replace("\"admitted\"", "\"refused\"");
        let outcome = read(200, None, body.as_bytes(), "c");
        assert!(outcome.told().is_some_and(|t| t.refused && t.code.is_none()), "{outcome:?}");
    }

    #[test]
    fn problems_are_told_apart_by_the_end_of_their_type() {
        for base in ["urn:dropgate:problem:", "https://example.org/problems/", "https://example.org/problems#"] {
            assert_eq!(problem(410, &format!("{base}sold-out")), Outcome::SoldOut);
            assert_eq!(problem(410, &format!("{base}closed")), Outcome::Closed);
            assert_eq!(problem(403, &format!("{base}not-open")), Outcome::NotOpen);
        }
        assert_eq!(
            problem(404, "urn:dropgate:problem:unknown-campaign"),
            Outcome::Odd { status: 404, what: "unknown-campaign".into() }
        );
        // A 410 that does not say why is no word on the coupons.
        assert!(matches!(read(410, None, b"Gone", "c"), Outcome::Odd { status: 410, .. }));
        assert!(matches!(problem(403, "urn:dropgate:problem:forbidden"), Outcome::Odd { .. }));
    }

    #[test]
    fn undecided_answers_and_when_to_ask_again() {
        let read = |status, header: Option<&[u8]>| read(status, header, b"busy", "c");
        let undecided =
            |cause, seconds: Option<u64>| Outcome::Undecided { cause, retry_after: seconds.map(Duration::from_secs) };
        assert_eq!(read(503, Some(b"2")), undecided(Cause::Unavailable, Some(2)));
        assert_eq!(read(503, Some(b"Wed, 21 Oct 2026 07:28:00 GMT")), undecided(Cause::Unavailable, None));
        assert_eq!(read(429, Some(b" 1 ")), undecided(Cause::TooMany, Some(1)));
        assert_eq!(read(502, None), undecided(Cause::ServerError, None));
    }

    #[test]
    fn what_cannot_be_understood_is_no_admission() {
        for body in ["", "{}", "ok", r#"{"slot":1}"#, &CLAIM.replace("57", "-1"), &CLAIM.replace("\"c\"", "\"d\"")] {
            assert!(matches!(read(202, None, body.as_bytes(), "c"), Outcome::Odd { status: 202, .. }), "{body}");
        }
        assert!(matches!(read(204, None, b"", "c"), Outcome::Odd { .. }));
    }
}
