//! A proxy in front of a server that passes requests and injects faults into responses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A fault of a response. The server has always received and executed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFault {
    None,
    /// The response is delayed by this time.
    Delay(Duration),
    /// The body is not JSON.
    Garbage,
    /// The connection is closed without a response.
    Close,
}

/// The proxy. It stops when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    pub url: String,
    fault: watch::Sender<ResponseFault>,
    injected: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// A proxy in front of the server at `url`.
    pub async fn in_front_of(url: &str) -> Self {
        let server: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (fault, faults) = watch::channel(ResponseFault::None);
        let injected = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn({
            let injected = Arc::clone(&injected);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, server, faults.clone(), Arc::clone(&injected)));
                }
            }
        });
        Self { url, fault, injected, task }
    }

    /// Injects this fault into every response from now on.
    pub fn inject(&self, fault: ResponseFault) {
        self.fault.send_replace(fault);
    }

    /// Number of responses with a fault so far.
    #[must_use]
    pub fn injected(&self) -> u32 {
        self.injected.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection. Each read from the server counts as a response: they are small.
async fn pass(client: TcpStream, server: SocketAddr, faults: watch::Receiver<ResponseFault>, injected: Arc<AtomicU32>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
    let responses = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let size = from_server.read(&mut piece).await?;
            if size == 0 {
                return Ok(());
            }
            let fault = *faults.borrow();
            if fault != ResponseFault::None {
                injected.fetch_add(1, Ordering::Relaxed);
            }
            match fault {
                ResponseFault::None => to_client.write_all(&piece[..size]).await?,
                ResponseFault::Delay(by) => {
                    tokio::time::sleep(by).await;
                    to_client.write_all(&piece[..size]).await?;
                }
                ResponseFault::Garbage => {
                    to_client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot JSON!").await?;
                }
                ResponseFault::Close => return Ok(()),
            }
        }
    };
    let _: std::io::Result<()> = tokio::select! { ended = requests => ended, ended = responses => ended };
}
