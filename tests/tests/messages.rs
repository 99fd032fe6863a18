//! Commands that cannot do their work say why, and what helps. No servers are needed to fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{programs, repo};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

fn says(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it did not fail: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_with_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    for (variable, value) in [("REDIS_PORT", port.as_str()), ("MYSQL_PORT", port.as_str()), ("REDIS_PORT", "soon")] {
        let output = Command::new(programs().join("dropgate-local"))
            .args(["--repo", repo().to_str().unwrap(), "--dir", dir.path().to_str().unwrap(), "demo"])
            .env(variable, value)
            .output()
            .unwrap();
        says(&output, &[variable, value, "port"]);
    }
}

#[test]
fn a_database_that_is_away_is_named_without_its_password() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = Command::new(programs().join("issuer"))
        .arg("migrate")
        .env("DATABASE_URL", format!("mysql://dropgate:s3cret@127.0.0.1:{free}/dropgate"))
        .output()
        .unwrap();
    says(&output, &["DATABASE_URL", &free.to_string()]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cret"));
}

#[test]
fn the_issuer_names_every_missing_setting_at_once() {
    let output = Command::new(programs().join("issuer")).arg("run").env_clear().output().unwrap();
    says(
        &output,
        &[
            "DATABASE_URL",
            "KAFKA_BOOTSTRAP",
            "UPSTASH_REDIS_REST_URL",
            "UPSTASH_REDIS_REST_TOKEN",
            "COUPON_CODE_SECRET",
        ],
    );
}

/// Set-up with only some of the programs it needs on the PATH.
fn setup_with(programs: &[&str]) -> Output {
    let bin = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for program in ["bash", "env", "dirname", "mkdir", "sed", "grep", "uname", "id"].iter().chain(programs) {
        let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists());
        symlink(found.unwrap_or_else(|| panic!("no {program} on this machine")), bin.path().join(program)).unwrap();
    }
    Command::new(repo().join("local/setup")).env("PATH", bin.path()).output().unwrap()
}

#[test]
fn set_up_names_the_program_that_is_missing_and_where_to_get_it() {
    says(&setup_with(&[]), &["no 'cargo'", "rustup.rs"]);
    says(&setup_with(&["cargo", "rustup"]), &["no 'node'", "nodejs.org"]);
    says(&setup_with(&["cargo", "rustup", "node", "npm"]), &["no 'java'", "openjdk", "KAFKA_BOOTSTRAP"]);
}
