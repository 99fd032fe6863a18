//! What the contract tests share: a real Redis of their own, a gateway in this process, and HTTP.
#![allow(dead_code)] // each test binary uses its part

use axum::Router;
use dropgate_local::gateway;
use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const TOKEN: &str = "a-token";

/// Polls until `probe` gives something; the only way these tests wait.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    dropgate_local::stack::ports::free().unwrap()
}

/// A `redis-server` of the test's own; it dies with this value.
pub struct RedisServer {
    pub port: u16,
    child: Child,
    dir: TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// On a given port, for coming back after an outage.
    pub async fn start_on(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(redis_program())
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir", dir.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let server = Self { port, child, dir };
        let client = redis::Client::open(server.url()).unwrap();
        until("redis-server answers PING", || async {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            redis::cmd("PING").exec_async(&mut connection).await.ok()
        })
        .await;
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash would, and returns its port.
    pub fn kill(self) -> u16 {
        self.port
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On the path, or where `make setup` puts it.
fn redis_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("DROPGATE_CACHE").map(PathBuf::from).or_else(|| {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("dropgate"))
    });
    std::env::split_paths(&path)
        .chain(cache.map(|cache| cache.join("bin")))
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.exists())
        .expect("redis-server is not installed: run `make setup`")
}

/// A client; connections are kept for the test only.
pub fn http() -> reqwest::Client {
    // Already installed by another test of this binary, or now.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A gateway that serves in this process, and a client that shows its token.
pub struct Gateway {
    pub url: String,
    http: reqwest::Client,
}

impl Gateway {
    pub async fn serve(router: Router) -> Self {
        let addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = gateway::listen(addr).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(gateway::serve(listener, router, std::future::pending()));
        Self { url, http: http() }
    }

    /// A request without a token.
    pub fn bare(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A request with the token.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.bare(method, path).bearer_auth(TOKEN)
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        answer(self.request(reqwest::Method::POST, path).body(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(reqwest::Method::GET, path)).await
    }
}

/// Status and JSON body of an answer.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("the gateway answers");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a whole body");
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
