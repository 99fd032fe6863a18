//! Imports point downward: between the crates, by the layers below, and between the modules of a crate, where no
//! circle is allowed. A module is a file here.
//!
//! An import is any path from one file into another: `use crate::a::B`, `super::c()` in the middle of a function,
//! and the path by which a parent uses its child module. `mod` declarations and code under `#[cfg(test)]` do not count.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::repo;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::visit::{self, Visit};

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repo())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn crates_import_only_crates_of_lower_layers() {
    const SHARED: &[&str] = &["dropgate-shared"];
    const ALL: &[&str] = &[
        "dropgate-devstack",
        "dropgate-burst",
        "dropgate-edge",
        "dropgate-issuer",
        "dropgate-rest-proxy",
        "dropgate-shared",
    ];
    const TESTS: &[&str] = &["dropgate-devstack", "dropgate-shared", "dropgate-simulator"];
    const FUZZ: &[&str] = &["dropgate-edge", "dropgate-shared"];
    let allowed = |name: &str| match name {
        "dropgate-shared" | "dropgate-rest-proxy" => &[],
        "dropgate-devstack" | "dropgate-burst" | "dropgate-edge" | "dropgate-issuer" => SHARED,
        "dropgate-bench" | "dropgate-simulator" => ALL,
        // Random faults on real servers are judged by the simulator's oracle.
        "dropgate-tests" => TESTS,
        "dropgate-fuzz" => FUZZ,
        other => panic!("{other} has no layer: add it here"),
    };
    let packages = packages();
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            assert!(
                !dependency.starts_with("dropgate-") || allowed(name).contains(&dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
    let names: Vec<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert!(ALL.iter().all(|name| names.contains(name)), "a crate is missing in {names:?}");
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let (mut circles, mut imports) = (Vec::new(), 0);
    for package in packages() {
        for target in package["targets"].as_array().unwrap() {
            let is_code = |kind: &Value| ["lib", "rlib", "cdylib", "bin"].iter().any(|code| kind == code);
            if !target["kind"].as_array().unwrap().iter().any(is_code) {
                continue;
            }
            let imported = Imports::of(Path::new(target["src_path"].as_str().unwrap()));
            imports += imported.values().map(BTreeSet::len).sum::<usize>();
            circles.extend(circles_of(&imported).into_iter().map(|circle| {
                let relative = |file: &PathBuf| file.strip_prefix(repo()).unwrap_or(file).display().to_string();
                circle.iter().map(relative).collect::<Vec<_>>().join(" -> ")
            }));
        }
    }
    assert!(imports > 100, "found only {imports} imports: the sources are not read");
    assert!(circles.is_empty(), "{} circles of imports:\n{}", circles.len(), circles.join("\n"));
}

/// The checker itself finds each form of an import, and ignores what does not count.
#[test]
fn circles_of_every_form_are_found() {
    let circles = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        circles_of(&Imports::of(&dir.path().join("lib.rs"))).len()
    };
    let root = ("lib.rs", "mod a; mod b;");
    for (a, b) in [
        ("use crate::b::B;", "use super::a::A;"),
        ("use crate::{b::{self}, c};", "fn f() { crate::a::f() }"),
        ("use super::b::*;", "fn f() { let x: Vec<super::a::A> = vec![super::a::new()]; }"),
        ("mod inline { use super::super::b; }", "impl crate::a::A for B {}"),
    ] {
        assert_eq!(circles(&[root, ("a.rs", a), ("b.rs", b)]), 1, "{a} {b}");
        assert_eq!(circles(&[root, ("a.rs", a), ("b.rs", "")]), 0, "{a}");
        assert_eq!(circles(&[root, ("a.rs", a), ("b.rs", &format!("#[cfg(test)] mod tests {{ {b} }}"))]), 0, "{b}");
    }
    // A parent that uses its child, which uses its parent.
    let child = ("a/c.rs", "use super::Type; pub(super) fn f() {}");
    assert_eq!(circles(&[("lib.rs", "mod a;"), ("a/mod.rs", "mod c; use c::f; struct Type;"), child]), 1);
    assert_eq!(circles(&[("lib.rs", "mod a;"), ("a.rs", "mod c; fn g() { c::f() }"), child]), 1);
    assert_eq!(circles(&[("lib.rs", "mod a;"), ("a.rs", "mod c; struct Type;"), child]), 0);
    // Longer than two files, with a re-export in the root.
    let root = ("lib.rs", "mod a; mod b; mod c; pub use c::C;");
    assert_eq!(circles(&[root, ("a.rs", "use crate::b;"), ("b.rs", "use crate::C;"), ("c.rs", "use crate::a::A;")]), 1);
}

type Module = Vec<String>;

fn child(module: &[String], name: &str) -> Module {
    [module, &[name.to_owned()]].concat()
}

/// The modules of a crate and the paths in them.
#[derive(Default)]
struct Imports {
    files: BTreeMap<Module, PathBuf>,
    paths: Vec<(Module, Vec<String>)>,
}

impl Imports {
    /// For each file of the crate with this root, the files that it imports.
    fn of(root: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
        let mut imports = Self::default();
        Reader::read(&mut imports, root.to_owned(), root.parent().unwrap().to_owned(), Vec::new());
        let mut edges: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for (module, path) in &imports.paths {
            let (from, to) = (&imports.files[module], imports.target(module, path));
            if let Some(to) = to.filter(|to| *to != from) {
                edges.entry(from.clone()).or_default().insert(to.clone());
            }
        }
        edges
    }

    /// The file that `path`, written in `module`, leads to; `None` outside this crate.
    fn target(&self, module: &Module, path: &[String]) -> Option<&PathBuf> {
        let mut at = match path[0].as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len() - 1].to_vec(),
            // A name alone may be a variable.
            _ if path.len() > 1 && self.files.contains_key(&child(module, &path[0])) => child(module, &path[0]),
            _ => return None,
        };
        for name in &path[1..] {
            match name.as_str() {
                "self" => {}
                "super" => drop(at.pop()),
                _ if self.files.contains_key(&child(&at, name)) => at = child(&at, name),
                _ => break,
            }
        }
        self.files.get(&at)
    }
}

