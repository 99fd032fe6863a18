//! The documents name only what exists: links, headings, files, folders and `make` targets. No servers.
//!
//! A path in code is relative to the top of the checkout, or to the folder of its document.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::repo;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};
use std::process::{Command, Output};

/// A token with one of these endings and a slash is the path of a file.
const ENDINGS: &[&str] = &[
    "css",
    "example",
    "html",
    "js",
    "json",
    "lock",
    "lua",
    "md",
    "mjs",
    "properties",
    "rs",
    "sh",
    "sql",
    "svg",
    "toml",
    "xml",
    "yaml",
    "yml",
];
/// A token with one of these endings and no slash is the name of a file somewhere in the checkout.
const NAMED: &[&str] = &["lua", "rs", "sql"];

fn git(args: &[&str]) -> Output {
    Command::new("git").args(args).current_dir(repo()).output().unwrap()
}

/// The files and folders of the checkout, relative to its top.
struct Checkout {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Checkout {
    fn read() -> Self {
        let output = git(&["ls-files"]);
        assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
        let files: BTreeSet<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        let folders = files.iter().flat_map(|file| Path::new(file).ancestors().skip(1));
        let folders = folders.map(|folder| folder.to_str().unwrap().to_owned()).collect();
        Self { files, folders }
    }

    fn has(&self, path: &str) -> bool {
        if let Some((before, after)) = path.split_once('*') {
            return self.files.iter().any(|file| file.starts_with(before) && file.ends_with(after));
        }
        self.files.contains(path) || self.folders.contains(path.trim_end_matches('/'))
    }

    fn has_name(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.rsplit('/').next() == Some(name))
    }

    /// Whether `token` is meant as a path of this checkout.
    fn is_path(&self, token: &str) -> bool {
        let begins = token.starts_with(|c: char| c.is_ascii_lowercase() || c == '.');
        let parts = || token.trim_end_matches('/').split('/');
        let plain = parts()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-*".contains(&b)));
        let is_folder = token.ends_with('/');
        let known = ENDINGS.contains(&ending(token)) || is_folder || self.folders.contains(parts().next().unwrap());
        begins && plain && token.contains('/') && known
    }
}

fn ending(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, ending)| ending)
}

/// A document without its fenced blocks, and the tokens of all its code.
struct Document {
    path: String,
    prose: Vec<String>,
    code: Vec<Vec<String>>,
}

impl Document {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(repo().join(path)).unwrap();
        let (mut prose, mut code, mut fenced) = (Vec::new(), Vec::new(), false);
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                code.push(tokens(line));
            } else {
                assert!(line.matches('`').count() % 2 == 0, "{path}: code is split over two lines: {line}");
                code.extend(line.split('`').skip(1).step_by(2).map(tokens));
                prose.push(line.to_owned());
            }
        }
        assert!(!fenced, "{path}: a fenced block has no end");
        Self { path: path.to_owned(), prose, code }
    }

    /// The targets of its links, outside code.
    fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for line in &self.prose {
            let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
            let inline = outside.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            links.extend(inline.map(str::to_owned));
            if let Some((_, target)) = outside.split_once("]: ").filter(|_| outside.starts_with('[')) {
                links.push(target.to_owned());
            }
        }
        links
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for line in &self.prose {
            let title = line.trim_start_matches('#');
            if title.len() == line.len() || !title.starts_with(' ') {
                continue;
            }
            let kept = title.trim().to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let again = (1..).map(|n| format!("{anchor}-{n}"));
            let free = std::iter::once(anchor.clone()).chain(again).find(|name| !anchors.contains(name));
            anchors.extend(free);
        }
        anchors
    }
}

fn tokens(code: &str) -> Vec<String> {
    let bare = |token: &str| {
        let token = token.split("::").next().unwrap_or_default();
        token.trim_matches(|c| "()[],;:'\"".contains(c)).trim_end_matches('.').to_owned()
    };
    code.split_whitespace().map(bare).filter(|token| !token.is_empty()).collect()
}

