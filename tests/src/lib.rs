//! Harness of the end-to-end tests: the whole system on real servers, in a folder of its own and on free
//! ports, stopped when the test ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod chaos;
pub mod fault_proxy;
pub mod issuers;
pub mod tokens;

use dropgate_devstack::{Paths, Stack};
use serde_json::Value;
use sqlx::MySqlPool;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The folder of the checkout.
#[must_use]
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folder of the native programs, as `make build` leaves them.
#[must_use]
pub fn programs() -> PathBuf {
    // target/debug/deps/TEST, or target/service/PROGRAM
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|folder| folder.join("service").is_dir());
    target.expect("target/service does not exist: run `make build`").join("service")
}

/// Waits until `condition` is true. A test waits for a condition, never for time to pass.
///
/// # Panics
/// If it is not true within a minute; the message names the condition.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    until_within(Duration::from_secs(60), what, condition).await;
}

/// The same, where the system itself takes its time.
pub async fn until_within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "timeout: waited {limit:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A response of the gate.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Null if it is not JSON.
    pub body: Value,
    pub retry_after: Option<String>,
}

impl Response {
    /// The last part of the problem type.
    #[must_use]
    pub fn problem(&self) -> &str {
        self.body["type"].as_str().and_then(|t| t.rsplit(':').next()).unwrap_or_default()
    }
}

/// The running system.
pub struct System {
    pub stack: Stack,
    pub mysql: MySqlPool,
    http: reqwest::Client,
}

impl System {
    /// Starts everything, with data and logs in `target/e2e/NAME`.
    pub async fn start(name: &str) -> Self {
        let dir = programs().parent().unwrap().join("e2e").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        let paths = Paths::new(repo(), &programs(), &dir).unwrap();
        let stack = Stack::start(paths, &mut |line| println!("{line}")).await.unwrap();
        let mysql = MySqlPool::connect_lazy(&stack.endpoints.database_url).unwrap();
        let http = dropgate_devstack::http_client().clone();
        Self { stack, mysql, http }
    }

    /// Stops everything with SIGTERM, in the reverse order of the start.
    pub async fn stop(self) {
        self.mysql.close().await;
        self.stack.stop().await.unwrap();
    }

    /// Creates and publishes a campaign.
    #[must_use]
    pub fn campaign(&self, capacity: u32) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let id = format!("test-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.stack.run_issuer(&["campaign", "create", &id, "--capacity", &capacity.to_string()]).unwrap();
        self.stack.run_issuer(&["campaign", "publish", &id]).unwrap();
        id
    }

    /// A URL of the gate.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.stack.endpoints.edge_url)
    }

    /// Sends a request and reads the response.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Response {
        let response = request.send().await.unwrap();
        let retry_after = response.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        Response {
            status: response.status().as_u16(),
            retry_after,
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
        }
    }

    /// A request to the gate.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    /// Claims a coupon.
    pub async fn claim(&self, campaign: &str, user: &str) -> Response {
        let path = format!("/v1/campaigns/{campaign}/claims");
        let user = reqwest::header::HeaderValue::from_bytes(user.as_bytes()).unwrap();
        self.send(self.request(reqwest::Method::POST, &path).header("x-user-id", user)).await
    }

    /// Runs a command on Redis, through the REST proxy.
    pub async fn redis(&self, command: &[&str]) -> Value {
        let at = &self.stack.endpoints;
        let request = self.http.post(&at.redis_rest_url).bearer_auth(&at.redis_rest_token).json(command);
        let response = self.send(request).await;
        assert_eq!(response.status, 200, "{response:?}");
        response.body["result"].clone()
    }

    /// Number of a campaign's entries in the outbox.
    pub async fn outbox_len(&self, campaign: &str) -> u64 {
        self.redis(&["ZCARD", &format!("dg:{{{campaign}}}:outbox")]).await.as_u64().unwrap()
    }

    /// Makes every lease of a campaign's outbox end now.
    pub async fn expire_leases(&self, campaign: &str) {
        let outbox = format!("dg:{{{campaign}}}:outbox");
        let users = self.redis(&["ZRANGE", &outbox, "0", "-1"]).await;
        for user in users.as_array().unwrap() {
            self.redis(&["ZADD", &outbox, "XX", "0", user.as_str().unwrap()]).await;
        }
    }

    pub async fn coupon_count(&self, campaign: &str) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT COUNT(*) FROM coupons WHERE campaign_id = ?")
            .bind(campaign)
            .fetch_one(&self.mysql)
            .await
    }

    /// A crowd, not yet started. It exits with 0 only if its verdict is that every promise was kept.
    #[must_use]
    pub fn burst(&self, campaign: &str, capacity: u32, users: u32) -> tokio::process::Command {
        let mut burst = tokio::process::Command::new(programs().join("burst"));
        burst
            .args(["run", "--url", &self.stack.endpoints.edge_url, "--campaign", campaign])
            .args(["--capacity", &capacity.to_string(), "--users", &users.to_string(), "--repeats", "0.2"])
            .env("DATABASE_URL", &self.stack.endpoints.database_url)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        burst
    }
}
