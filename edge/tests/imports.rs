//! The arrows between the files of this crate: none leads in a circle. A file is a module; `crate::a::b::Item` is an arrow
//! to the file of `a::b`. Tests are a part of their file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Module path of each file below `dir`, and its text.
fn read(dir: &Path, module: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let inner = if module.is_empty() { stem.to_owned() } else { format!("{module}::{stem}") };
        if path.is_dir() {
            read(&path, &inner, files);
        } else {
            let name = if matches!(stem, "mod" | "lib") { module.to_owned() } else { inner };
            assert!(files.insert(name, fs::read_to_string(&path).unwrap()).is_none());
        }
    }
}

/// The module of a path to an item: its longest beginning that is a file.
fn module_of(path: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let mut module = path.trim_end_matches(':');
    loop {
        if !module.is_empty() && files.contains_key(module) {
            return Some(module.to_owned());
        }
        module = module.rsplit_once("::")?.0;
    }
}

fn arrows(files: &BTreeMap<String, String>) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, text) in files {
        let to = arrows.entry(module.clone()).or_default();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for line in &code {
            assert!(!line.contains("super::") || line.trim() == "use super::*;", "{module} imports by super::");
            for path in line.split("crate::").skip(1) {
                let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
                to.extend(module_of(&path[..end.unwrap_or(path.len())], files));
            }
            // A child by its own name: `use event::Event` beside `mod event;`.
            let child = line.strip_prefix("use ").and_then(|path| path.split([':', ';']).next()).unwrap_or_default();
            if code.contains(&format!("mod {child};").as_str()) {
                to.insert(format!("{module}::{child}"));
            }
        }
        to.remove(module);
    }
    arrows
}

/// A circle, if there is one: takes files away that import none of the others, until nothing changes.
fn circle(mut arrows: Arrows) -> BTreeSet<String> {
    loop {
        let left: BTreeSet<String> = arrows.keys().cloned().collect();
        arrows.retain(|_, to| to.iter().any(|module| left.contains(module)));
        if arrows.len() == left.len() {
            return left;
        }
    }
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let mut files = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    let mut arrows = arrows(&files);
    assert!(arrows["gate"].contains("gate::admissions") && arrows["worker"].contains("worker::event"), "{arrows:?}");
    assert_eq!(circle(arrows.clone()), BTreeSet::new(), "these files import each other in a circle");
    arrows.get_mut("labels").unwrap().insert("gate".to_owned());
    assert!(circle(arrows).contains("gate"), "a circle is not found");
}
