//! Does what Cloudflare's cron does: makes the gate forward the outbox entries that are due.

use crate::http::http_client;
use anyhow::Result;
use std::time::Duration;

/// Once a minute on Cloudflare. More often here, so that a user does not wait for it.
const INTERVAL: Duration = Duration::from_secs(5);

pub async fn run_once(edge_url: &str) -> Result<()> {
    http_client().get(format!("{edge_url}/__scheduled")).send().await?.error_for_status()?;
    Ok(())
}

/// Never returns.
pub async fn run_forever(edge_url: &str) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        // The gate logs its errors, and the next run follows.
        let _ = run_once(edge_url).await;
    }
}
