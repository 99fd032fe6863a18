//! One keep-alive connection to the edge.

use super::identity::Identity;
use super::outcome::{ClaimOutcome, UndecidedReason, parse_response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// No response of the API comes near this size.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Where and how to claim. Shared by all connections.
pub struct Endpoint {
    authority: String,
    host: HeaderValue,
    path: Uri,
    campaign: String,
    identity: Identity,
    timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("`{0}` is not valid; expected http://host:port")]
    Url(String),
    // TLS would cost the driver more than the request itself.
    #[error("`{0}` needs TLS and burst supports only http://; use the address of the edge inside its own network")]
    Tls(String),
}

impl Endpoint {
    /// `url` is the address of the edge; `timeout` bounds one request.
    ///
    /// # Errors
    /// If `url` is not supported.
    pub fn new(url: &str, campaign: &str, identity: Identity, timeout: Duration) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(EndpointError::Tls(url.to_owned())),
            _ => return Err(bad()),
        }
        let host = uri.authority().map(|a| a.as_str().to_owned()).filter(|a| !a.contains('@')).ok_or_else(bad)?;
        let authority = if uri.port_u16().is_some() { host.clone() } else { format!("{host}:80") };
        let base = uri.path().trim_end_matches('/');
        Ok(Self {
            authority,
            host: HeaderValue::from_str(&host).map_err(|_| bad())?,
            path: format!("{base}/v1/campaigns/{campaign}/claims").parse().map_err(|_| bad())?,
            campaign: campaign.to_owned(),
            identity,
            timeout,
        })
    }

    fn request(&self, user: &str) -> Option<Request<Empty<Bytes>>> {
        let (name, value) = self.identity.header(user)?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static("dropgate-burst"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(name, value);
        Some(request)
    }
}

/// A keep-alive connection that is opened when it is needed and reopened when it breaks.
#[derive(Default)]
pub struct Connection(Option<SendRequest<Empty<Bytes>>>);

impl Connection {
    /// Opens the connection if it is not open.
    ///
    /// # Errors
    /// If it cannot be opened before the deadline.
    pub async fn open(&mut self, endpoint: &Endpoint, deadline: Instant) -> std::io::Result<()> {
        if let Some(sender) = &mut self.0
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.0 = None;
        let opened = timeout_at(deadline, TcpStream::connect(&endpoint.authority)).await;
        let stream = opened.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // When it ends, the next request finds a closed sender and opens the connection again.
        tokio::spawn(connection);
        self.0 = Some(sender);
        Ok(())
    }

    /// Claims for `user`. Every failure is an outcome too.
    pub async fn claim(&mut self, endpoint: &Endpoint, user: &str) -> ClaimOutcome {
        let deadline = Instant::now() + endpoint.timeout;
        let Some(mut request) = endpoint.request(user) else {
            return ClaimOutcome::Invalid { status: 0, what: "a user id that is not valid in a header".into() };
        };
        // The server may close an idle connection at the moment of its use. A request that hyper hands
        // back was not sent, so it is sent once more over a new connection.
        for _ in 0..2 {
            if self.open(endpoint, deadline).await.is_err() {
                return ClaimOutcome::undecided(UndecidedReason::NoConnection);
            }
            let Some(sender) = &mut self.0 else { continue };
            match timeout_at(deadline, exchange(sender, request, &endpoint.campaign)).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(Some(unsent))) => {
                    self.0 = None;
                    request = *unsent;
                }
                Ok(Err(None)) => {
                    self.0 = None;
                    return ClaimOutcome::undecided(UndecidedReason::Broken);
                }
                Err(_) => {
                    // The late response is never read, so this connection cannot be used again.
                    self.0 = None;
                    return ClaimOutcome::undecided(UndecidedReason::Timeout);
                }
            }
        }
        ClaimOutcome::undecided(UndecidedReason::NoConnection)
    }
}

type Unsent = Option<Box<Request<Empty<Bytes>>>>;

async fn exchange(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    campaign: &str,
) -> Result<ClaimOutcome, Unsent> {
    let response = sender.try_send_request(request).await.map_err(|mut e| e.take_message().map(Box::new))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_LIMIT_BYTES).collect().await.map_err(|_| None)?.to_bytes();
    let retry_after = head.headers.get(RETRY_AFTER).map(HeaderValue::as_bytes);
    Ok(parse_response(head.status.as_u16(), retry_after, &body, campaign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::new(url, "spring", Identity::InsecureHeader, Duration::from_secs(1))
    }

    #[test]
    fn addresses() {
        let plain = endpoint("http://127.0.0.1:8787").unwrap();
        assert_eq!((plain.authority.as_str(), plain.path.path()), ("127.0.0.1:8787", "/v1/campaigns/spring/claims"));
        let based = endpoint("http://edge.local/base/").unwrap();
        assert_eq!(
            (based.authority.as_str(), based.path.path()),
            ("edge.local:80", "/base/v1/campaigns/spring/claims")
        );
        assert!(matches!(endpoint("https://edge.example"), Err(EndpointError::Tls(_))));
        for bad in ["", "127.0.0.1:8787", "ftp://x", "http://", "http://user:pw@host"] {
            assert!(matches!(endpoint(bad), Err(EndpointError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn a_request_has_a_user_and_no_body() {
        let request = endpoint("http://127.0.0.1:8787").unwrap().request("u-1").unwrap();
        assert_eq!(request.method(), Method::POST);
        for (name, value) in [("x-user-id", "u-1"), ("content-length", "0"), ("host", "127.0.0.1:8787")] {
            assert_eq!(request.headers().get(name).unwrap(), value, "{name}");
        }
    }
}
