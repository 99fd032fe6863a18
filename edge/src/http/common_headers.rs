//! Headers that every response to a request has: the request's id, and permission for a page of another host to read
//! the response (CORS).

use crate::http::request::Request;
use crate::http::response::Response;
use crate::labels::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommonHeaders {
    /// `X-Request-Id` of the request, repeated in the response and in the log.
    pub request_id: Option<String>,
    /// The page's origin, if it is on the list.
    origin: Option<String>,
    /// Responses differ by origin, so caches must separate them.
    varies: bool,
}

impl CommonHeaders {
    /// Reads them out of a request. `origins`: the pages that may read responses.
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

    /// Whether [`CommonHeaders::apply_to`] would add nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request_id.is_none() && !self.varies
    }

    pub fn apply_to(&self, response: &mut Response) {
        response.headers.extend(self.headers().map(|(name, value)| (name, value.to_owned())));
    }

    fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
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

    /// The response to OPTIONS at a URL that accepts the methods `allowed`.
    #[must_use]
    pub fn options(&self, allowed: &str) -> Response {
        let response = Response::empty(204, Outcome::Options).with("allow", allowed);
        if self.origin.is_none() {
            return response;
        }
        response
            .with("access-control-allow-methods", allowed)
            .with(
                "access-control-allow-headers",
                "authorization, content-type, traceparent, tracestate, baggage, x-request-id, x-user-id, x-challenge",
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

    fn of(headers: &[(&str, &str)], origins: &[String]) -> CommonHeaders {
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        CommonHeaders::of(&Request { method: "GET", url: "/", header: &header }, origins)
    }

    #[test]
    fn only_pages_on_the_list_may_read() {
        let origins = ["https://shop.example".to_owned()];
        let headers = [("origin", "https://shop.example"), ("x-request-id", "abc")];
        let common = of(&headers, &origins);
        assert_eq!(common.origin.as_deref(), Some("https://shop.example"));
        assert!(common.headers().any(|header| header == ("access-control-allow-origin", "https://shop.example")));
        let options = common.options("POST");
        let allowed = options.headers.iter().find(|(name, _)| *name == "access-control-allow-headers").unwrap();
        // All of W3C Trace Context and Baggage: a tracer that adds one that is missing breaks every claim of the page.
        for name in ["authorization", "traceparent", "tracestate", "baggage"] {
            assert!(allowed.1.split(", ").any(|one| one == name), "{name}");
        }
        for origin in ["https://shop.example.evil", "https://SHOP.example", "null", "http://shop.example"] {
            let common = of(&[("origin", origin), ("x-request-id", "a b")], &origins);
            assert_eq!(common.headers().collect::<Vec<_>>(), [("vary", "origin")], "{origin}");
        }
        assert!(of(&headers[..1], &[]).is_empty());
    }
}
