//! No secret is printed: a canary in every place of every setting that may hold one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

const CANARY: &str = "c4n4ry";

/// A variable, values with a canary, and a value without one that suits the others.
type Setting = (&'static str, &'static [&'static str], &'static str);

/// Nothing listens on port 1.
const SETTINGS: [Setting; 12] = [
    (
        "DATABASE_URL",
        &[
            "mysql://c4n4ry:p@127.0.0.1:1/d",
            "mysql://u:c4n4ry@127.0.0.1:1/d",
            "mysql://c4n4ry@127.0.0.1:1/d",
            "mysql://u:p@127.0.0.1:1/d?password=c4n4ry",
            "mysql://u:p@127.0.0.1:1/d?charset=c4n4ry",
            "mysql://u:p@127.0.0.1:1/d?ssl-mode=c4n4ry",
            "mysql://u:p@127.0.0.1:1/d?ssl-key=/c4n4ry",
            "mysql://u:p@127.0.0.1:1/d#c4n4ry",
            "mysql://u:1/c4n4ry@127.0.0.1:1/d",
            "mysql://u:1#c4n4ry@127.0.0.1:1/d",
            "mysql://u:1?c4n4ry@127.0.0.1:1/d",
            "mysql://u:c4n4ry@127.0.0.1:1",
            "mysql://u:c4n4ry@127.0.0.1:one/d",
            "postgres://u:c4n4ry@127.0.0.1:1/d",
            "u:c4n4ry@127.0.0.1:1/d",
            "c4n4ry",
        ],
        "mysql://u:p@127.0.0.1:1/d",
    ),
    (
        "UPSTASH_REDIS_REST_URL",
        &[
            "http://127.0.0.1:1/?_token=c4n4ry",
            "http://127.0.0.1:1?_token=c4n4ry",
            "http://c4n4ry@127.0.0.1:1",
            "http://u:c4n4ry@127.0.0.1:1",
            "http://127.0.0.1:1/c4n4ry",
            "http://127.0.0.1:1/#c4n4ry",
            "redis://u:c4n4ry@127.0.0.1:1",
            "c4n4ry",
        ],
        "http://127.0.0.1:1",
    ),
    ("UPSTASH_REDIS_REST_TOKEN", &["c4n4ry", "c4n4ry with a space", "\u{e9}c4n4ry"], "t"),
    ("COUPON_CODE_SECRET", &["c4n4ry", "c4n4ry-c4n4ry-c4n4ry"], "0123456789abcdef"),
    ("COUPON_CODE_SECRET_PREVIOUS", &["c4n4ry", "c4n4ry-c4n4ry-c4n4ry"], "0123456789abcdeg"),
    (
        "KAFKA_BOOTSTRAP",
        &["u:c4n4ry@127.0.0.1:1", "127.0.0.1:1?password=c4n4ry", "SASL_SSL://u:c4n4ry@127.0.0.1:1"],
        "127.0.0.1:1",
    ),
    ("KAFKA_SECURITY_PROTOCOL", &[], "sasl_plaintext"),
    ("KAFKA_SASL_MECHANISM", &[], "PLAIN"),
    ("KAFKA_SASL_USERNAME", &[], "u"),
    ("KAFKA_SASL_PASSWORD", &["c4n4ry"], "p"),
    (
        "KAFKA_OPTIONS",
        &[
            "ssl.key.password=c4n4ry",
            "sasl.passwrd=c4n4ry",
            "session.timeout.ms=c4n4ry",
            "acks=c4n4ry",
            "sasl.password=a,c4n4ry",
            "sasl.password=a,c4n4ry=b",
            "=c4n4ry",
        ],
        "session.timeout.ms=9000",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        &[
            "http://127.0.0.1:1/?api-key=c4n4ry",
            "http://127.0.0.1:1/c4n4ry",
            "http://u:c4n4ry@127.0.0.1:1",
            "http://u:c4n4ry@127.0.0.1:1 2",
            "c4n4ry",
        ],
        "http://127.0.0.1:1",
    ),
];

fn issuer(verb: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_issuer"));
    command.args(verb).env_clear().env("HTTP_LISTEN", "127.0.0.1:0").envs(settings.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Everything that a verb prints; of `run`, which waits for its servers, until it says so.
fn output(verb: &[&str], settings: &[(&str, &str)]) -> String {
    if verb != ["run"] {
        let done = issuer(verb, settings).output().unwrap();
        return format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    }
    let mut child = issuer(verb, settings).env("RUST_LOG", "debug").spawn().unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while lines.read_line(&mut text).unwrap() > 0 && !text.contains("waiting: ") {}
    child.kill().unwrap();
    lines.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

fn harmless() -> Vec<(&'static str, &'static str)> {
    SETTINGS.iter().map(|(name, _, value)| (*name, *value)).collect()
}

#[test]
fn no_start_line_no_check_and_no_error_shows_a_secret() {
    let start = output(&["run"], &harmless());
    assert!(
        ["mysql://127.0.0.1:1/d", "http://127.0.0.1:1", "waiting: "].iter().all(|part| start.contains(part)),
        "{start}"
    );
    let check = |verb: &[&str], settings: &[(&str, &str)]| {
        let text = output(verb, settings);
        assert!(!text.is_empty() && !text.contains(CANARY), "{verb:?} with {settings:?}:\n{text}");
    };
    // Each value among harmless ones, so that no other problem ends the start before it is used.
    for (index, (_, values, _)) in SETTINGS.iter().enumerate() {
        for value in *values {
            let mut settings = harmless();
            settings[index].1 = value;
            check(&["run"], &settings);
        }
    }
    // The checks go on after a problem: one value of each setting at a time.
    std::thread::scope(|scope| {
        for round in 0..SETTINGS.iter().map(|(_, values, _)| values.len()).max().unwrap() {
            let settings = SETTINGS.map(|(name, values, value)| (name, *values.get(round).unwrap_or(&value)));
            let check = &check;
            scope.spawn(move || {
                check(&["check-config"], &settings);
                check(&["run", "--help"], &settings);
                check(&["campaign", "list"], &settings);
            });
        }
    });
}

#[test]
fn a_secret_in_a_file_is_read_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let not_secret = ["KAFKA_BOOTSTRAP", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME"];
    let settings: Vec<(String, String)> = SETTINGS
        .map(|(name, _, value)| {
            if not_secret.contains(&name) {
                return (name.to_owned(), value.to_owned());
            }
            let (file, path) = (format!("{name}_FILE"), folder.path().join(name).display().to_string());
            fs::write(&path, "\n").unwrap();
            let empty = output(&["check-config"], &[(&file, &path)]);
            assert!(empty.contains(&format!("{file} {path} is empty")), "{empty}");
            fs::write(&path, format!("{value}\n")).unwrap();
            let both = output(&["check-config"], &[(name, CANARY), (&file, &path)]);
            assert!(both.contains(&format!("{name} and {file} are both set")) && !both.contains(CANARY), "{both}");
            let missing = output(&["check-config"], &[(&file, "/no/such/file")]);
            assert!(missing.contains(&format!("{file} /no/such/file: ")), "{missing}");
            (file, path)
        })
        .into();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
    let started = output(&["run"], &settings);
    assert!(started.contains("mysql://127.0.0.1:1/d") && started.contains("waiting: "), "{started}");
}
