//! The gate's settings: variables of `wrangler.toml` and secrets. All problems are reported at once.

mod auth;
mod reader;

pub use crate::settings::reader::Environment;

use crate::identity::Auth;
use crate::outbox::schedule::SCHEDULE;
use crate::settings::reader::Reader;
use crate::upstream::kafka_rest::{Dialect, basic_authorization};
use crate::upstream::turnstile::Turnstile;
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::names::{KeyPrefix, TOPIC, is_topic_name};

/// When a user is told that they are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitAck {
    /// When Redis has admitted them.
    Redis,
    /// When Kafka has acknowledged the record too: then the admission survives a Redis that loses acknowledged writes
    /// in the same second in which an isolate ends.
    Kafka,
}

#[derive(Clone)]
pub struct Settings {
    /// `ENVIRONMENT`
    pub environment: Environment,
    /// `UPSTASH_REDIS_REST_URL`
    pub redis_url: String,
    /// `UPSTASH_REDIS_REST_TOKEN`
    pub redis_token: String,
    /// `UPSTASH_KEY_LOCKING`: scripts lock only their keys. Hosted Upstash only.
    pub redis_key_locking: bool,
    /// `REDIS_DEADLINE_MS`: time limit of one Redis call.
    pub redis_deadline_ms: u32,
    /// `REDIS_KEY_PREFIX`, the same as the issuer's.
    pub redis_key_prefix: KeyPrefix,
    /// `KAFKA_TOPIC`, the same as the issuer's.
    pub kafka_topic: String,
    /// `KAFKA_REST_URL`
    pub kafka_url: String,
    /// `KAFKA_REST_DIALECT`, and `KAFKA_CLUSTER_ID` for v3.
    pub kafka_dialect: Dialect,
    /// `KAFKA_REST_TOKEN` as `Bearer ..`, or `KAFKA_REST_USER` and `KAFKA_REST_PASSWORD` as `Basic ..`.
    pub kafka_authorization: Option<String>,
    /// `KAFKA_DEADLINE_MS`: time limit of one produce call.
    pub kafka_deadline_ms: u32,
    /// `ADMIT_ACK`
    pub admit_ack: AdmitAck,
    /// `SWEEP_CALLS`: calls that a run of the cron makes at most. The runtime grants an event 50 on its smallest plan; a
    /// few are kept for scripts that Redis must be sent again.
    pub sweep_calls: u32,
    /// `COUPON_CODE_SECRET`, the same as the issuer's, and `COUPON_CODE_SECRET_PREVIOUS`.
    pub code_secrets: CodeSecrets,
    /// `AUTH`, and for tokens `JWT_..`
    pub auth: Auth,
    /// `TURNSTILE_SECRET`, `TURNSTILE_SITE_KEY`, `TURNSTILE_URL`
    pub turnstile: Option<Turnstile>,
    /// `CORS_ORIGINS`: the pages that may read responses, beside those of the gate's own origin.
    pub cors_origins: Vec<String>,
    /// `LOG_SAMPLE`: the share of requests that leave a log line. Faults always do.
    pub log_sample: f64,
}

/// The settings that are missing or invalid. Each text names the setting and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(pub Vec<String>);

impl Settings {
    /// Reads the settings through `get`, which returns a variable or secret by name.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let reader = Reader::new(&get);
        let deadline_ms = |name: &str, default: u32| reader.number(name, default, (10, 30_000), "milliseconds");
        let settings = (|| {
            // All of them are read before the first that is missing ends it.
            let redis_url = reader.required_url("UPSTASH_REDIS_REST_URL");
            let redis_token = reader.required("UPSTASH_REDIS_REST_TOKEN", "the token of the Redis REST service");
            let kafka_url = reader.required_url("KAFKA_REST_URL");
            reject_example_secrets(&reader);
            let code_secrets = code_secrets(&reader);
            let redis_key_prefix = redis_key_prefix(&reader);
            let kafka_topic = kafka_topic(&reader);
            let auth = auth::read(&reader);
            let redis_key_locking = reader.word("UPSTASH_KEY_LOCKING", false, &[("true", true), ("false", false)]);
            let redis_deadline_ms = deadline_ms("REDIS_DEADLINE_MS", 3_000);
            let kafka_dialect = kafka_dialect(&reader);
            let kafka_authorization = kafka_authorization(&reader);
            let kafka_deadline_ms = deadline_ms("KAFKA_DEADLINE_MS", 10_000);
            let acks = [("redis", AdmitAck::Redis), ("kafka", AdmitAck::Kafka)];
            let admit_ack = reader.word("ADMIT_ACK", AdmitAck::Redis, &acks);
            let sweep_calls = reader.number("SWEEP_CALLS", SCHEDULE.cron_calls, (10, 10_000), "calls");
            let turnstile = turnstile(&reader);
            let cors_origins = cors_origins(&reader);
            let log_sample = log_sample(&reader);
            Some(Self {
                environment: reader.environment?,
                redis_url,
                redis_token,
                redis_key_locking,
                redis_deadline_ms,
                redis_key_prefix,
                kafka_topic,
                kafka_url,
                kafka_dialect,
                kafka_authorization,
                kafka_deadline_ms,
                admit_ack,
                sweep_calls,
                code_secrets: code_secrets?,
                auth: auth?,
                turnstile,
                cors_origins,
                log_sample,
            })
        })();
        let problems = reader.into_problems();
        settings.filter(|_| problems.is_empty()).ok_or(SettingsError(problems))
    }
}

