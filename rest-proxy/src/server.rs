//! Two REST gateways for one machine and for self-hosting: [`redis_rest`] speaks the Upstash Redis
//! REST API over a plain Redis, [`kafka_rest`] the portable part of the Kafka REST v2 API over a
//! plain Kafka. Neither speaks TLS: they listen on loopback, or behind something that does.

pub mod kafka_rest;
pub mod redis_rest;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::serve::ListenerExt;
use serde::Serialize;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The environment variable that holds the token of either gateway.
pub const TOKEN_ENV: &str = "DROPGATE_GATEWAY_TOKEN";

/// How long [`serve`] waits for requests in flight once it was asked to stop.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Why a gateway does not start. Every message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The token is empty.
    #[error("the gateway needs a token that is not empty: set {TOKEN_ENV} or --token")]
    EmptyToken,
    /// Somebody else listens there.
    #[error("port {port} of {ip} is taken: stop what listens there (`ss -ltnp 'sport = :{port}'` names it) or give --listen {ip}:ANOTHER_PORT", ip = .0.ip(), port = .0.port())]
    PortTaken(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {cause}; give another address with --listen")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The upstream's address or settings make no sense.
    #[error("{setting} is not usable: {cause}")]
    Setting {
        /// The environment variable or option.
        setting: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// The upstream did not answer within the bounded wait.
    #[error("{url} did not answer within {waited_s} s ({cause}): start it, or point {env} at one that runs")]
    Unreachable {
        /// The upstream's address, without its password.
        url: String,
        /// The variable that holds the address.
        env: &'static str,
        /// Seconds waited.
        waited_s: u64,
        /// The last error.
        cause: String,
    },
}

/// The secret that callers show. Compared in constant time, never printed.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    /// A token.
    ///
    /// # Errors
    /// [`GatewayError::EmptyToken`]: an empty one would let everybody in.
    pub fn new(token: &str) -> Result<Self, GatewayError> {
        match token.trim() {
            "" => Err(GatewayError::EmptyToken),
            token => Ok(Self(token.as_bytes().into())),
        }
    }

    /// Whether `candidate` is this token. Takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.ct_eq(candidate).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// What a gateway has been asked for since its start; `GET /statz` tells. Only callers with the token
/// count.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    /// Requests.
    requests: AtomicU64,
    /// Commands or records in them.
    items: AtomicU64,
}

impl Counters {
    /// A request with this many commands or records.
    pub fn asked(&self, items: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.items.fetch_add(items as u64, Relaxed);
    }
}

/// Listens on `addr`.
///
/// # Errors
/// [`GatewayError::PortTaken`] or [`GatewayError::Listen`].
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, GatewayError> {
    TcpListener::bind(addr).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => GatewayError::PortTaken(addr),
        _ => GatewayError::Listen { addr, cause },
    })
}

/// Serves `router` until `shutdown` completes; requests in flight then have [`DRAIN`] to finish.
///
/// # Errors
/// What accepting connections failed with.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Answers are small and complete: waiting to fill a packet would only add latency.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY refused");
        }
    });
    let (stopping, asked) = oneshot::channel();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = stopping.send(());
    });
    let deadline = async {
        if asked.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = deadline => {
            tracing::warn!("requests were still in flight {} s after the stop signal", DRAIN.as_secs());
            Ok(())
        }
    }
}

/// Completes at SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing the requests in flight"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing the requests in flight"),
        }
    })
}

/// `url` as it may be printed: without user, password and query.
#[must_use]
pub fn redact(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(before, _)| before);
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

/// The credentials of an `Authorization` header of the given scheme (schemes ignore case).
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (given, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_matches_itself_only_and_is_never_printed() {
        let token = Token::new("s3cret").unwrap();
        assert!(token.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3cretX"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong:?}");
        }
        assert!(!format!("{token:?}").contains("s3cret"));
        assert!(matches!(Token::new("  "), Err(GatewayError::EmptyToken)));
    }

    #[test]
    fn redact_drops_whatever_may_be_secret() {
        for (url, printed) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:pa@ss@db:6379/0", "redis://***@db:6379/0"),
            ("rediss://user:pw@db:6380?password=x", "rediss://***@db:6380"),
            ("127.0.0.1:9092", "127.0.0.1:9092"),
        ] {
            assert_eq!(redact(url), printed);
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let held = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = held.local_addr().unwrap();
        let message = listen(addr).await.unwrap_err().to_string();
        assert!(message.contains(&format!("port {}", addr.port())), "{message}");
        assert!(message.contains("--listen"), "{message}");
    }
}
