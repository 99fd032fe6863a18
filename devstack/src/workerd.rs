//! A worker on workerd alone, without wrangler in between: the gate for tests that need other settings
//! than the stack's or the runtime's own behaviour towards connections, and whatever it is measured
//! against.

use super::probe::Probe;
use super::process::{Part, Spec};
use super::{Site, ports, write_secret};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a worker runs.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// The gate, as it is built.
    Gate,
    /// A JavaScript module in one file.
    Script(&'a Path),
}

/// A worker. It stops when it is dropped.
#[derive(Debug)]
pub struct Worker {
    /// Its address.
    pub url: String,
    /// Its process.
    pub part: Part,
}

impl Worker {
    /// Starts a worker with `vars` as its settings and waits until it answers. What is named in `bound`
    /// is bound to it: rate limits, which are used up, and the dataset `METRICS`, which prints its points.
    /// Workers of one name share a folder and a log.
    ///
    /// # Errors
    /// If the worker is not built, or does not come up.
    pub async fn start(
        site: &Site,
        code: Code<'_>,
        name: &'static str,
        vars: &[(&str, &str)],
        bound: &[&str],
    ) -> Result<Self> {
        let edge = site.repo.join("edge");
        let home = site.folder(name)?;
        let copy = |from: &Path, file: &str| {
            fs::copy(from, home.join(file)).map(drop).with_context(|| format!("there is no {}", from.display()))
        };
        let more = match code {
            Code::Gate => {
                copy(&edge.join("entry.mjs"), "worker.js")?;
                copy(&edge.join("build/index.js"), "index.js")?;
                copy(&edge.join("build/index_bg.wasm"), "index_bg.wasm")?;
                r#"(name = "build/index.js", esModule = embed "index.js"),
    (name = "build/index_bg.wasm", wasm = embed "index_bg.wasm"),"#
            }
            Code::Script(script) => copy(script, "worker.js").map(|()| "")?,
        };
        let port = ports::free()?;
        let url = format!("http://127.0.0.1:{port}");
        let wrangler_toml = fs::read_to_string(edge.join("wrangler.toml"))?;
        let date = wrangler_toml.lines().find_map(|line| line.strip_prefix("compatibility_date = "));
        let config = config(port, date.context("wrangler.toml has no compatibility_date")?, more, vars, bound);
        write_secret(&home.join("config.capnp"), &config)?;
        let spec = Spec {
            name,
            program: program(site)?,
            args: ["serve", "config.capnp"].map(Into::into).to_vec(),
            env: vec![],
            cwd: home,
            probe: Probe::Answer(url.clone()),
            stop_within: Duration::from_secs(5),
        };
        let mut part = spec.start(&site.logs())?;
        part.ready().await?;
        Ok(Self { url, part })
    }
}

/// The binary itself: npm's `workerd` is a script that starts it as a child.
fn program(site: &Site) -> Result<PathBuf> {
    let packages = site.repo.join("edge/node_modules/@cloudflare");
    let entries = fs::read_dir(&packages).with_context(|| format!("there is no {}", packages.display()))?;
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("workerd-"))
        .map(|entry| entry.path().join("bin/workerd"))
        .find(|path| path.exists())
        .context("there is no workerd in edge/node_modules: run `make setup`")
}

fn config(port: u16, date: &str, more: &str, vars: &[(&str, &str)], bound: &[&str]) -> String {
    // A string of Cap'n Proto's text form is escaped as in C; JSON's escapes are a part of that.
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let vars = vars.iter().map(|(name, value)| format!("(name = {}, text = {})", text(name), text(value)));
    let bound = bound.iter().map(|name| {
        let module = if *name == "METRICS" { "dataset" } else { "reached" };
        format!("(name = {}, wrapped = (moduleName = \"{module}\"))", text(name))
    });
    let bindings: Vec<String> = vars.chain(bound).collect();
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "worker", worker = .worker),
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
  ],
  extensions = [(modules = [
    (name = "reached", internal = true,
      esModule = "export default () => ({{ limit: async () => ({{ success: false }}) }})"),
    (name = "dataset", internal = true,
      esModule = "export default () => ({{ writeDataPoint: (point) => console.log(JSON.stringify(point)) }})"),
  ])],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "worker")],
);
const worker :Workerd.Worker = (
  modules = [
    (name = "worker.js", esModule = embed "worker.js"),
    {more}
  ],
  compatibilityDate = {date},
  bindings = [{}],
);
"#,
        bindings.join(", ")
    )
}
