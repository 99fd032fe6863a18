//! A request as the gate sees it, and what its answer carries whatever it says.

use crate::http::response::Response;

/// A longer address is refused before anything looks at it.
pub const URL_LIMIT_BYTES: usize = 2_048;

/// The parts of a request that the gate looks at.
pub struct Request<'a> {
    /// Method, upper case.
    pub method: &'a str,
    /// Absolute URL.
    pub url: &'a str,
    /// A header's value by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

impl Request<'_> {
    /// The path within the URL, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        // "https://host/path?query": the third slash. A plain path has none before it.
        let mut slashes = self.url.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let begins = if self.url.starts_with('/') { Some(0) } else { slashes.nth(2) };
        let path = begins.and_then(|at| self.url.get(at..)).unwrap_or("/");
        let end = path.bytes().position(|byte| byte == b'?' || byte == b'#');
        end.and_then(|end| path.get(..end)).unwrap_or(path)
    }

    /// The W3C trace context, if it is one (version 00).
    #[must_use]
    pub fn trace(&self) -> Option<String> {
        (self.header)("traceparent").filter(|text| is_trace(text))
    }
}

fn is_trace(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let named = |part: &str, digits: usize| hex(part, digits) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
    matches!(parts, [Some("00"), Some(trace), Some(span), Some(flags), None]
        if named(trace, 32) && named(span, 16) && hex(flags, 2))
}

/// What an answer carries whatever it says: the request's id, and leave for the page that asked to
/// read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommonHeaders {
    /// Told in the answer and in the log.
    pub request_id: Option<String>,
    /// The page's origin, where it is on the list.
    pub origin: Option<String>,
    /// Answers differ by origin, so whoever keeps them must know.
    pub varies: bool,
}

impl CommonHeaders {
    /// Reads it out of a request. `origins`: the pages that may read answers.
    #[must_use]
    pub fn of(request: &Request<'_>, origins: &[String]) -> Self {
        let varies = !origins.is_empty();
        let origin = varies.then(|| (request.header)("origin")).flatten();
        Self {
            request_id: (request.header)("x-request-id").filter(|id| is_request_id(id)),
            origin: origin.filter(|origin| origins.contains(origin)),
            varies,
        }
    }

    /// Whether there is nothing to add.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request_id.is_none() && !self.varies
    }

    /// The headers to add to an answer.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let id = self.request_id.as_deref().map(|id| ("x-request-id", id));
        let vary = self.varies.then_some(("vary", "origin"));
        let origin = self.origin.as_deref().into_iter().flat_map(|origin| {
            [
                ("access-control-allow-origin", origin),
                ("access-control-expose-headers", "location, retry-after, x-request-id"),
            ]
        });
        id.into_iter().chain(vary).chain(origin)
    }

    /// The answer to OPTIONS at an address that takes `allowed`.
    #[must_use]
    pub fn options(&self, allowed: &str) -> Response {
        let response = Response::empty(204, "options").with("allow", allowed);
        if self.origin.is_none() {
            return response;
        }
        response
            .with("access-control-allow-methods", allowed)
            .with(
                "access-control-allow-headers",
                "authorization, content-type, traceparent, x-request-id, x-user-id, x-challenge",
            )
            .with("access-control-max-age", "86400")
    }
}

fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, headers: &[(&str, &str)], then: impl FnOnce(&Request<'_>)) {
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        then(&Request { method: "GET", url, header: &header });
    }

    #[test]
    fn a_path_is_what_stands_between_host_and_query() {
        for (url, path) in [
            ("https://drop.example/v1/x?y=/z#a", "/v1/x"),
            ("https://drop.example", "/"),
            ("https://drop.example?x", "/"),
            ("/healthz", "/healthz"),
        ] {
            request(url, &[], |request| assert_eq!(request.path(), path, "{url}"));
        }
    }

    #[test]
    fn a_trace_context_is_taken_over_only_if_it_is_one() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        request("/", &[("traceparent", good)], |request| assert_eq!(request.trace().as_deref(), Some(good)));
        for bad in [
            "nonsense",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        ] {
            request("/", &[("traceparent", bad)], |request| assert_eq!(request.trace(), None, "{bad}"));
        }
    }

    #[test]
    fn only_pages_on_the_list_may_read() {
        let origins = ["https://shop.example".to_owned()];
        let headers = [("origin", "https://shop.example"), ("x-request-id", "abc")];
        request("/", &headers, |request| {
            let common_headers = CommonHeaders::of(request, &origins);
            assert_eq!(common_headers.origin.as_deref(), Some("https://shop.example"));
            assert!(
                common_headers
                    .headers()
                    .any(|header| header == ("access-control-allow-origin", "https://shop.example"))
            );
            assert!(
                common_headers.options("POST").headers.iter().any(|(name, _)| *name == "access-control-allow-headers")
            );
        });
        for origin in ["https://shop.example.evil", "https://SHOP.example", "null", "http://shop.example"] {
            request("/", &[("origin", origin), ("x-request-id", "a b")], |request| {
                let common_headers = CommonHeaders::of(request, &origins);
                assert_eq!(common_headers.headers().collect::<Vec<_>>(), [("vary", "origin")], "{origin}");
            });
        }
        request("/", &headers[..1], |request| assert!(CommonHeaders::of(request, &[]).is_empty()));
    }
}
