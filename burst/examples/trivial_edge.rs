//! An edge in memory: it shows the limit of the driver itself.
//!
//! `cargo run --profile service -p dropgate-burst --example trivial_edge -- 127.0.0.1:8799 100`, then
//! `burst run --url http://127.0.0.1:8799 --campaign c --capacity 100 --answers-only`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Claims = Arc<Mutex<HashMap<String, usize>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8799".to_owned());
    let capacity = args.next().map_or(Ok(100), |n| n.parse())?;
    let listener = TcpListener::bind(address).await?;
    let claims = Claims::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, claims.clone(), capacity));
    }
}

async fn serve(mut stream: TcpStream, claims: Claims, capacity: usize) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&bytes);
        let user = head.lines().find_map(|line| line.strip_prefix("x-user-id: ")).unwrap_or_default().to_owned();
        bytes.clear();
        stream.write_all(answer(&claims, capacity, &user).as_bytes()).await?;
    }
}

fn answer(claims: &Claims, capacity: usize, user: &str) -> String {
    let mut claims = claims.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let taken = claims.len();
    let (status, body) = match claims.get(user) {
        Some(slot) => ("200 OK", claim(*slot, user)),
        None if taken < capacity => {
            claims.insert(user.to_owned(), taken + 1);
            ("202 Accepted", claim(taken + 1, user))
        }
        None => ("410 Gone", r#"{"type":"urn:dropgate:problem:sold-out"}"#.to_owned()),
    };
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn claim(slot: usize, user: &str) -> String {
    format!(r#"{{"status":"admitted","campaign":"c","slot":{slot},"code":"CODE-{user}","admitted_at":1}}"#)
}
