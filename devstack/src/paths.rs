use crate::settings::env_override;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of a stack.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The checkout.
    pub repo: PathBuf,
    /// What `devstack/setup` installed.
    pub cache: PathBuf,
    /// dropgate's native programs.
    pub programs: PathBuf,
    /// Data, logs and secrets of this stack.
    pub dir: PathBuf,
}

impl Paths {
    pub fn new(repo: &Path, programs: &Path, dir: &Path) -> Result<Self> {
        let cache = env_override("DROPGATE_CACHE").map(PathBuf::from).or_else(|| {
            let home = || Some(PathBuf::from(env_override("HOME")?).join(".cache"));
            Some(env_override("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("dropgate"))
        });
        let cache = cache.context("HOME is not set: set it or DROPGATE_CACHE, the folder of the installed servers")?;
        let absolute = |path: &Path| std::path::absolute(path);
        Ok(Self { repo: absolute(repo)?, cache: absolute(&cache)?, programs: absolute(programs)?, dir: absolute(dir)? })
    }

    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The folder `name` of this stack; created if it does not exist.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        if path.exists() { Ok(path) } else { bail!("{} does not exist: run `make build`", path.display()) }
    }
}
