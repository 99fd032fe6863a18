use crate::endpoints::Endpoints;
use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use crate::secrets::write_secret;
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::time::Duration;

/// The gate under `wrangler dev`, from the build in `edge/build`. Returns its URL.
pub fn spec(paths: &Paths, endpoints: &Endpoints) -> Result<(ProcessSpec, String)> {
    let edge = paths.repo.join("edge");
    let wrangler = edge.join("node_modules/wrangler/bin/wrangler.js");
    if !wrangler.exists() {
        bail!("wrangler is not installed in edge/node_modules: run `make setup`");
    }
    if !edge.join("build/index_bg.wasm").exists() {
        bail!("the gate is not built: run `make build`");
    }
    let port = ports::choose("EDGE_PORT", Some(8787))?;
    let home = paths.folder("edge")?;
    let vars = home.join("vars.env");
    let settings: Vec<String> = endpoints
        .gate_vars()
        .into_iter()
        .chain([("AUTH", "insecure-header")])
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    write_secret(&vars, &settings.concat())?;
    let mut args = vec![OsString::from(wrangler)];
    args.extend(["dev", "--local", "--ip", "127.0.0.1", "--port", &port.to_string()].map(Into::into));
    args.extend(["--inspector-port", &ports::free()?.to_string()].map(Into::into));
    args.extend(["--persist-to".into(), home.join("state").into(), "--env-file".into(), vars.into()]);
    // The cron at /__scheduled: its other address serves the static files.
    args.extend(["--show-interactive-dev-session=false", "--test-scheduled", "--log-level", "warn"].map(Into::into));
    let url = format!("http://127.0.0.1:{port}");
    let spec = ProcessSpec {
        name: "edge",
        program: "node".into(),
        args,
        env: vec![
            ("EDGE_PREBUILT", "1".to_owned()),
            ("WRANGLER_SEND_METRICS", "false".to_owned()),
            ("WRANGLER_LOG_PATH", home.join("wrangler-log").to_string_lossy().into_owned()),
            // Both prevent requests to the network.
            ("CLOUDFLARE_CF_FETCH_ENABLED", "false".to_owned()),
            ("CI", "true".to_owned()),
        ],
        cwd: edge,
        probe: Probe::Http(format!("{url}/healthz")),
        stop_timeout: Duration::from_secs(10),
    };
    Ok((spec, url))
}
