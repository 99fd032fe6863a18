//! What the gate is told by `wrangler.toml` and its secrets. Every problem is reported at once.

use crate::identity::Auth;
use crate::identity::jwt::{Algorithm, Secret, Validation};
use crate::upstream::kafka_rest::{Dialect, basic_authorization};
use crate::upstream::turnstile::Challenge;
use dropgate_shared::code::CodeSecret;
use std::cell::RefCell;
use std::fmt;

/// Where the gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// On somebody's own machine: insecure settings are allowed, answers tell more.
    Development,
    /// Deployed, for trying.
    Staging,
    /// Deployed, for everybody: insecure settings are refused.
    Production,
}

/// When a visitor hears that he is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmitAck {
    /// When Redis has admitted him.
    Redis,
    /// When Kafka has acknowledged the record too: for those who must survive a Redis that loses
    /// acknowledged writes in the same second in which an isolate dies.
    Kafka,
}

/// The gate's configuration.
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
    /// `REDIS_DEADLINE_MS`: how long one Redis call may take.
    pub redis_deadline_ms: u32,
    /// `KAFKA_REST_URL`
    pub kafka_url: String,
    /// `KAFKA_REST_DIALECT`, and `KAFKA_CLUSTER_ID` for v3.
    pub kafka_dialect: Dialect,
    /// `KAFKA_REST_TOKEN` as `Bearer ..`, or `KAFKA_REST_USER` and `KAFKA_REST_PASSWORD` as `Basic ..`.
    pub kafka_authorization: Option<String>,
    /// `KAFKA_DEADLINE_MS`: how long one produce call may take.
    pub kafka_deadline_ms: u32,
    /// `ADMIT_ACK`
    pub admit_ack: AdmitAck,
    /// `COUPON_CODE_SECRET`, the same as the issuer's.
    pub code_secret: CodeSecret,
    /// `AUTH`, and what belongs to each kind of it: `JWT_..`
    pub auth: Auth,
    /// `TURNSTILE_SECRET`, `TURNSTILE_URL`
    pub challenge: Option<Challenge>,
    /// `CORS_ORIGINS`: the pages that may read answers, beside those of the gate's own origin.
    pub cors_origins: Vec<String>,
    /// `LOG_SAMPLE`: the share of requests that leave a line in the log. Faults always do.
    pub log_sample: f64,
}

/// The settings that are missing or wrong, each with its name and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for SettingsError {}

/// Reads settings by name and keeps what is wrong with them. No value is repeated: it may be a secret.
struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: RefCell<Vec<String>>,
}