/// The values in `.dev.vars.example` are public.
fn reject_example_secrets(reader: &Reader<'_>) {
    const SECRETS: [&str; 8] = [
        "COUPON_CODE_SECRET",
        "COUPON_CODE_SECRET_PREVIOUS",
        "JWT_SECRET",
        "JWT_SECRET_PREVIOUS",
        "UPSTASH_REDIS_REST_TOKEN",
        "KAFKA_REST_TOKEN",
        "KAFKA_REST_PASSWORD",
        "TURNSTILE_SECRET",
    ];
    if reader.environment == Some(Environment::Development) {
        return;
    }
    for name in SECRETS.into_iter().filter(|name| reader.find(name).is_some_and(|it| it.starts_with("change-me"))) {
        reader.problem(format!("{name} is the public value of the example file; expected a secret of your own"));
    }
}

fn redis_key_prefix(reader: &Reader<'_>) -> KeyPrefix {
    let prefix = reader.find("REDIS_KEY_PREFIX").map(|text| KeyPrefix::parse(&text));
    prefix.unwrap_or_else(|| Ok(KeyPrefix::default())).unwrap_or_else(|e| {
        reader.problem(format!("REDIS_KEY_PREFIX {e}"));
        KeyPrefix::default()
    })
}

fn kafka_topic(reader: &Reader<'_>) -> String {
    let topic = reader.find("KAFKA_TOPIC").unwrap_or_else(|| TOPIC.to_owned());
    if !is_topic_name(&topic) {
        reader.problem("KAFKA_TOPIC is not valid; expected letters, digits, '.', '_' and '-'");
    }
    topic
}

fn code_secrets(reader: &Reader<'_>) -> Option<CodeSecrets> {
    let parse =
        |name: &str, secret: &str| CodeSecret::parse(secret).map_err(|e| reader.problem(format!("{name}: {e}"))).ok();
    let secret = reader.required("COUPON_CODE_SECRET", "at least 16 bytes, the same as the issuer's");
    let previous = reader.find("COUPON_CODE_SECRET_PREVIOUS");
    let previous = previous.and_then(|secret| parse("COUPON_CODE_SECRET_PREVIOUS", &secret));
    if secret.is_empty() {
        return None;
    }
    Some(CodeSecrets::new(parse("COUPON_CODE_SECRET", &secret)?, previous))
}

fn kafka_authorization(reader: &Reader<'_>) -> Option<String> {
    match (reader.find("KAFKA_REST_TOKEN"), reader.find("KAFKA_REST_USER"), reader.find("KAFKA_REST_PASSWORD")) {
        (Some(token), None, None) => Some(format!("Bearer {token}")),
        (None, Some(user), Some(password)) => Some(basic_authorization(&user, &password)),
        (None, None, None) => None,
        _ => {
            reader.problem(
                "The Kafka REST credentials are ambiguous or incomplete; expected KAFKA_REST_TOKEN, \
                 or both KAFKA_REST_USER and KAFKA_REST_PASSWORD, or none",
            );
            None
        }
    }
}

fn kafka_dialect(reader: &Reader<'_>) -> Dialect {
    if !reader.word("KAFKA_REST_DIALECT", false, &[("v2", false), ("v3", true)]) {
        return Dialect::V2;
    }
    let cluster_id = reader.required("KAFKA_CLUSTER_ID", "the cluster's id, a part of the URL in v3");
    if !cluster_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        reader.problem("KAFKA_CLUSTER_ID is not valid; expected letters, digits, '-', '_' and '.'");
    }
    Dialect::V3 { cluster_id }
}

