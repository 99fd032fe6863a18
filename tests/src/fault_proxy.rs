//! A proxy between a part and its server that lets requests through and spoils answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of an answer. The request has always reached the server and been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It comes so much later.
    Late(Duration),
    /// Something else comes instead.
    Garbage,
    /// The connection is closed instead.
    Close,
}

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct Chaos {
    /// Its address.
    pub url: String,
    fault: watch::Sender<Fault>,
    struck: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Chaos {
    /// A proxy in front of the server at `url`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn before(url: &str) -> Self {
        let server: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (fault, faults) = watch::channel(Fault::None);
        let struck = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn({
            let struck = Arc::clone(&struck);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, server, faults.clone(), Arc::clone(&struck)));
                }
            }
        });
        Self { url, fault, struck, task }
    }

    /// From now on.
    ///
    /// # Panics
    /// Never: the proxy is alive as long as this is.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many answers were spoilt so far.
    #[must_use]
    pub fn struck(&self) -> u32 {
        self.struck.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. A piece of what the server sends counts as an answer: they are small.
async fn pass(client: TcpStream, server: SocketAddr, faults: watch::Receiver<Fault>, struck: Arc<AtomicU32>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let answers = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let size = from_server.read(&mut piece).await?;
            if size == 0 {
                return Ok(());
            }
            let fault = *faults.borrow();
            if fault != Fault::None {
                struck.fetch_add(1, Ordering::Relaxed);
            }
            match fault {
                Fault::None => to_client.write_all(&piece[..size]).await?,
                Fault::Late(by) => {
                    tokio::time::sleep(by).await;
                    to_client.write_all(&piece[..size]).await?;
                }
                Fault::Garbage => {
                    to_client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot JSON!").await?;
                }
                Fault::Close => return Ok(()),
            }
        }
    };
    let _: std::io::Result<()> = tokio::select! { ended = requests => ended, ended = answers => ended };
}
