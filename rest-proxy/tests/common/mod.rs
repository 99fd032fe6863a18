//! What the contract tests share: a real Redis server, a proxy in this process, and an HTTP client.
#![allow(dead_code)] // each test binary uses a part of it

use axum::Router;
use dropgate_rest_proxy::{listen, serve};
use serde_json::Value;
use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const TOKEN: &str = "a-token";

/// Polls until `probe` returns a value; the only way these tests wait.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timeout: waited 20 s until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A port that nothing listens on. It is below the range of outgoing connections (32768 up on Linux), one
/// of which could otherwise take it before its server does.
pub fn free_port() -> u16 {
    let random = || u16::try_from(RandomState::new().hash_one(()) % 17_000).unwrap();
    let mut ports = std::iter::repeat_with(|| 15_000 + random()).take(200);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// A `redis-server` process; it is killed when this value is dropped.
pub struct RedisServer {
    pub port: u16,
    child: Child,
    dir: TempDir,
}

impl RedisServer {
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Starts it on a given port, to restart it after an outage.
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

    /// Kills it and returns its port.
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

/// In the PATH, or where `make setup` installs it.
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

/// An HTTP client; its connections live as long as the test.
pub fn http() -> reqwest::Client {
    // An error means that another test of this binary has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// A proxy that serves in this process, and a client that sends its token.
pub struct Proxy {
    pub url: String,
    http: reqwest::Client,
}

impl Proxy {
    pub async fn serve(router: Router) -> Self {
        let addr: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = listen(addr).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, router, std::future::pending()));
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
        response(self.request(reqwest::Method::POST, path).body(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        response(self.request(reqwest::Method::GET, path)).await
    }
}

/// Status and JSON body of a response.
pub async fn response(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("the proxy responds");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a complete body");
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
