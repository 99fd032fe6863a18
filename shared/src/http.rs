//! The port through which a request leaves: fetch on Workers, a client library natively.

use std::future::Future;

/// A POST request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// Where to.
    pub url: &'a str,
    /// Headers, name and value.
    pub headers: Vec<(&'static str, &'a str)>,
    /// The body.
    pub body: String,
    /// How long to wait for the whole answer, in ms.
    pub deadline_ms: u32,
}

/// An answer, its body read to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// No answer came, or none in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFault {
    /// False only where it is sure that the request never left (connection refused, bad URL).
    pub may_have_arrived: bool,
    /// `timeout`, `connect` or `transport`.
    pub label: &'static str,
    /// For a human; holds no secret.
    pub detail: String,
}

/// Sends requests.
pub trait Http {
    /// Sends `request` by POST and reads the answer to its end.
    ///
    /// # Errors
    /// [`SendFault`] where there is no complete answer within the deadline.
    fn post(&self, request: HttpRequest<'_>) -> impl Future<Output = Result<HttpReply, SendFault>>;
}
