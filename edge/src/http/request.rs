//! A request, as far as the gate reads it.

/// A longer URL is rejected before it is parsed.
pub const URL_LIMIT_BYTES: usize = 2_048;

pub struct Request<'a> {
    /// Upper case.
    pub method: &'a str,
    /// Absolute.
    pub url: &'a str,
    /// Returns a header's value by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<String>,
}

impl Request<'_> {
    /// The path within the URL, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        // "https://host/path?query": the third slash. A URL that is only a path has none before it.
        let mut slashes = self.url.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let begins = if self.url.starts_with('/') { Some(0) } else { slashes.nth(2) };
        let path = begins.and_then(|at| self.url.get(at..)).unwrap_or("/");
        let end = path.bytes().position(|byte| byte == b'?' || byte == b'#');
        end.and_then(|end| path.get(..end)).unwrap_or(path)
    }

    /// Whether a person asks, with a browser.
    #[must_use]
    pub fn accepts_html(&self) -> bool {
        (self.header)("accept").is_some_and(|types| types.starts_with("text/html"))
    }

    /// `traceparent` (W3C Trace Context, version 00), if it is valid.
    #[must_use]
    pub fn trace(&self) -> Option<String> {
        (self.header)("traceparent").filter(|text| is_trace(text))
    }
}

fn is_trace(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let id = |part: &str, digits: usize| hex(part, digits) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
    matches!(parts, [Some("00"), Some(trace), Some(span), Some(flags), None]
        if id(trace, 32) && id(span, 16) && hex(flags, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_text_between_host_and_query() {
        for (url, path) in [
            ("https://drop.example/v1/x?y=/z#a", "/v1/x"),
            ("https://drop.example", "/"),
            ("https://drop.example?x", "/"),
            ("/healthz", "/healthz"),
        ] {
            assert_eq!(Request { method: "GET", url, header: &|_| None }.path(), path, "{url}");
        }
    }

    #[test]
    fn an_invalid_trace_context_is_ignored() {
        let trace = |value: &str| {
            let header = |name: &str| (name == "traceparent").then(|| value.to_owned());
            Request { method: "GET", url: "/", header: &header }.trace()
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace(good).as_deref(), Some(good));
        for bad in [
            "nonsense",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }
}
