use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// A Redis with its append-only file on, so that acknowledged writes survive a restart. Returns its URL.
pub fn spec(paths: &Paths) -> Result<(ProcessSpec, String)> {
    let port = ports::choose("REDIS_PORT", None)?.to_string();
    let data = paths.folder("redis")?;
    let installed = paths.cache.join("bin/redis-server");
    let program = if installed.exists() { installed } else { PathBuf::from("redis-server") };
    let options = [
        ["--port", &port],
        ["--bind", "127.0.0.1"],
        ["--appendonly", "yes"],
        ["--appendfsync", "everysec"],
        ["--save", ""],
        ["--dir", &data.to_string_lossy()],
    ];
    let spec = ProcessSpec {
        name: "redis",
        program,
        args: options.concat().into_iter().map(Into::into).collect(),
        env: vec![],
        cwd: data.clone(),
        probe: Probe::Redis(format!("127.0.0.1:{port}")),
        stop_timeout: Duration::from_secs(5),
    };
    Ok((spec, format!("redis://127.0.0.1:{port}")))
}
