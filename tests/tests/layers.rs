//! The arrows between the crates: shared knows nobody, the gate and the issuer know only shared, and
//! whatever drives them stands above.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::repo;
use serde_json::Value;
use std::process::Command;

#[test]
fn no_crate_knows_one_above_it() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repo())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = |name: &str| -> &[&str] {
        match name {
            "dropgate-shared" => &[],
            "dropgate-edge" | "dropgate-issuer" | "dropgate-local" | "dropgate-burst" => &["dropgate-shared"],
            "dropgate-bench" => &["dropgate-shared", "dropgate-local", "dropgate-burst"],
            "dropgate-simulator" => &["dropgate-shared", "dropgate-edge", "dropgate-issuer"],
            "dropgate-tests" => &["dropgate-shared", "dropgate-local"],
            other => panic!("say here what {other} may know"),
        }
    };
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), 8);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let dependency = dependency["name"].as_str().unwrap();
            assert!(
                !dependency.starts_with("dropgate-") || allowed(name).contains(&dependency),
                "{name} must not know {dependency}"
            );
        }
    }
}
