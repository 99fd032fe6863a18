//! The routes of the API.

use crate::http::problem::Problem;
use crate::labels::RouteLabel;
use dropgate_shared::ids::CampaignId;

/// A route whose method is accepted.
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
    /// `OPTIONS` at a URL that accepts these methods.
    Options(&'static str),
}

impl Route {
    #[must_use]
    pub fn label(&self) -> RouteLabel {
        match self {
            Self::Claim(_) => RouteLabel::Claim,
            Self::OwnClaim(_) => RouteLabel::OwnClaim,
            Self::Campaign(_) => RouteLabel::Campaign,
            Self::Health => RouteLabel::Health,
            Self::Options(_) => RouteLabel::Options,
        }
    }
}

/// Finds the route of `method` and `path` (without the query).
///
/// # Errors
/// [`Problem`]: unknown path, method not allowed, or an invalid campaign id.
pub fn route(method: &str, path: &str) -> Result<Route, Problem> {
    let mut parts = path.trim_start_matches('/').split('/');
    let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
    let campaign = |id: &str| CampaignId::parse(id).map_err(|e| Problem::BadRequest(e.to_string()));
    const READ: &str = "GET, HEAD, OPTIONS";
    const CLAIM: &str = "POST, OPTIONS";
    let (route, allowed): (Result<Route, Problem>, &'static str) = match parts {
        [Some("healthz"), None, ..] => (Ok(Route::Health), READ),
        [Some("v1"), Some("campaigns"), Some(id), None, ..] => (campaign(id).map(Route::Campaign), READ),
        [Some("v1"), Some("campaigns"), Some(id), Some("claims"), None, ..] => (campaign(id).map(Route::Claim), CLAIM),
        [Some("v1"), Some("campaigns"), Some(id), Some("claims"), Some("me"), None] => {
            (campaign(id).map(Route::OwnClaim), READ)
        }
        _ => return Err(Problem::NotFound),
    };
    // Before the id is examined: a page that may not read the response to a preflight learns nothing from a 400.
    if method == "OPTIONS" {
        return Ok(Route::Options(allowed));
    }
    let route = route?;
    if allowed.split(", ").any(|one| one == method) { Ok(route) } else { Err(Problem::MethodNotAllowed { allowed }) }
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
        for id in ["spring", "Spring!", ""] {
            assert_eq!(route("OPTIONS", &format!("/v1/campaigns/{id}/claims")), Ok(Route::Options("POST, OPTIONS")));
        }
    }

    #[test]
    fn names_the_part_that_is_not_accepted() {
        let not_allowed = |allowed| Err(Problem::MethodNotAllowed { allowed });
        assert_eq!(route("GET", "/v1/campaigns/spring/claims"), not_allowed("POST, OPTIONS"));
        assert_eq!(route("DELETE", "/healthz"), not_allowed("GET, HEAD, OPTIONS"));
        assert!(matches!(route("POST", "/v1/campaigns/Spring/claims"), Err(Problem::BadRequest(_))));
        assert!(matches!(route("POST", "/v1/campaigns//claims"), Err(Problem::BadRequest(_))));
        for method in ["", "GE", "OPTION", "POST, OPTIONS", "get"] {
            let result = route(method, "/v1/campaigns/spring/claims");
            assert!(matches!(result, Err(Problem::MethodNotAllowed { .. })), "{method}");
        }
        for path in ["", "/v2", "/v1/campaigns", "/v1/campaigns/spring/claims/me/x", "/v1/campaigns/spring/x"] {
            assert_eq!(route("GET", path), Err(Problem::NotFound), "{path}");
        }
    }
}