/// `link` seen from the folder of `document`, relative to the top of the checkout.
fn resolve(document: &str, link: &str) -> String {
    let mut parts = Vec::new();
    for part in Path::new(document).parent().unwrap().join(link).components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_str().unwrap().to_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// What a build makes is not in the checkout, and may be named.
fn is_built(path: &str) -> bool {
    git(&["check-ignore", "--quiet", path]).status.success()
}

#[test]
fn documents_name_only_what_exists() {
    let checkout = Checkout::read();
    let documents: Vec<Document> =
        checkout.files.iter().filter(|file| file.ends_with(".md")).map(|file| Document::read(file)).collect();
    let makefile = fs::read_to_string(repo().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .filter(|target| target.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        .collect();

    let mut failures = Vec::new();
    let (mut links, mut paths, mut makes) = (0, 0, 0);
    for document in &documents {
        let mut fail = |what: String| failures.push(format!("{}: {what}", document.path));
        for link in document.links().iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            links += 1;
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(path, a)| (path, Some(a)));
            let path = if path.is_empty() { document.path.clone() } else { resolve(&document.path, path) };
            if !checkout.has(&path) {
                fail(format!("link to {link}: there is no {path}"));
            } else if let Some(anchor) = anchor {
                let target = documents.iter().find(|document| document.path == path);
                if !target.is_some_and(|target| target.anchors().contains(anchor)) {
                    fail(format!("link to {link}: {path} has no heading #{anchor}"));
                }
            }
        }
        for code in &document.code {
            for token in code {
                if checkout.is_path(token) {
                    paths += 1;
                    if !checkout.has(token) && !checkout.has(&resolve(&document.path, token)) && !is_built(token) {
                        fail(format!("path {token}: there is no such file or folder"));
                    }
                } else if NAMED.contains(&ending(token)) && !token.contains('/') && !checkout.has_name(token) {
                    fail(format!("file {token}: there is no file of this name"));
                }
            }
            for (at, _) in code.iter().enumerate().filter(|(_, token)| *token == "make") {
                let Some(target) = code[at + 1..].iter().find(|token| !token.contains('=')) else { continue };
                makes += 1;
                if !targets.contains(target.as_str()) {
                    fail(format!("{}: the Makefile has no such target", code[at..].join(" ")));
                }
            }
        }
    }
    assert!(documents.len() >= 8 && links >= 10 && paths >= 40 && makes >= 10, "{links} {paths} {makes}");
    failures.sort();
    failures.dedup();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The names that `text` contains and that are built of `prefix` and what a name may contain.
fn names<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn alerts_and_dashboard_name_only_what_exists() {
    let read = |path: &str| fs::read_to_string(repo().join(path)).unwrap();
    let (rules, tests) = (read("deploy/observe/alerts.yaml"), read("deploy/observe/alerts.test.yaml"));
    let anchors = Document::read("docs/alerts.md").anchors();
    let runbook = read("docs/alerts.md");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 15, "{} alerts", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let anchor = alert.split_once("runbook_url: docs/alerts.md#").map(|(_, rest)| rest.lines().next().unwrap());
        assert!(anchor.is_some_and(|anchor| anchors.contains(anchor)), "{name}: no heading #{anchor:?}");
        assert!(runbook.contains(&format!("`{name}`")), "{name}: docs/alerts.md does not name it");
        assert!(alert.contains("severity: critical") || alert.contains("severity: warning"), "{name}: no severity");
        assert!(tests.contains(&format!("alertname: {name}, exp_alerts: []")), "{name}: no test sees it silent");
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n")), "{name}: no test sees it fire");
    }
    for name in names(&runbook, "Dropgate") {
        assert!(rules.contains(&format!("alert: {name}\n")), "docs/alerts.md: there is no alert {name}");
    }

    // docs/metrics.md is compared with the code by a test of the issuer.
    let documented = read("docs/metrics.md");
    let mut found = 0;
    for path in [
        "deploy/observe/alerts.yaml",
        "deploy/observe/dashboard.json",
        "docs/alerts.md",
        "docs/operating.md",
        "docs/architecture.md",
    ] {
        let text = read(path);
        for name in names(&text, "dropgate_issuer_").into_iter().chain(names(&text, "process_")) {
            found += 1;
            let shown = name.trim_end_matches("_bucket");
            assert!(documented.contains(&format!("| `{shown}` |")), "{path}: there is no metric {name}");
        }
    }
    assert!(found >= 40, "{found} names");

    // The words of the gate's dataset.
    let sources = ["edge/src/labels.rs", "edge/src/counters.rs", "shared/src/redis_rest.rs"].map(read).concat();
    let queries = read("deploy/observe/gate.sql");
    let (statements, comments): (Vec<&str>, Vec<&str>) = queries.lines().partition(|line| !line.starts_with("--"));
    let statements = statements.concat();
    let quoted = statements.split('\'').skip(1).step_by(2).filter(|word| word.parse::<u32>().is_err());
    let comments = comments.concat();
    let labels = comments.split('`').skip(1).step_by(2).filter(|word| !word.starts_with('_') && *word != "dropgate");
    let words: BTreeSet<&str> = quoted.chain(labels).collect();
    assert!(words.len() >= 8, "{words:?}");
    for word in words {
        assert!(sources.contains(&format!("\"{word}\"")), "deploy/observe/gate.sql: the gate has no label {word}");
    }
}

#[test]
fn the_check_can_fail() {
    let checkout = Checkout::read();
    for path in ["edge/src/absent.rs", "absent/", "absent/file.yaml", "tests/absent/*.rs"] {
        assert!(checkout.is_path(path) && !checkout.has(path) && !is_built(path), "{path}");
    }
    for other in ["claims/me", "text/html", "100/min", "/c/{id}", "application/problem+json", "0/17"] {
        assert!(!checkout.is_path(other), "{other}");
    }
    assert!(checkout.has("migrations/*.sql") && checkout.has("docs/adr/") && is_built("target/test.log"));
    let document = Document::read("docs/architecture.md");
    assert!(document.anchors().contains("invariants"));
    assert_eq!(resolve("docs/a.md", "../issuer/src"), "issuer/src");
    assert_eq!(tokens("`make up`,"), ["`make", "up`"]);
    assert_eq!(tokens("(gate.rs::begin)."), ["gate.rs"]);
}
