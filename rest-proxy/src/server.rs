//! What both proxies share: listening, serving until the stop signal, and counting requests.

use crate::error::StartError;
use axum::Router;
use axum::serve::ListenerExt;
use serde::Serialize;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How long [`serve`] waits for requests in flight after the stop signal.
pub const DRAIN: Duration = Duration::from_secs(20);

/// What a proxy has served since its start, for `GET /statz`. Requests without the token do not count.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counters {
    requests: AtomicU64,
    /// Redis commands or Kafka records.
    items: AtomicU64,
}

impl Counters {
    /// Counts one request with this many commands or records.
    pub(crate) fn count(&self, items: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.items.fetch_add(items as u64, Relaxed);
    }
}

/// Listens on `addr`.
///
/// # Errors
/// [`StartError::PortTaken`] or [`StartError::Listen`].
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken(addr),
        _ => StartError::Listen { addr, cause },
    })
}

/// Serves `router` until `shutdown` completes; requests in flight then have [`DRAIN`] to finish.
///
/// # Errors
/// The error of accepting connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Responses are small and complete: waiting to fill a packet would only add latency.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not available");
        }
    });
    let (stopping, stop_begun) = oneshot::channel();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = stopping.send(());
    });
    let deadline = async {
        if stop_begun.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = deadline => {
            tracing::warn!("requests were still in flight {} s after the stop signal; they are dropped", DRAIN.as_secs());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_remedy() {
        let held = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = held.local_addr().unwrap();
        let message = listen(addr).await.unwrap_err().to_string();
        assert!(message.contains(&format!("port {}", addr.port())), "{message}");
        assert!(message.contains("--listen"), "{message}");
    }
}
