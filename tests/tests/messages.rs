//! Commands that fail report the reason and the remedy. No servers are needed for that.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_tests::{programs, repo};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

fn assert_fails_with(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it succeeded: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

#[test]
fn a_taken_or_invalid_port_is_named_with_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    for (variable, value) in [("REDIS_PORT", port.as_str()), ("MYSQL_PORT", port.as_str()), ("REDIS_PORT", "soon")] {
        let output = Command::new(programs().join("dropgate-devstack"))
            .args(["--repo", repo().to_str().unwrap(), "--dir", dir.path().to_str().unwrap(), "demo"])
            .env(variable, value)
            .output()
            .unwrap();
        assert_fails_with(&output, &[variable, value, "port"]);
    }
}

#[test]
fn an_unreachable_database_is_named_without_its_password() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = Command::new(programs().join("issuer"))
        .arg("migrate")
        .env("DATABASE_URL", format!("mysql://dropgate:s3cret@127.0.0.1:{free}/dropgate"))
        .output()
        .unwrap();
    assert_fails_with(&output, &["DATABASE_URL", &free.to_string()]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cret"));
}

#[test]
fn the_issuer_names_every_missing_setting_at_once() {
    let output = Command::new(programs().join("issuer")).arg("run").env_clear().output().unwrap();
    assert_fails_with(
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

/// Runs setup with only some of the programs that it needs in the PATH.
fn setup_with(programs: &[&str]) -> Output {
    let bin = tempfile::tempdir().unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for program in ["bash", "env", "dirname", "mkdir", "sed", "grep", "uname", "id"].iter().chain(programs) {
        let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists());
        symlink(
            found.unwrap_or_else(|| panic!("{program} is not installed on this machine")),
            bin.path().join(program),
        )
        .unwrap();
    }
    Command::new(repo().join("devstack/setup")).env("PATH", bin.path()).output().unwrap()
}

#[test]
fn setup_names_the_missing_program_and_how_to_install_it() {
    assert_fails_with(&setup_with(&[]), &["'cargo' is not installed", "rustup.rs"]);
    assert_fails_with(&setup_with(&["cargo", "rustup"]), &["'node' is not installed", "nodejs.org"]);
    assert_fails_with(
        &setup_with(&["cargo", "rustup", "node", "npm"]),
        &["'java' is not installed", "openjdk", "KAFKA_BOOTSTRAP"],
    );
}
