//! `issuer probe`: checks an issuer running on this host. An image without a shell has no other means for it.

use super::exit::Exit;
use super::output::say;
use crate::cli::verbs::ProbeArgs;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the issuer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Probes, and prints the response.
///
/// # Errors
/// [`Exit`] where the issuer is not alive, not ready, or does not respond.
pub async fn probe(args: &ProbeArgs) -> Result<(), Exit> {
    if args.http_listen.trim() == "off" {
        say!("HTTP_LISTEN is off: nothing to probe");
        return Ok(());
    }
    let address: SocketAddr = args.http_listen.parse().map_err(|_| {
        Exit::usage(format!(
            "HTTP_LISTEN {:?} is not an address with a port; expected that of `issuer run`, such as 127.0.0.1:9464",
            args.http_listen
        ))
    })?;
    // An issuer that listens on all addresses listens on this one.
    let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
    let path = if args.ready { "readyz" } else { "livez" };
    let url = format!("http://{host}:{}/{path}", address.port());
    let asked = reqwest::Client::new().get(&url).timeout(ANSWER_WITHIN).send().await;
    let answer = asked.map_err(|e| Exit::failed(format!("{url} does not respond: {e}")))?;
    let good = answer.status().is_success();
    say!("{}", answer.text().await.unwrap_or_default().trim());
    if good { Ok(()) } else { Err(Exit::failed(String::new())) }
}
