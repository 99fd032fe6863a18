use std::sync::OnceLock;

/// The HTTP client of this process; it keeps connections.
pub fn http_client() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // An error means that a provider was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    })
}
