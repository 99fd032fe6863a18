//! The port for outgoing requests: `fetch` on Workers, a client library natively.

use crate::fault::{Effect, Fault, Source};
use std::future::Future;

/// A POST request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// Absolute URL.
    pub url: &'a str,
    /// Headers, name and value.
    pub headers: Vec<(&'static str, &'a str)>,
    /// The body.
    pub body: String,
    /// Time limit for the whole response, in ms.
    pub deadline_ms: u32,
}

/// A response, its body read to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// There was no complete response within the deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendFault {
    /// False only where the request certainly never left (connection refused, invalid URL).
    pub may_have_arrived: bool,
    /// `timeout`, `connect` or `transport`.
    pub label: &'static str,
    /// For a human; holds no secret.
    pub detail: String,
}

impl SendFault {
    /// The fault of a call to `source`.
    #[must_use]
    pub fn at(self, source: Source) -> Fault {
        let effect = if self.may_have_arrived { Effect::Unknown } else { Effect::None };
        Fault { effect, retry: true, source, label: self.label, detail: self.detail }
    }
}

/// Sends requests.
pub trait Http {
    /// Sends `request` by POST and reads the response to its end.
    ///
    /// # Errors
    /// [`SendFault`] where there is no complete response within the deadline.
    fn post(&self, request: HttpRequest<'_>) -> impl Future<Output = Result<HttpResponse, SendFault>>;
}
