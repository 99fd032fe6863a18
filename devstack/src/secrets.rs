//! The secrets of a stack, and files that only their owner may read.

use anyhow::{Context as _, Result};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Random secrets, created at the first start in a folder and kept there.
#[derive(Serialize, Deserialize)]
pub struct Secrets {
    /// The token of both REST proxies.
    pub rest_proxies: String,
    pub database: String,
    /// Coupon codes are derived from it.
    pub codes: String,
}

impl Secrets {
    pub fn of(dir: &Path) -> Result<Self> {
        let path = dir.join("secrets.json");
        if let Ok(text) = fs::read_to_string(&path) {
            return serde_json::from_str(&text).with_context(|| {
                format!("{} is not readable: remove {} to start with empty data", path.display(), dir.display())
            });
        }
        let secrets = Self { rest_proxies: random_id()?, database: random_id()?, codes: random_id()? };
        write_secret(&path, &serde_json::to_string_pretty(&secrets)?)?;
        Ok(secrets)
    }
}

/// 128 random bits as 22 characters of base64url, which is also the form of a Kafka cluster id.
pub fn random_id() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let id = BASE64URL_NOPAD.encode(&bytes);
    // Kafka rejects an id that begins with a dash, and a command line would read it as an option.
    if id.starts_with('-') { random_id() } else { Ok(id) }
}

/// Writes a file that only its owner may read.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
