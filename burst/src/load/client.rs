//! One keep-alive connection to the edge.

use crate::load::identity::Identity;
use crate::load::outcome::{Cause, Outcome, read};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// No answer of the API comes near this size.
const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Where and how to claim. Shared by all connections.
pub struct Target {
    authority: String,
    host: HeaderValue,
    path: Uri,
    campaign: String,
    identity: Identity,
    timeout: Duration,
}

/// The address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL of the form that is wanted.
    #[error("`{0}` is no address of the form http://host:port")]
    Url(String),
    /// TLS would cost the driver more than the request itself.
    #[error("burst speaks plain HTTP only, and `{0}` wants TLS: point it at the edge inside its own network")]
    Tls(String),
}

impl Target {
    /// Claims of `campaign` at the edge at `url`; `timeout` bounds one request.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn new(url: &str, campaign: &str, identity: Identity, timeout: Duration) -> Result<Self, TargetError> {
        let bad = || TargetError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(TargetError::Tls(url.to_owned())),
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

/// A connection that is opened when it is needed and reopened when it breaks.
#[derive(Default)]
pub struct Connection(Option<SendRequest<Empty<Bytes>>>);

impl Connection {
    /// Opens the connection if it is not open.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub async fn open(&mut self, target: &Target, deadline: Instant) -> std::io::Result<()> {
        if let Some(sender) = &mut self.0
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.0 = None;
        let opened = timeout_at(deadline, TcpStream::connect(&target.authority)).await;
        let stream = opened.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Its end shows at the next request: a closed sender, and the connection is opened again.
        tokio::spawn(connection);
        self.0 = Some(sender);
        Ok(())
    }

    /// Claims for `user`. Whatever happens is an outcome.
    pub async fn claim(&mut self, target: &Target, user: &str) -> Outcome {
        let deadline = Instant::now() + target.timeout;
        let Some(mut request) = target.request(user) else {
            return Outcome::Odd { status: 0, what: "a user id that cannot stand in a header".into() };
        };
        // An idle connection may be closed by the server just as it is used. A request that hyper
        // hands back has not left, so another connection carries it, once.
        for _ in 0..2 {
            if self.open(target, deadline).await.is_err() {
                return Outcome::undecided(Cause::NoConnection);
            }
            let Some(sender) = &mut self.0 else { continue };
            match timeout_at(deadline, exchange(sender, request, &target.campaign)).await {
                Ok(Ok(outcome)) => return outcome,
                Ok(Err(Some(unsent))) => {
                    self.0 = None;
                    request = *unsent;
                }
                Ok(Err(None)) => {
                    self.0 = None;
                    return Outcome::undecided(Cause::Broken);
                }
                Err(_) => {
                    // The answer may still come; nobody reads it. This connection is of no more use.
                    self.0 = None;
                    return Outcome::undecided(Cause::Timeout);
                }
            }
        }
        Outcome::undecided(Cause::NoConnection)
    }
}

type Unsent = Option<Box<Request<Empty<Bytes>>>>;

async fn exchange(
    sender: &mut SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    campaign: &str,
) -> Result<Outcome, Unsent> {
    let answer = sender.try_send_request(request).await.map_err(|mut e| e.take_message().map(Box::new))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, BODY_LIMIT_BYTES).collect().await.map_err(|_| None)?.to_bytes();
    let retry_after = head.headers.get(RETRY_AFTER).map(HeaderValue::as_bytes);
    Ok(read(head.status.as_u16(), retry_after, &body, campaign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, TargetError> {
        Target::new(url, "spring", Identity::InsecureHeader, Duration::from_secs(1))
    }

    #[test]
    fn addresses() {
        let plain = target("http://127.0.0.1:8787").unwrap();
        assert_eq!((plain.authority.as_str(), plain.path.path()), ("127.0.0.1:8787", "/v1/campaigns/spring/claims"));
        let based = target("http://edge.local/base/").unwrap();
        assert_eq!(
            (based.authority.as_str(), based.path.path()),
            ("edge.local:80", "/base/v1/campaigns/spring/claims")
        );
        assert!(matches!(target("https://edge.example"), Err(TargetError::Tls(_))));
        for bad in ["", "127.0.0.1:8787", "ftp://x", "http://", "http://user:pw@host"] {
            assert!(matches!(target(bad), Err(TargetError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn a_request_says_who_asks_and_that_it_has_no_body() {
        let request = target("http://127.0.0.1:8787").unwrap().request("u-1").unwrap();
        assert_eq!(request.method(), Method::POST);
        for (name, value) in [("x-user-id", "u-1"), ("content-length", "0"), ("host", "127.0.0.1:8787")] {
            assert_eq!(request.headers().get(name).unwrap(), value, "{name}");
        }
    }
}
