//! `issuer probe`: asks a running issuer on this machine whether it lives, or is ready. An image without
//! a shell has nothing else to ask with.

use super::exit::Exit;
use super::output::say;
use crate::cli::verbs::ProbeArgs;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the issuer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks. What it answers goes to standard output.
///
/// # Errors
/// [`Exit`] where it does not live, is not ready, or cannot be asked.
pub async fn probe(args: &ProbeArgs) -> Result<(), Exit> {
    if args.http_listen.trim() == "off" {
        say!("HTTP_LISTEN is off: there is nobody to ask");
        return Ok(());
    }
    let right = "an address with a port, as issuer run has it: 127.0.0.1:9464";
    let address: SocketAddr =
        args.http_listen.parse().map_err(|_| Exit::usage(format!("HTTP_LISTEN must be {right}")))?;
    // Whoever listens on all addresses listens on this one.
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    let path = if args.ready { "readyz" } else { "livez" };
    let url = format!("http://{host}:{}/{path}", address.port());
    let asked = reqwest::Client::new().get(&url).timeout(ANSWER_WITHIN).send().await;
    let answer = asked.map_err(|e| Exit::failed(format!("{url} does not answer: {e}")))?;
    let good = answer.status().is_success();
    say!("{}", answer.text().await.unwrap_or_default().trim());
    if good { Ok(()) } else { Err(Exit::failed(String::new())) }
}
