//! URLs for logs and messages.

use url::Url;

/// What of a URL is known to be harmless: scheme, host and port, and of a database its name. Never the user, the path
/// of an HTTP address or the query: tokens are found in all of them. A `/`, `?` or `#` that is not escaped ends the
/// authority early, so that an `@` after it may mean that part of a password is taken for a host: then only the scheme
/// is shown.
#[must_use]
pub fn redacted(url: &str) -> String {
    let Some(parsed) = Url::parse(url).ok().filter(|_| url.contains("://")) else { return "***".to_owned() };
    let scheme = parsed.scheme();
    let after_authority = [Some(parsed.path()), parsed.query(), parsed.fragment()];
    let has_at = |part: &str| part.contains('@') || part.contains("%40");
    let Some(host) = parsed.host_str().filter(|_| !after_authority.into_iter().flatten().any(has_at)) else {
        return format!("{scheme}://***");
    };
    let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
    let database = if scheme.starts_with("http") { "" } else { parsed.path().trim_end_matches('/') };
    format!("{scheme}://{host}{port}{database}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redacted("mysql://u:p%40ss@h:3306/db"), "mysql://h:3306/db");
        assert_eq!(redacted("mysql://u:p@ss@h/db?ssl-mode=required"), "mysql://h/db");
        assert_eq!(redacted("mysql://u@h/db"), "mysql://h/db");
        assert_eq!(redacted("mysql://h/db"), "mysql://h/db");
        assert!(!redacted("mysql://u:se/cr@et@h/db").contains("cr"));
        assert!(!redacted("secret").contains("secret"));
    }

    #[test]
    fn nothing_that_may_be_a_password_is_taken_for_a_host_or_a_path() {
        for url in [
            "mysql://u:12/cr@et@h/db",
            "mysql://u:12?cr@et@h/db",
            "mysql://u:12#cr@et@h/db",
            "secret:12@h",
            "mysql://u:12/cr%40et",
        ] {
            let shown = redacted(url);
            assert!(shown.ends_with("***") && !shown.contains("12") && !shown.contains("cr"), "{url}: {shown}");
        }
        assert_eq!(redacted("https://secret@h:4318/secret?token=secret#secret"), "https://h:4318");
        assert_eq!(redacted("http://h:4318"), "http://h:4318");
    }
}
