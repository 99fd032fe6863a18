use crate::paths::Paths;
use crate::process::Process;
use crate::servers::kafka;
use crate::state::FolderLock;
use anyhow::Result;
use rustix::process::Signal;

/// A Kafka alone, for tests that need no other server.
pub struct Broker {
    pub bootstrap: String,
    paths: Paths,
    process: Process,
    _lock: FolderLock,
}

impl Broker {
    /// Starts it and waits until it is ready.
    pub async fn start(paths: &Paths) -> Result<Self> {
        let lock = FolderLock::acquire(paths)?;
        let (spec, bootstrap) = kafka::spec(paths, &[])?;
        let process = spec.start_ready(&paths.logs()).await?;
        Ok(Self { bootstrap, paths: paths.clone(), process, _lock: lock })
    }

    /// Stops it as SIGSTOP does while `work` runs.
    pub async fn frozen<T>(&self, work: impl Future<Output = T>) -> T {
        self.process.signal(Signal::STOP);
        let done = work.await;
        self.process.signal(Signal::CONT);
        done
    }

    /// Kills it, runs `work`, and starts it again at the same address.
    pub async fn crashed<T>(self, work: impl Future<Output = T>) -> Result<(Self, T)> {
        let Self { bootstrap, paths, process, _lock } = self;
        let spec = process.spec.clone();
        process.kill()?;
        let done = work.await;
        let process = spec.start_ready(&paths.logs()).await?;
        Ok((Self { bootstrap, paths, process, _lock }, done))
    }

    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}
