//! What a stack leaves in its folder for other commands: a lock, and who runs where.

use crate::endpoints::Endpoints;
use crate::paths::Paths;
use crate::secrets::write_secret;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// A running stack, as other commands see it.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Process id of the supervisor.
    pub supervisor: u32,
    pub endpoints: Endpoints,
    /// Name and process id of each process.
    pub processes: Vec<(String, u32)>,
}

impl State {
    /// The stack that runs in `dir`, if there is one.
    ///
    /// # Errors
    /// Also if a stack is starting or stopping there.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        if !is_locked(dir)? {
            return Ok(None);
        }
        match Self::read(dir) {
            Some(state) => Ok(Some(state)),
            None => bail!("a stack is starting or stopping in {}: try again in a moment", dir.display()),
        }
    }

    /// The file of the stack that was started last in `dir`. It may have died without removing it.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(dir.join(STATE)).ok()?).ok()
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_secret(&dir.join(STATE), &serde_json::to_string_pretty(self)?)
    }

    /// Removes the file, also one that a dead stack has left.
    pub fn remove(dir: &Path) {
        let _ = fs::remove_file(dir.join(STATE));
    }
}

/// Held while a stack runs: one stack per folder.
pub struct FolderLock(#[expect(dead_code, reason = "the lock ends when the file is closed")] File);

impl FolderLock {
    pub fn acquire(paths: &Paths) -> Result<Self> {
        let path = paths.folder("")?.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                bail!("{} is in use by another run: wait for it, or stop it (`make down`)", paths.dir.display())
            }
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Acquires the lock and removes what an earlier stack left in the folder.
    pub fn acquire_and_empty(paths: &Paths) -> Result<Self> {
        // Before anything is removed: the data must not be in use.
        let lock = Self::acquire(paths)?;
        for entry in fs::read_dir(&paths.dir)? {
            let path = entry?.path();
            let removed = match path.file_name().is_some_and(|name| name == LOCK) {
                true => Ok(()),
                false if path.is_dir() => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(lock)
    }
}

fn is_locked(dir: &Path) -> Result<bool> {
    match File::open(dir.join(LOCK)) {
        Ok(file) => Ok(matches!(file.try_lock(), Err(TryLockError::WouldBlock))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}
