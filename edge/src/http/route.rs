//! Which part of the API a request is for.

use crate::http::response::Problem;
use dropgate_shared::ids::CampaignId;

/// A place of the API, with the method that was asked for already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/campaigns/{id}/claims`
    Claim(CampaignId),
    /// `GET /v1/campaigns/{id}/claims/me`
    OwnClaim(CampaignId),
    /// `GET /v1/campaigns/{id}`
    Campaign(CampaignId),
    /// `GET /healthz`
    Health,
    /// `OPTIONS` at a place that takes these methods.
    Options(&'static str),
}

impl Route {
    /// The route's pattern: a label with a bounded number of values, for logs and metrics.
    #[must_use]
    pub fn pattern(&self) -> &'static str {
        match self {
            Self::Claim(_) => "/v1/campaigns/{id}/claims",
            Self::OwnClaim(_) => "/v1/campaigns/{id}/claims/me",
            Self::Campaign(_) => "/v1/campaigns/{id}",
            Self::Health => "/healthz",
            Self::Options(_) => "OPTIONS",
        }
    }
}

/// Finds the route of `method` and `path` (without the query).
///
/// # Errors
/// [`Problem`]: nothing there, another method wanted, or a campaign id that cannot be one.
pub fn route(method: &str, path: &str) -> Result<Route, Problem> {
    let mut parts = path.trim_start_matches('/').split('/');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
    let campaign = |id: &str| CampaignId::parse(id).map_err(|e| Problem::BadRequest(e.to_string()));
    const READ: &str = "GET, HEAD, OPTIONS";
    const CLAIM: &str = "POST, OPTIONS";
    let (route, allowed): (Route, &'static str) = match parts {
        [Some("healthz"), None, ..] => (Route::Health, READ),
        [Some("v1"), Some("campaigns"), Some(id), None, ..] => (Route::Campaign(campaign(id)?), READ),
        [Some("v1"), Some("campaigns"), Some(id), Some("claims"), None, ..] => (Route::Claim(campaign(id)?), CLAIM),
        [Some("v1"), Some("campaigns"), Some(id), Some("claims"), Some("me"), None] => {
            (Route::OwnClaim(campaign(id)?), READ)
        }
        _ => return Err(Problem::NotFound),
    };
    if method == "OPTIONS" {
        Ok(Route::Options(allowed))
    } else if allowed.split(", ").any(|one| one == method) {
        Ok(route)
    } else {
        Err(Problem::Method { allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_route() {
        let id = CampaignId::parse("spring").unwrap();
        assert_eq!(route("POST", "/v1/campaigns/spring/claims"), Ok(Route::Claim(id.clone())));
        assert_eq!(route("GET", "/v1/campaigns/spring/claims/me"), Ok(Route::OwnClaim(id.clone())));
        assert_eq!(route("GET", "/v1/campaigns/spring"), Ok(Route::Campaign(id)));
        assert_eq!(route("HEAD", "/healthz"), Ok(Route::Health));
        assert_eq!(route("OPTIONS", "/v1/campaigns/spring/claims"), Ok(Route::Options("POST, OPTIONS")));
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(route("GET", "/v1/campaigns/spring/claims"), Err(Problem::Method { allowed: "POST, OPTIONS" }));
        assert_eq!(route("DELETE", "/healthz"), Err(Problem::Method { allowed: "GET, HEAD, OPTIONS" }));
        assert!(matches!(route("POST", "/v1/campaigns/Spring/claims"), Err(Problem::BadRequest(_))));
        assert!(matches!(route("POST", "/v1/campaigns//claims"), Err(Problem::BadRequest(_))));
        for method in ["", "GE", "OPTION", "POST, OPTIONS", "get"] {
            assert!(matches!(route(method, "/v1/campaigns/spring/claims"), Err(Problem::Method { .. })), "{method}");
        }
        for path in ["", "/v2", "/v1/campaigns", "/v1/campaigns/spring/claims/me/x", "/v1/campaigns/spring/x"] {
            assert_eq!(route("GET", path), Err(Problem::NotFound), "{path}");
        }
    }
}
