//! A proxy in front of a server that passes what it gets, and injects faults.

use dropgate_simulator::random::Random;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A fault of a connection. Each read from one side counts as a request or a response: they are small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFault {
    None,
    /// The response is delayed by this time. The server has received and executed the request.
    Delay(Duration),
    /// The body is not JSON. The server has executed the request.
    Garbage,
    /// The connection is closed without a response. The server has executed the request.
    Close,
    /// The connection is closed, and the server does not receive the request.
    CloseBefore,
    /// Nothing passes in either direction, and no connection is closed. What waited passes afterwards.
    Hang,
    /// Connections are closed at once, also those that exist.
    Refuse,
}

/// The proxy. It stops when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    pub url: String,
    pub port: u16,
    fault: watch::Sender<Injected>,
    injected: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

/// What is injected, into which share of the requests or responses, in thousandths.
#[derive(Debug, Clone, Copy)]
struct Injected {
    fault: ResponseFault,
    share: u64,
}

impl FaultProxy {
    /// A proxy in front of the server at `url`.
    pub async fn in_front_of(url: &str) -> Self {
        let server = url.strip_prefix("http://").unwrap().parse().unwrap();
        Self::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), server)
    }

    /// A proxy that accepts from `listener`. The server need not run yet.
    #[must_use]
    pub fn start(listener: TcpListener, server: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Injected { fault: ResponseFault::None, share: 1000 });
        let injected = Arc::new(AtomicU32::new(0));
        let task = tokio::spawn({
            let injected = Arc::clone(&injected);
            let dice = Arc::new(Mutex::new(Random::new(u64::from(address.port()))));
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (faults, injected, dice) = (faults.clone(), Arc::clone(&injected), Arc::clone(&dice));
                    tokio::spawn(pass(client, server, Faults { faults, injected, dice }));
                }
            }
        });
        Self { url: format!("http://{address}"), port: address.port(), fault, injected, task }
    }

    /// Injects this fault everywhere from now on.
    pub fn inject(&self, fault: ResponseFault) {
        self.inject_into(fault, 1000);
    }

    /// Injects this fault from now on into so many of a thousand requests or responses.
    pub fn inject_into(&self, fault: ResponseFault, share: u64) {
        self.fault.send_replace(Injected { fault, share });
    }

    /// Number of faults so far.
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

#[derive(Clone)]
struct Faults {
    faults: watch::Receiver<Injected>,
    injected: Arc<AtomicU32>,
    dice: Arc<Mutex<Random>>,
}

impl Faults {
    /// The fault that a request or response meets, if `concerns` it.
    fn draw(&self, concerns: impl Fn(ResponseFault) -> bool) -> ResponseFault {
        let Injected { fault, share } = *self.faults.borrow();
        if fault == ResponseFault::None || !concerns(fault) || self.dice.lock().unwrap().below(1000) >= share {
            return ResponseFault::None;
        }
        self.count();
        fault
    }

    fn count(&self) {
        self.injected.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when nothing hangs.
    async fn passable(&mut self) {
        if self.faults.borrow().fault == ResponseFault::Hang {
            self.count();
            let _ = self.faults.wait_for(|injected| injected.fault != ResponseFault::Hang).await;
        }
    }

    /// Returns when connections are refused.
    async fn refused(&mut self) {
        if self.faults.wait_for(|injected| injected.fault == ResponseFault::Refuse).await.is_err() {
            std::future::pending().await
        }
        self.count();
    }
}

/// One connection.
async fn pass(client: TcpStream, server: SocketAddr, faults: Faults) {
    let (mut at_start, mut refused) = (faults.clone(), faults.clone());
    let connected = async {
        at_start.passable().await;
        let server = TcpStream::connect(server).await?;
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            ended = requests(from_client, to_server, faults.clone()) => ended,
            ended = responses(from_server, to_client, faults) => ended,
        }
    };
    let _: std::io::Result<()> = tokio::select! {
        biased;
        () = refused.refused() => Ok(()),
        ended = connected => ended,
    };
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut faults: Faults) -> std::io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let size = from.read(&mut piece).await?;
        if size == 0 || faults.draw(|fault| fault == ResponseFault::CloseBefore) != ResponseFault::None {
            return Ok(());
        }
        faults.passable().await;
        to.write_all(&piece[..size]).await?;
    }
}

async fn responses(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut faults: Faults) -> std::io::Result<()> {
    use ResponseFault::{Close, Delay, Garbage};
    let mut piece = vec![0; 1 << 16];
    loop {
        let size = from.read(&mut piece).await?;
        if size == 0 {
            return Ok(());
        }
        match faults.draw(|fault| matches!(fault, Delay(_) | Garbage | Close)) {
            Garbage => {
                to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot JSON!").await?;
                continue;
            }
            Close => return Ok(()),
            Delay(by) => tokio::time::sleep(by).await,
            _ => {}
        }
        faults.passable().await;
        to.write_all(&piece[..size]).await?;
    }
}