fn turnstile(reader: &Reader<'_>) -> Option<Turnstile> {
    const SITEVERIFY: &str = "https://challenges.cloudflare.com/turnstile/v0/siteverify";
    let site_key = reader.find("TURNSTILE_SITE_KEY");
    let Some(secret) = reader.find("TURNSTILE_SECRET") else {
        if site_key.is_some() {
            reader.problem(
                "TURNSTILE_SITE_KEY is set, and TURNSTILE_SECRET is not; expected both, or no claim is checked",
            );
        }
        return None;
    };
    let url = reader.find("TURNSTILE_URL");
    let url = url.map_or_else(|| SITEVERIFY.to_owned(), |url| reader.url("TURNSTILE_URL", &url));
    Some(Turnstile { url, secret, site_key })
}

fn cors_origins(reader: &Reader<'_>) -> Vec<String> {
    let origins = reader.find("CORS_ORIGINS").unwrap_or_default();
    let origins: Vec<String> =
        origins.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty()).collect();
    if !origins.iter().all(|origin| is_origin(origin)) {
        reader.problem(
            "CORS_ORIGINS is not valid; expected origins as browsers send them, separated by commas: \
             https://shop.example, in lower case, without a path and without *",
        );
    }
    origins
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    })
}

fn log_sample(reader: &Reader<'_>) -> f64 {
    match reader.find("LOG_SAMPLE").map(|v| v.parse::<f64>()) {
        None => 0.01,
        Some(Ok(share)) if (0.0..=1.0).contains(&share) => share,
        Some(_) => {
            reader.problem("LOG_SAMPLE is not valid; expected a number from 0 to 1");
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const GOOD: [(&str, &str); 6] = [
        ("ENVIRONMENT", "development"),
        ("UPSTASH_REDIS_REST_URL", "https://redis.example/"),
        ("UPSTASH_REDIS_REST_TOKEN", "token"),
        ("KAFKA_REST_URL", "http://kafka.example"),
        ("COUPON_CODE_SECRET", "0123456789abcdef"),
        ("AUTH", "insecure-header"),
    ];

    #[test]
    fn reads_the_settings_and_their_defaults() {
        let settings = read(&GOOD).unwrap();
        assert_eq!(settings.redis_url, "https://redis.example");
        assert_eq!(settings.kafka_authorization, None);
        assert_eq!(settings.redis_deadline_ms, 3_000);
        assert!(!settings.redis_key_locking);
    }

    #[test]
    fn names_every_problem_at_once_and_repeats_no_value() {
        let error = read(&[
            ("UPSTASH_REDIS_REST_URL", "s3cret-in-the-wrong-place"),
            ("COUPON_CODE_SECRET", "tooshort"),
            ("REDIS_DEADLINE_MS", "soon"),
            ("REDIS_KEY_PREFIX", "no colon"),
            ("KAFKA_TOPIC", "a/b"),
            ("TURNSTILE_SITE_KEY", "0x4AAA"),
        ])
        .err()
        .unwrap();
        let text = error.to_string();
        for name in [
            "UPSTASH_REDIS_REST_URL is not a URL",
            "UPSTASH_REDIS_REST_TOKEN is missing",
            "KAFKA_REST_URL is missing",
            "COUPON_CODE_SECRET: the coupon code secret needs at least 16 bytes, this one has 8",
            "REDIS_DEADLINE_MS is not valid; expected a number of milliseconds from 10 to 30000",
            "REDIS_KEY_PREFIX must have 2 to 32 characters",
            "KAFKA_TOPIC is not valid; expected letters",
            "TURNSTILE_SITE_KEY is set, and TURNSTILE_SECRET is not",
            "AUTH is missing",
            "ENVIRONMENT is missing",
        ] {
            assert!(text.contains(name), "{name} not in {text}");
        }
        assert!(!text.contains("s3cret") && !text.contains("tooshort") && !text.contains("soon"));
    }

    fn problems(more: &[(&str, &str)]) -> String {
        read(&[&GOOD, more].concat()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn rejects_insecure_settings_outside_development() {
        for environment in ["staging", "production"] {
            let problems = problems(&[("ENVIRONMENT", environment)]);
            assert!(problems.contains("AUTH=insecure-header trusts every X-User-Id"), "{problems}");
        }
        let problems = problems(&[
            ("ENVIRONMENT", "production"),
            ("AUTH", "jwt-hs256"),
            ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("COUPON_CODE_SECRET", "change-me-to-something-long"),
        ]);
        assert!(problems.contains("KAFKA_REST_URL is not encrypted; expected https://.. where"), "{problems}");
        assert!(problems.contains("COUPON_CODE_SECRET is the public value of the example file"), "{problems}");
    }

    /// Tools that deploy a repository take each line that is no comment for a secret, with the value in the file.
    #[test]
    fn the_example_file_sets_nothing() {
        let example = include_str!("../../.dev.vars.example");
        let set: Vec<&str> = example.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(set.is_empty(), "{set:?}");
    }

    /// Every secret of the example file is rejected where others have access, and accepted in development.
    #[test]
    fn rejects_the_secrets_of_the_example_file() {
        let example = include_str!("../../.dev.vars.example");
        let shown: Vec<&str> = example
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_once("=change-me"))
            .map(|(n, _)| n)
            .collect();
        assert!(shown.contains(&"JWT_SECRET") && shown.contains(&"KAFKA_REST_TOKEN"), "{shown:?}");
        for name in shown {
            let settings = [(name, "change-me-to-at-least-32-bytes....")];
            for environment in ["staging", "production"] {
                let problems = problems(&[&settings[..], &[("ENVIRONMENT", environment)]].concat());
                assert!(
                    problems.contains(&format!("{name} is the public value of the example file")),
                    "{name}: {problems}"
                );
            }
            assert!(!problems(&settings).contains("example file"), "{name}");
        }
    }

    #[test]
    fn a_kind_of_authentication_requires_its_settings() {
        for (settings, says) in [
            (vec![("AUTH", "jwt-hs256")], "JWT_SECRET is missing"),
            (
                vec![("AUTH", "jwt-hs256"), ("JWT_SECRET", "short")],
                "JWT_SECRET has 5 bytes; HS256 needs at least 32 bytes",
            ),
            (vec![("AUTH", "jwt-jwks")], "JWT_JWKS_URL is missing"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", "https://x/jwks")], "JWT_AUDIENCE is missing"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_ISSUER", "https://x/")], "JWT_AUDIENCE is missing"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_AUDIENCE", "any")], "JWT_ISSUER is missing"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_ALGORITHMS", "RS256, none")], "JWT_ALGORITHMS is not supported"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_ALGORITHMS", "HS256")], "JWT_ALGORITHMS is not supported"),
            (vec![("AUTH", "none")], "AUTH is not supported; expected jwt-hs256"),
        ] {
            let problems = problems(&settings);
            assert!(problems.contains(says), "{problems}");
        }
        let jwks = [("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", "https://x/jwks"), ("JWT_AUDIENCE", "dropgate")];
        assert!(matches!(read(&[&GOOD[..], &jwks].concat()).unwrap().auth, Auth::KeySet { .. }));
        let any = [("JWT_AUDIENCE", "any"), ("JWT_ISSUER", "https://x/")];
        let auth = read(&[&GOOD[..], &jwks, &any].concat()).unwrap().auth;
        assert!(matches!(auth, Auth::KeySet { validation, .. } if validation.audience.is_none()));
    }

    #[test]
    fn the_other_settings_are_checked() {
        for (name, value, says) in [
            ("CORS_ORIGINS", "*", "CORS_ORIGINS is not valid"),
            ("CORS_ORIGINS", "https://shop.example/", "CORS_ORIGINS is not valid"),
            ("ADMIT_ACK", "mysql", "ADMIT_ACK is not supported; expected redis or kafka"),
            ("KAFKA_REST_DIALECT", "v3", "KAFKA_CLUSTER_ID is missing"),
            ("KAFKA_REST_DIALECT", "v1", "KAFKA_REST_DIALECT is not supported; expected v2 or v3"),
            ("LOG_SAMPLE", "2", "LOG_SAMPLE is not valid"),
            ("LOG_SAMPLE", "NaN", "LOG_SAMPLE is not valid"),
            ("ENVIRONMENT", "prod", "ENVIRONMENT is not supported; expected development or staging or production"),
        ] {
            let problems = problems(&[(name, value)]);
            assert!(problems.contains(says), "{problems}");
        }
        let settings = read(&[&GOOD[..], &[("CORS_ORIGINS", "https://a.example, http://localhost:3000")]].concat());
        assert_eq!(settings.unwrap().cors_origins, ["https://a.example", "http://localhost:3000"]);
    }

    #[test]
    fn kafka_credentials_are_complete_or_absent() {
        let mut pairs = GOOD.to_vec();
        pairs.push(("KAFKA_REST_USER", "user"));
        assert!(read(&pairs).is_err());
        pairs.push(("KAFKA_REST_PASSWORD", "pass"));
        assert_eq!(read(&pairs).unwrap().kafka_authorization.as_deref(), Some("Basic dXNlcjpwYXNz"));
    }
}
