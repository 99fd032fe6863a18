//! What the gate is told by `wrangler.toml` and its secrets. Every problem is reported at once.

use dropgate_shared::code::CodeSecret;
use std::fmt;

/// How a visitor says who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `X-User-Id`, believed as it is. Local work only.
    InsecureHeader,
}

/// The gate's configuration.
#[derive(Clone)]
pub struct Settings {
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
    /// `KAFKA_REST_TOKEN` as `Bearer ..`, or `KAFKA_REST_USER` and `KAFKA_REST_PASSWORD` as `Basic ..`.
    pub kafka_authorization: Option<String>,
    /// `KAFKA_DEADLINE_MS`: how long one produce call may take.
    pub kafka_deadline_ms: u32,
    /// `COUPON_CODE_SECRET`, the same as the issuer's.
    pub code_secret: CodeSecret,
    /// `AUTH`
    pub auth: Auth,
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

impl Settings {
    /// Reads the settings through `get`, which returns a variable or secret by name.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem. No value is repeated: it may be a secret.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut problems = Vec::new();
        let find = |name: &str| get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());

        let mut url = |name: &str| match find(name) {
            Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
                url.trim_end_matches('/').to_owned()
            }
            Some(_) => {
                problems.push(format!("{name} must begin with https:// or http://"));
                String::new()
            }
            None => {
                problems.push(format!("{name} is missing: the address of the service, https://.."));
                String::new()
            }
        };
        let redis_url = url("UPSTASH_REDIS_REST_URL");
        let kafka_url = url("KAFKA_REST_URL");

        let redis_token = find("UPSTASH_REDIS_REST_TOKEN").unwrap_or_else(|| {
            problems.push("UPSTASH_REDIS_REST_TOKEN is missing: the token of the Redis REST service".to_owned());
            String::new()
        });
        let code_secret = match find("COUPON_CODE_SECRET").map(|secret| CodeSecret::parse(&secret)) {
            Some(Ok(secret)) => Some(secret),
            Some(Err(e)) => {
                problems.push(format!("COUPON_CODE_SECRET: {e}"));
                None
            }
            None => {
                problems.push("COUPON_CODE_SECRET is missing: at least 16 bytes, the same as the issuer's".to_owned());
                None
            }
        };
        let kafka_authorization = match (find("KAFKA_REST_TOKEN"), find("KAFKA_REST_USER"), find("KAFKA_REST_PASSWORD"))
        {
            (Some(token), None, None) => Some(format!("Bearer {token}")),
            (None, Some(user), Some(password)) => Some(crate::kafka_rest::basic_authorization(&user, &password)),
            (None, None, None) => None,
            _ => {
                problems.push(
                    "give either KAFKA_REST_TOKEN, or both KAFKA_REST_USER and KAFKA_REST_PASSWORD, or none".to_owned(),
                );
                None
            }
        };
        let mut number = |name: &str, usual: u32| match find(name).map(|v| v.parse::<u32>()) {
            None => usual,
            Some(Ok(ms)) if (10..=30_000).contains(&ms) => ms,
            Some(_) => {
                problems.push(format!("{name} must be a number of milliseconds from 10 to 30000"));
                usual
            }
        };
        let redis_deadline_ms = number("REDIS_DEADLINE_MS", 3_000);
        let kafka_deadline_ms = number("KAFKA_DEADLINE_MS", 10_000);
        let redis_key_locking = match find("UPSTASH_KEY_LOCKING").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                problems.push("UPSTASH_KEY_LOCKING must be true or false".to_owned());
                false
            }
        };
        let production = find("ENVIRONMENT").as_deref() == Some("production");
        let auth = match find("AUTH").as_deref() {
            Some("insecure-header") if production => {
                problems.push(
                    "AUTH=insecure-header believes whatever a visitor says and is refused where \
                     ENVIRONMENT=production"
                        .to_owned(),
                );
                None
            }
            Some("insecure-header") => Some(Auth::InsecureHeader),
            Some(_) => {
                problems.push("AUTH must be insecure-header".to_owned());
                None
            }
            None => {
                problems.push("AUTH is missing: insecure-header (local work only)".to_owned());
                None
            }
        };
        match (code_secret, auth) {
            (Some(code_secret), Some(auth)) if problems.is_empty() => Ok(Self {
                redis_url,
                redis_token,
                redis_key_locking,
                redis_deadline_ms,
                kafka_url,
                kafka_authorization,
                kafka_deadline_ms,
                code_secret,
                auth,
            }),
            _ => Err(SettingsError(problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const GOOD: [(&str, &str); 5] = [
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
        ] {
            assert!(text.contains(name), "{name} not in {text}");
        }
        assert!(!text.contains("s3cret") && !text.contains("tooshort") && !text.contains("soon"));
    }

    #[test]
    fn refuses_the_insecure_header_in_production() {
        let mut pairs = GOOD.to_vec();
        pairs.push(("ENVIRONMENT", "production"));
        assert!(read(&pairs).err().unwrap().to_string().contains("is refused where ENVIRONMENT=production"));
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
