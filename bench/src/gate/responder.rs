//! A server with a constant response: it shows the limit of the load generator.

use anyhow::{Context as _, Result};
use std::sync::mpsc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Runs until it is dropped.
pub struct Responder {
    /// `host:port`
    pub address: String,
    _stop: oneshot::Sender<()>,
}

impl Responder {
    /// Starts it in a thread of its own, on the cores that this thread is bound to now.
    pub fn start() -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                sender.send(listener.local_addr()?.to_string())?;
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(respond(stream));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
                Ok(())
            })
        };
        std::thread::spawn(serve);
        Ok(Self { address: receiver.recv().context("the responder cannot listen")?, _stop: stop })
    }
}

async fn respond(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(2048);
    loop {
        bytes.clear();
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 4\r\n\r\ngone").await?;
    }
}
