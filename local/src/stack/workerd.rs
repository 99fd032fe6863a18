//! The gate on workerd alone, without wrangler in between: for tests that need other settings than
//! the stack's, or the runtime's own behaviour towards connections.

use super::probe::Probe;
use super::process::{Part, Spec};
use super::{Site, ports, write_secret};
use anyhow::{Context as _, Result};
use std::fs;
use std::time::Duration;

/// A gate of its own. It stops when it is dropped.
#[derive(Debug)]
pub struct Gate {
    /// Its address.
    pub url: String,
    /// Its process.
    pub part: Part,
}

impl Gate {
    /// Starts a gate with `vars` as its settings and waits until it answers. Its rate limits of the
    /// names in `reached` are used up. Gates of one name share a folder and a log.
    ///
    /// # Errors
    /// If the gate is not built, or does not come up.
    pub async fn start(site: &Site, name: &'static str, vars: &[(&str, &str)], reached: &[&str]) -> Result<Self> {
        let edge = site.repo.join("edge");
        let home = site.folder(name)?;
        let copy = |file: &str| {
            let from = edge.join("build").join(file);
            fs::copy(&from, home.join(file)).map(drop).with_context(|| format!("there is no {}", from.display()))
        };
        copy("index.js")?;
        copy("index_bg.wasm")?;
        let port = ports::free()?;
        let url = format!("http://127.0.0.1:{port}");
        let wrangler_toml = fs::read_to_string(edge.join("wrangler.toml"))?;
        let date = wrangler_toml.lines().find_map(|line| line.strip_prefix("compatibility_date = "));
        let config = config(port, date.context("wrangler.toml has no compatibility_date")?, vars, reached);
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
fn program(site: &Site) -> Result<std::path::PathBuf> {
    let packages = site.repo.join("edge/node_modules/@cloudflare");
    let entries = fs::read_dir(&packages).with_context(|| format!("there is no {}", packages.display()))?;
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("workerd-"))
        .map(|entry| entry.path().join("bin/workerd"))
        .find(|path| path.exists())
        .context("there is no workerd in edge/node_modules: run `make setup`")
}

fn config(port: u16, date: &str, vars: &[(&str, &str)], reached: &[&str]) -> String {
    // A string of Cap'n Proto's text form is escaped as in C; JSON's escapes are a part of that.
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let vars = vars.iter().map(|(name, value)| format!("(name = {}, text = {})", text(name), text(value)));
    let limits = reached.iter().map(|name| format!("(name = {}, wrapped = (moduleName = \"reached\"))", text(name)));
    let bindings: Vec<String> = vars.chain(limits).collect();
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "gate", worker = .gate),
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
  ],
  extensions = [(modules = [(name = "reached", internal = true,
    esModule = "export default () => ({{ limit: async () => ({{ success: false }}) }})")])],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "gate")],
);
const gate :Workerd.Worker = (
  modules = [
    (name = "index.js", esModule = embed "index.js"),
    (name = "index_bg.wasm", wasm = embed "index_bg.wasm"),
  ],
  compatibilityDate = {date},
  bindings = [{}],
);
"#,
        bindings.join(", ")
    )
}
