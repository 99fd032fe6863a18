//! The whole of dropgate on one machine, without containers: real servers as child processes, and the
//! two REST gateways that a hosted set-up would rent.

pub mod gateway;
pub mod stack;

use std::sync::OnceLock;

/// A client for the stack's own HTTP calls. One for the process: connections are kept.
pub fn http_client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // An error means that somebody has installed a provider before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    })
}
