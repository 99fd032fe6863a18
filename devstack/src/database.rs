use crate::paths::Paths;
use crate::process::Process;
use crate::secrets::Secrets;
use crate::servers::mysql;
use crate::state::FolderLock;
use anyhow::Result;

/// A database alone, for tests that need no other server.
pub struct Database {
    pub url: String,
    process: Process,
    _lock: FolderLock,
}

impl Database {
    /// Starts it and waits until it is ready.
    pub async fn start(paths: &Paths) -> Result<Self> {
        let lock = FolderLock::acquire(paths)?;
        let (spec, url) = mysql::spec(paths, &Secrets::of(&paths.dir)?.database)?;
        Ok(Self { url, process: spec.start_ready(&paths.logs()).await?, _lock: lock })
    }

    pub async fn stop(self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}