impl Reader<'_> {
    fn problem(&self, text: impl Into<String>) {
        self.problems.borrow_mut().push(text.into());
    }

    /// The setting, if it is there and not empty.
    fn find(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    fn needed(&self, name: &str, what: &str) -> String {
        self.find(name).unwrap_or_else(|| {
            self.problem(format!("{name} is missing: {what}"));
            String::new()
        })
    }

    /// An address, without the slash at its end. Secrets go there, so production wants TLS.
    fn url(&self, name: &str, value: &str, environment: Option<Environment>) -> String {
        if !value.starts_with("https://") && !value.starts_with("http://") {
            self.problem(format!("{name} must begin with https:// or http://"));
        } else if environment == Some(Environment::Production) && !value.starts_with("https://") {
            self.problem(format!("{name} must begin with https:// where ENVIRONMENT=production"));
        }
        value.trim_end_matches('/').to_owned()
    }

    fn needed_url(&self, name: &str, environment: Option<Environment>) -> String {
        let value = self.needed(name, "the address of the service, https://..");
        if value.is_empty() { value } else { self.url(name, &value, environment) }
    }

    /// A number within bounds, or the usual one.
    fn number(&self, name: &str, usual: u32, (least, most): (u32, u32), unit: &str) -> u32 {
        match self.find(name).map(|v| v.parse::<u32>()) {
            None => usual,
            Some(Ok(n)) if (least..=most).contains(&n) => n,
            Some(_) => {
                self.problem(format!("{name} must be a number of {unit} from {least} to {most}"));
                usual
            }
        }
    }

    /// One of several words, or the usual one.
    fn word<T: Copy>(&self, name: &str, usual: T, words: &[(&str, T)]) -> T {
        let Some(value) = self.find(name) else { return usual };
        words.iter().find(|(word, _)| *word == value).map_or_else(
            || {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                self.problem(format!("{name} must be {}", words.join(" or ")));
                usual
            },
            |(_, meaning)| *meaning,
        )
    }

    fn secret(&self, name: &str, value: &str) -> Option<Secret> {
        let secret = Secret::parse(value);
        if let Err(bytes) = secret {
            self.problem(format!("{name} needs at least 32 bytes for HS256, this one has {bytes}"));
        }
        secret.ok()
    }

    fn environment(&self) -> Option<Environment> {
        let name = "ENVIRONMENT";
        if self.find(name).is_none() {
            self.problem(format!("{name} is missing: development, staging or production"));
            return None;
        }
        let words = [
            ("development", Some(Environment::Development)),
            ("staging", Some(Environment::Staging)),
            ("production", Some(Environment::Production)),
        ];
        self.word(name, None, &words)
    }

    /// What `.dev.vars.example` holds is known to everybody.
    fn no_examples(&self, environment: Option<Environment>) {
        const SECRETS: [&str; 7] = [
            "COUPON_CODE_SECRET",
            "JWT_SECRET",
            "JWT_SECRET_PREVIOUS",
            "UPSTASH_REDIS_REST_TOKEN",
            "KAFKA_REST_TOKEN",
            "KAFKA_REST_PASSWORD",
            "TURNSTILE_SECRET",
        ];
        if environment == Some(Environment::Development) {
            return;
        }
        for name in SECRETS.into_iter().filter(|name| self.find(name).is_some_and(|it| it.starts_with("change-me"))) {
            self.problem(format!("{name} is still the example's, which everybody knows"));
        }
    }

    fn code_secret(&self) -> Option<CodeSecret> {
        let secret = self.needed("COUPON_CODE_SECRET", "at least 16 bytes, the same as the issuer's");
        if secret.is_empty() {
            return None;
        }
        CodeSecret::parse(&secret).map_err(|e| self.problem(format!("COUPON_CODE_SECRET: {e}"))).ok()
    }

    fn kafka_authorization(&self) -> Option<String> {
        match (self.find("KAFKA_REST_TOKEN"), self.find("KAFKA_REST_USER"), self.find("KAFKA_REST_PASSWORD")) {
            (Some(token), None, None) => Some(format!("Bearer {token}")),
            (None, Some(user), Some(password)) => Some(basic_authorization(&user, &password)),
            (None, None, None) => None,
            _ => {
                self.problem("give either KAFKA_REST_TOKEN, or both KAFKA_REST_USER and KAFKA_REST_PASSWORD, or none");
                None
            }
        }
    }

    fn kafka_dialect(&self) -> Dialect {
        if !self.word("KAFKA_REST_DIALECT", false, &[("v2", false), ("v3", true)]) {
            return Dialect::V2;
        }
        let cluster_id = self.needed("KAFKA_CLUSTER_ID", "the cluster's id, which v3 has in its address");
        if !cluster_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            self.problem("KAFKA_CLUSTER_ID may hold letters, digits, '-', '_' and '.' only");
        }
        Dialect::V3 { cluster_id }
    }

    fn validation(&self) -> Validation {
        Validation {
            issuer: self.find("JWT_ISSUER"),
            audience: self.find("JWT_AUDIENCE"),
            skew_s: self.number("JWT_SKEW_S", 30, (0, 300), "seconds"),
        }
    }

    fn auth(&self, environment: Option<Environment>) -> Option<Auth> {
        const WORDS: &str = "jwt-hs256, jwt-jwks, or insecure-header (local work only)";
        match self.needed("AUTH", WORDS).as_str() {
            "" => None,
            "insecure-header" => {
                if environment.is_some_and(|environment| environment != Environment::Development) {
                    self.problem(
                        "AUTH=insecure-header believes whatever a visitor says and is refused where \
                         ENVIRONMENT is not development",
                    );
                }
                Some(Auth::InsecureHeader)
            }
            "jwt-hs256" => {
                let secret = self.needed("JWT_SECRET", "at least 32 bytes, the same as the tokens' maker has");
                let first = (!secret.is_empty()).then(|| self.secret("JWT_SECRET", &secret)).flatten();
                let previous = self.find("JWT_SECRET_PREVIOUS");
                let second = previous.and_then(|secret| self.secret("JWT_SECRET_PREVIOUS", &secret));
                Some(Auth::Secret { secrets: first.into_iter().chain(second).collect(), validation: self.validation() })
            }
            "jwt-jwks" => {
                let url = self.needed_url("JWT_JWKS_URL", environment);
                let validation = self.validation();
                if validation.issuer.is_none() && validation.audience.is_none() {
                    self.problem(
                        "JWT_ISSUER or JWT_AUDIENCE is missing: a key set signs tokens for others too, and one of \
                         them must tell which are for this gate",
                    );
                }
                Some(Auth::KeySet { url, accepted: self.algorithms(), validation })
            }
            _ => {
                self.problem(format!("AUTH must be {WORDS}"));
                None
            }
        }
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        let Some(names) = self.find("JWT_ALGORITHMS") else { return Algorithm::PUBLIC.to_vec() };
        let known = |name: &str| Algorithm::PUBLIC.into_iter().find(|algorithm| algorithm.name() == name.trim());
        let algorithms: Option<Vec<Algorithm>> = names.split(',').map(known).collect();
        algorithms.unwrap_or_else(|| {
            self.problem("JWT_ALGORITHMS must be some of RS256, ES256, EdDSA, with commas between");
            Vec::new()
        })
    }

    fn challenge(&self, environment: Option<Environment>) -> Option<Challenge> {
        const SITEVERIFY: &str = "https://challenges.cloudflare.com/turnstile/v0/siteverify";
        let secret = self.find("TURNSTILE_SECRET")?;
        let url = self.find("TURNSTILE_URL");
        let url = url.map_or_else(|| SITEVERIFY.to_owned(), |url| self.url("TURNSTILE_URL", &url, environment));
        Some(Challenge { url, secret })
    }

    fn cors_origins(&self) -> Vec<String> {
        let origins = self.find("CORS_ORIGINS").unwrap_or_default();
        let origins: Vec<String> =
            origins.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty()).collect();
        if !origins.iter().all(|origin| is_origin(origin)) {
            self.problem(
                "CORS_ORIGINS must be origins with commas between, each as a browser sends it: https://shop.example, \
                 in lower case, without a path and without *",
            );
        }
        origins
    }

    fn log_sample(&self) -> f64 {
        match self.find("LOG_SAMPLE").map(|v| v.parse::<f64>()) {
            None => 0.01,
            Some(Ok(share)) if (0.0..=1.0).contains(&share) => share,
            Some(_) => {
                self.problem("LOG_SAMPLE must be a share from 0 to 1");
                0.0
            }
        }
    }
}

fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
    })
}

impl Settings {
    /// Reads the settings through `get`, which returns a variable or secret by name.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem. No value is repeated: it may be a secret.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let reader = Reader { get: &get, problems: RefCell::default() };
        let environment = reader.environment();
        let deadline_ms = |name: &str, usual: u32| reader.number(name, usual, (10, 30_000), "milliseconds");
        let settings = (|| {
            // All of them are read before the first that is missing ends it.
            let redis_url = reader.needed_url("UPSTASH_REDIS_REST_URL", environment);
            let redis_token = reader.needed("UPSTASH_REDIS_REST_TOKEN", "the token of the Redis REST service");
            let kafka_url = reader.needed_url("KAFKA_REST_URL", environment);
            reader.no_examples(environment);
            let code_secret = reader.code_secret();
            let auth = reader.auth(environment);
            let redis_key_locking = reader.word("UPSTASH_KEY_LOCKING", false, &[("true", true), ("false", false)]);
            let redis_deadline_ms = deadline_ms("REDIS_DEADLINE_MS", 3_000);
            let kafka_dialect = reader.kafka_dialect();
            let kafka_authorization = reader.kafka_authorization();
            let kafka_deadline_ms = deadline_ms("KAFKA_DEADLINE_MS", 10_000);
            let acks = [("redis", AdmitAck::Redis), ("kafka", AdmitAck::Kafka)];
            let admit_ack = reader.word("ADMIT_ACK", AdmitAck::Redis, &acks);
            let challenge = reader.challenge(environment);
            let cors_origins = reader.cors_origins();
            let log_sample = reader.log_sample();
            Some(Self {
                environment: environment?,
                redis_url,
                redis_token,
                redis_key_locking,
                redis_deadline_ms,
                kafka_url,
                kafka_dialect,
                kafka_authorization,
                kafka_deadline_ms,
                admit_ack,
                code_secret: code_secret?,
                auth: auth?,
                challenge,
                cors_origins,
                log_sample,
            })
        })();
        let problems = reader.problems.take();
        settings.filter(|_| problems.is_empty()).ok_or(SettingsError(problems))
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
    fn reads_what_is_there_and_fills_in_the_rest() {
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
        ])
        .err()
        .unwrap();
        let text = error.to_string();
        for name in [
            "UPSTASH_REDIS_REST_URL must begin",
            "UPSTASH_REDIS_REST_TOKEN is missing",
            "KAFKA_REST_URL is missing",
            "COUPON_CODE_SECRET: the coupon code secret needs at least 16 bytes, this one has 8",
            "REDIS_DEADLINE_MS must be a number",
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
    fn refuses_insecure_settings_where_everybody_comes() {
        for environment in ["staging", "production"] {
            let problems = problems(&[("ENVIRONMENT", environment)]);
            assert!(problems.contains("AUTH=insecure-header believes"), "{problems}");
        }
        let problems = problems(&[
            ("ENVIRONMENT", "production"),
            ("AUTH", "jwt-hs256"),
            ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("COUPON_CODE_SECRET", "change-me-to-something-long"),
        ]);
        assert!(problems.contains("KAFKA_REST_URL must begin with https:// where"), "{problems}");
        assert!(problems.contains("COUPON_CODE_SECRET is still the example's"), "{problems}");
    }

    /// Every secret that the example file shows is refused where others come in, and taken for local work.
    #[test]
    fn refuses_the_secrets_of_the_example_file() {
        let example = include_str!("../.dev.vars.example");
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
                assert!(problems.contains(&format!("{name} is still the example's")), "{name}: {problems}");
            }
            assert!(!problems(&settings).contains("example's"), "{name}");
        }
    }

    #[test]
    fn a_kind_of_identity_comes_with_all_that_belongs_to_it() {
        for (settings, says) in [
            (vec![("AUTH", "jwt-hs256")], "JWT_SECRET is missing"),
            (vec![("AUTH", "jwt-hs256"), ("JWT_SECRET", "short")], "JWT_SECRET needs at least 32 bytes"),
            (vec![("AUTH", "jwt-jwks")], "JWT_JWKS_URL is missing"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", "https://x/jwks")], "JWT_ISSUER or JWT_AUDIENCE"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_ALGORITHMS", "RS256, none")], "JWT_ALGORITHMS must be"),
            (vec![("AUTH", "jwt-jwks"), ("JWT_ALGORITHMS", "HS256")], "JWT_ALGORITHMS must be"),
            (vec![("AUTH", "none")], "AUTH must be jwt-hs256"),
        ] {
            let problems = problems(&settings);
            assert!(problems.contains(says), "{problems}");
        }
        let jwks = [("AUTH", "jwt-jwks"), ("JWT_JWKS_URL", "https://x/jwks"), ("JWT_AUDIENCE", "dropgate")];
        assert!(matches!(read(&[&GOOD[..], &jwks].concat()).unwrap().auth, Auth::KeySet { .. }));
    }

    #[test]
    fn the_rest_is_checked_too() {
        for (name, value, says) in [
            ("CORS_ORIGINS", "*", "CORS_ORIGINS must be"),
            ("CORS_ORIGINS", "https://shop.example/", "CORS_ORIGINS must be"),
            ("ADMIT_ACK", "mysql", "ADMIT_ACK must be redis or kafka"),
            ("KAFKA_REST_DIALECT", "v3", "KAFKA_CLUSTER_ID is missing"),
            ("KAFKA_REST_DIALECT", "v1", "KAFKA_REST_DIALECT must be v2 or v3"),
            ("LOG_SAMPLE", "2", "LOG_SAMPLE must be"),
            ("LOG_SAMPLE", "NaN", "LOG_SAMPLE must be"),
            ("ENVIRONMENT", "prod", "ENVIRONMENT must be development or staging or production"),
        ] {
            let problems = problems(&[(name, value)]);
            assert!(problems.contains(says), "{problems}");
        }
        let settings = read(&[&GOOD[..], &[("CORS_ORIGINS", "https://a.example, http://localhost:3000")]].concat());
        assert_eq!(settings.unwrap().cors_origins, ["https://a.example", "http://localhost:3000"]);
    }

    #[test]
    fn kafka_credentials_come_whole_or_not_at_all() {
        let mut pairs = GOOD.to_vec();
        pairs.push(("KAFKA_REST_USER", "user"));
        assert!(read(&pairs).is_err());
        pairs.push(("KAFKA_REST_PASSWORD", "pass"));
        assert_eq!(read(&pairs).unwrap().kafka_authorization.as_deref(), Some("Basic dXNlcjpwYXNz"));
    }
}