/// Reads one file, and the files of the modules that it declares.
struct Reader<'a> {
    imports: &'a mut Imports,
    file: PathBuf,
    /// Where the files of child modules are.
    dir: PathBuf,
    module: Module,
}

impl Reader<'_> {
    fn read(imports: &mut Imports, file: PathBuf, dir: PathBuf, module: Module) {
        let source = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
        imports.files.insert(module.clone(), file.clone());
        Reader { imports, file, dir, module }.visit_file(&source);
    }

    fn add(&mut self, path: Vec<String>) {
        self.imports.paths.push((self.module.clone(), path));
    }

    fn add_use(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| child(prefix, &name.to_string());
        match tree {
            syn::UseTree::Path(path) => self.add_use(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(with(&name.ident)),
            syn::UseTree::Rename(name) => self.add(with(&name.ident)),
            syn::UseTree::Glob(_) => self.add(child(prefix, "*")),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(prefix, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        let is_test = |attribute: &syn::Attribute| {
            let syn::Meta::List(list) = &attribute.meta else { return false };
            list.path.is_ident("cfg") && list.tokens.to_string() == "test"
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let module = child(&self.module, &name);
        let dir = self.dir.join(&name);
        if item.content.is_some() {
            self.imports.files.insert(module.clone(), self.file.clone());
            let mut inline = Reader { imports: self.imports, file: self.file.clone(), dir, module };
            visit::visit_item_mod(&mut inline, item);
        } else {
            let files = [self.dir.join(format!("{name}.rs")), dir.join("mod.rs")];
            let file = files.into_iter().find(|file| file.exists());
            let file = file.unwrap_or_else(|| panic!("{}: no file for mod {name}", self.file.display()));
            Self::read(self.imports, file, dir, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// Its tokens have no syntax tree: every path in them counts.
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let text = item.tokens.to_string().replace(" :: ", "::");
        let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
        for word in text.split(|c| !is_path(c)).filter(|word| word.contains("::") && !word.starts_with(':')) {
            self.add(word.split("::").map(str::to_owned).collect());
        }
    }

    /// `pub(in path)` is not an import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// One circle, the shortest, of each group of files that import each other. It begins and ends with the same file.
fn circles_of(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<Vec<PathBuf>> {
    let (mut circles, mut seen) = (Vec::<Vec<PathBuf>>::new(), BTreeSet::new());
    for start in imports.keys() {
        if seen.contains(start) {
            continue;
        }
        let reached = paths_from(imports, start);
        seen.extend(reached.keys().filter(|file| paths_from(imports, file).contains_key(start)).cloned());
        circles.extend(reached.get(start).cloned());
    }
    circles
}

/// The shortest path from `start` to each file that it reaches, by way of at least one import.
fn paths_from(imports: &BTreeMap<PathBuf, BTreeSet<PathBuf>>, start: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut reached = BTreeMap::new();
    let mut queue = VecDeque::from([vec![start.to_owned()]]);
    while let Some(path) = queue.pop_front() {
        for next in imports.get(path.last().unwrap()).into_iter().flatten() {
            if !reached.contains_key(next) {
                let mut longer = path.clone();
                longer.push(next.clone());
                reached.insert(next.clone(), longer.clone());
                queue.push_back(longer);
            }
        }
    }
    reached
}
