//! Tokens signed by an independent implementation, and a server for their public keys.

use crate::repo;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Signs the requested tokens, see `tests/support/tokens.mjs`. Returns the key sets and the tokens.
#[must_use]
pub fn sign(requested: &Value) -> (Value, Vec<String>) {
    let mut node = Command::new("node")
        .arg(repo().join("tests/support/tokens.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(requested.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = signed["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned()).collect();
    (signed["jwks"].clone(), tokens)
}

/// A server of one JSON document. It stops when it is dropped.
#[derive(Debug)]
pub struct JsonServer {
    pub url: String,
    text: Arc<Mutex<String>>,
    requests: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl JsonServer {
    pub async fn serve(document: &Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let text = Arc::new(Mutex::new(document.to_string()));
        let requests = Arc::new(AtomicU32::new(0));
        let respond = {
            let (text, requests) = (Arc::clone(&text), Arc::clone(&requests));
            move || {
                requests.fetch_add(1, Ordering::Relaxed);
                let text = text.lock().unwrap().clone();
                async move { text }
            }
        };
        let app = axum::Router::new().fallback(respond);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { url, text, requests, task }
    }

    /// Serves another document from now on.
    pub fn set(&self, document: &Value) {
        *self.text.lock().unwrap() = document.to_string();
    }

    #[must_use]
    pub fn request_count(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for JsonServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
