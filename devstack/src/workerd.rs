//! A worker on workerd without wrangler: a gate for tests that need other settings than the stack's or the
//! runtime's own handling of connections, and the workers that a benchmark compares it with.

use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::{Process, ProcessSpec};
use crate::secrets::write_secret;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program of a worker.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// The gate in `edge/build`.
    Gate,
    /// A JavaScript module in one file.
    Script(&'a Path),
}

/// A running worker. It stops when it is dropped.
#[derive(Debug)]
pub struct Worker {
    pub url: String,
    /// A request to it does once what Cloudflare's cron does; only for the gate.
    pub cron_url: String,
    pub process: Process,
}

impl Worker {
    /// Starts a worker with `vars` as its settings and waits until it responds. `bindings` names rate limiters,
    /// whose limit is always reached, and the dataset `METRICS`, which prints its points. Workers with one
    /// name share a folder and a log.
    pub async fn start(
        paths: &Paths,
        code: Code<'_>,
        name: &'static str,
        vars: &[(&str, &str)],
        bindings: &[&str],
    ) -> Result<Self> {
        let edge = paths.repo.join("edge");
        let home = paths.folder(name)?;
        let copy = |from: &Path, file: &str| {
            fs::copy(from, home.join(file)).map(drop).with_context(|| format!("cannot copy {}", from.display()))
        };
        let modules = match code {
            Code::Gate => {
                copy(&edge.join("entry.mjs"), "worker.js")?;
                copy(&edge.join("build/index.js"), "index.js")?;
                copy(&edge.join("build/index_bg.wasm"), "index_bg.wasm")?;
                r#"(name = "build/index.js", esModule = embed "index.js"),
    (name = "build/index_bg.wasm", wasm = embed "index_bg.wasm"),"#
            }
            Code::Script(script) => copy(script, "worker.js").map(|()| "")?,
        };
        let (port, cron_port) = (ports::free()?, ports::free()?);
        let (url, cron_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{cron_port}"));
        let wrangler_toml = fs::read_to_string(edge.join("wrangler.toml"))?;
        let date = wrangler_toml.lines().find_map(|line| line.strip_prefix("compatibility_date = "));
        let date = date.context("wrangler.toml has no compatibility_date")?;
        let config = config([port, cron_port], date, modules, vars, bindings);
        write_secret(&home.join("config.capnp"), &config)?;
        let spec = ProcessSpec {
            name,
            program: program(paths)?,
            args: ["serve", "config.capnp", "--experimental"].map(Into::into).to_vec(),
            env: vec![],
            cwd: home,
            probe: Probe::AnyHttp(url.clone()),
            stop_timeout: Duration::from_secs(5),
        };
        Ok(Self { url, cron_url, process: spec.start_ready(&paths.logs()).await? })
    }
}

/// The binary: npm's `workerd` is a script that starts it as a child.
fn program(paths: &Paths) -> Result<PathBuf> {
    let packages = paths.repo.join("edge/node_modules/@cloudflare");
    let entries =
        fs::read_dir(&packages).with_context(|| format!("cannot read {}: run `make setup`", packages.display()))?;
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("workerd-"))
        .map(|entry| entry.path().join("bin/workerd"))
        .find(|path| path.exists())
        .context("workerd is not installed in edge/node_modules: run `make setup`")
}

/// Calls the other worker as Cloudflare's cron does.
const CRON: &str = "export default { fetch: async (_, { WORKER }) => { \
    const { outcome } = await WORKER.scheduled({ scheduledTime: new Date(), cron: '* * * * *' }); \
    return new Response(outcome, { status: outcome === 'ok' ? 200 : 500 }); } }";

fn config([port, cron_port]: [u16; 2], date: &str, modules: &str, vars: &[(&str, &str)], bindings: &[&str]) -> String {
    // Strings in the text form of Cap'n Proto have the escapes of C, which include those of JSON.
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let vars = vars.iter().map(|(name, value)| format!("(name = {}, text = {})", text(name), text(value)));
    let bindings = bindings.iter().map(|name| {
        let module = if *name == "METRICS" { "dataset" } else { "limiter" };
        format!("(name = {}, wrapped = (moduleName = \"{module}\"))", text(name))
    });
    let bindings: Vec<String> = vars.chain(bindings).collect();
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "worker", worker = .worker),
    (name = "cron", worker = .cron),
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
  ],
  extensions = [(modules = [
    (name = "limiter", internal = true,
      esModule = "export default () => ({{ limit: async () => ({{ success: false }}) }})"),
    (name = "dataset", internal = true,
      esModule = "export default () => ({{ writeDataPoint: (point) => console.log(JSON.stringify(point)) }})"),
  ])],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "worker"),
    (name = "cron", address = "127.0.0.1:{cron_port}", http = (), service = "cron")],
);
const cron :Workerd.Worker = (
  modules = [(name = "cron.js", esModule = "{CRON}")],
  compatibilityDate = {date},
  compatibilityFlags = ["service_binding_extra_handlers"],
  bindings = [(name = "WORKER", service = "worker")],
);
const worker :Workerd.Worker = (
  modules = [
    (name = "worker.js", esModule = embed "worker.js"),
    {modules}
  ],
  compatibilityDate = {date},
  bindings = [{}],
);
"#,
        bindings.join(", ")
    )
}
