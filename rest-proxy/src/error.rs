use std::io;
use std::net::SocketAddr;

/// Why a proxy does not start. Every message ends with the remedy and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens on this address.
    #[error("port {port} of {ip} is taken: stop the process that uses it (`ss -ltnp 'sport = :{port}'` shows it) or choose another port with --listen {ip}:PORT", ip = .0.ip(), port = .0.port())]
    PortTaken(SocketAddr),
    /// The system does not allow listening on this address.
    #[error("cannot listen on {addr}: {cause}; choose another address with --listen")]
    Listen {
        /// The requested address.
        addr: SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
    /// The upstream's address or one of its settings is invalid.
    #[error("{setting} is invalid: {cause}")]
    Setting {
        /// The environment variable.
        setting: &'static str,
        /// What is expected instead.
        cause: String,
    },
    /// The upstream did not respond within the time allowed at start.
    #[error(
        "{upstream} did not respond within {waited_s} s ({cause}): start it, or set {env} to the address of a running one"
    )]
    Unreachable {
        /// What it is and its host and port, without credentials.
        upstream: String,
        /// The environment variable that holds the address.
        env: &'static str,
        /// Seconds waited.
        waited_s: u64,
        /// The last error.
        cause: String,
    },
}
