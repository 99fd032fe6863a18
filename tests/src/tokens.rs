//! Tokens signed by somebody else's implementation, and a server for their public keys.

use crate::repo;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Signs what `asked` says: see `tests/support/tokens.mjs`. Returns the key sets and the tokens.
///
/// # Panics
/// If Node cannot.
#[must_use]
pub fn sign(asked: &Value) -> (Value, Vec<String>) {
    let mut node = Command::new("node")
        .arg(repo().join("tests/support/tokens.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = answer["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned()).collect();
    (answer["jwks"].clone(), tokens)
}

/// A server of one JSON document. It ends when it is dropped.
#[derive(Debug)]
pub struct Document {
    /// Its address.
    pub url: String,
    text: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Document {
    /// Serves `document`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn serve(document: &Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let text = Arc::new(Mutex::new(document.to_string()));
        let asked = Arc::new(AtomicU32::new(0));
        let answer = {
            let (text, asked) = (Arc::clone(&text), Arc::clone(&asked));
            move || {
                asked.fetch_add(1, Ordering::Relaxed);
                let text = text.lock().unwrap().clone();
                async move { text }
            }
        };
        let app = axum::Router::new().fallback(answer);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { url, text, asked, task }
    }

    /// Serves another document from now on.
    ///
    /// # Panics
    /// If a thread has died while it served.
    pub fn set(&self, document: &Value) {
        *self.text.lock().unwrap() = document.to_string();
    }

    /// How often it was asked for.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        self.task.abort();
    }
}
