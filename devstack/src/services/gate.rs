//! Dropgate's own parts: the two gateways, the gate under `wrangler dev`, and the issuer.

use super::probe::Probe;
use super::process::Spec;
use super::{Endpoints, Site, ports, write_secret};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

const TOKEN_ENV: &str = crate::gateway::TOKEN_ENV;

/// The Redis REST gateway over `redis_url`.
pub fn redis_rest(site: &Site, redis_url: &str, token: &str) -> Result<(Spec, String)> {
    gateway(site, ("redis-rest", "redis", "REDIS_REST_PORT"), ("REDIS_URL", redis_url), token)
}

/// The Kafka REST gateway over `bootstrap`.
pub fn kafka_rest(site: &Site, bootstrap: &str, token: &str) -> Result<(Spec, String)> {
    gateway(site, ("kafka-rest", "kafka", "KAFKA_REST_PORT"), ("KAFKA_BOOTSTRAP", bootstrap), token)
}

fn gateway(
    site: &Site,
    (name, kind, port_env): (&'static str, &str, &str),
    (upstream_env, upstream): (&'static str, &str),
    token: &str,
) -> Result<(Spec, String)> {
    let listen = format!("127.0.0.1:{}", ports::given(port_env, None)?);
    let url = format!("http://{listen}");
    let spec = Spec {
        name,
        program: site.program("dropgate-gateway")?,
        args: [kind, "--listen", &listen].map(OsString::from).to_vec(),
        env: vec![(upstream_env, upstream.to_owned()), (TOKEN_ENV, token.to_owned())],
        cwd: site.dir.clone(),
        probe: Probe::Http(format!("{url}/healthz")),
        stop_within: Duration::from_secs(25),
    };
    Ok((spec, url))
}

/// The gate under `wrangler dev`, from the build in `edge/build`.
pub fn edge(site: &Site, endpoints: &Endpoints) -> Result<(Spec, String)> {
    let edge = site.repo.join("edge");
    let wrangler = edge.join("node_modules/wrangler/bin/wrangler.js");
    if !wrangler.exists() {
        bail!("there is no wrangler in edge/node_modules: run `make setup`");
    }
    if !edge.join("build/index_bg.wasm").exists() {
        bail!("the gate is not built: run `make build`");
    }
    let port = ports::given("EDGE_PORT", Some(8787))?;
    let home = site.folder("edge")?;
    let vars = home.join("vars.env");
    let settings: Vec<String> = endpoints
        .gate_vars()
        .into_iter()
        .chain([("AUTH", "insecure-header")])
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    write_secret(&vars, &settings.concat())?;
    let mut args = vec![OsString::from(wrangler)];
    args.extend(["dev", "--local", "--ip", "127.0.0.1", "--inspector-port"].map(OsString::from));
    args.push(ports::free()?.to_string().into());
    args.extend(["--port".to_owned(), port.to_string()].map(OsString::from));
    args.extend([OsString::from("--persist-to"), home.join("state").into()]);
    args.extend([OsString::from("--env-file"), vars.into()]);
    // The cron at /__scheduled: the other address for it ends at the static files.
    args.extend(
        ["--show-interactive-dev-session=false", "--test-scheduled", "--log-level", "warn"].map(OsString::from),
    );
    let url = format!("http://127.0.0.1:{port}");
    let spec = Spec {
        name: "edge",
        program: "node".into(),
        args,
        env: vec![
            ("EDGE_PREBUILT", "1".to_owned()),
            ("WRANGLER_SEND_METRICS", "false".to_owned()),
            ("WRANGLER_LOG_PATH", home.join("wrangler-log").to_string_lossy().into_owned()),
            // Neither asks the network for anything.
            ("CLOUDFLARE_CF_FETCH_ENABLED", "false".to_owned()),
            ("CI", "true".to_owned()),
        ],
        cwd: edge,
        probe: Probe::Http(format!("{url}/healthz")),
        stop_within: Duration::from_secs(10),
    };
    Ok((spec, url))
}

/// The issuer as a service.
pub fn issuer(site: &Site, endpoints: &Endpoints) -> Result<Spec> {
    let mut env = endpoints.issuer_env();
    let health = endpoints.issuer_url.trim_start_matches("http://");
    env.push(("HTTP_LISTEN", health.to_owned()));
    // Nobody else is on this database; and on one machine with the crowd, everything looks busy.
    env.push(("WRITE_BUDGET", super::yours("WRITE_BUDGET").unwrap_or_else(|| "unlimited".to_owned())));
    Ok(Spec {
        name: "issuer",
        program: site.program("issuer")?,
        args: ["run", "--create-topics"].map(OsString::from).to_vec(),
        env,
        cwd: site.dir.clone(),
        probe: Probe::Output("partitions assigned"),
        stop_within: Duration::from_secs(30),
    })
}

/// Brings the database's schema up to date.
pub fn migrate(site: &Site, endpoints: &Endpoints) -> Result<()> {
    issuer_command(site, endpoints, &["migrate"]).map(drop)
}

/// Runs `issuer` once and returns what it prints.
pub fn issuer_command(site: &Site, endpoints: &Endpoints, args: &[&str]) -> Result<String> {
    let done = Command::new(site.program("issuer")?)
        .args(args)
        .envs(endpoints.issuer_env())
        .stdin(Stdio::null())
        .output()
        .context("the issuer cannot be run")?;
    if !done.status.success() {
        bail!("issuer {} failed:\n{}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
