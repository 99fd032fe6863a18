//! Arguments that name servers.

use crate::config::problems::{Problems, given};
use crate::config::values::{brokers, code_secret, key_prefix, one_of, plain_http_address, token, topic};
use crate::kafka::settings::{KafkaSettings, Topics, check_option};
use crate::redis::client::RedisSettings;
use crate::store::mysql::settings::DatabaseSettings;
use clap::Args;
use clap::builder::FalseyValueParser;
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::names::{KEY_PREFIX, TOPIC};

const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

#[derive(Args)]
pub struct DatabaseArgs {
    /// mysql://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

#[derive(Args)]
pub struct KafkaArgs {
    /// Brokers, host:port, comma-separated
    #[arg(long, env = "KAFKA_BOOTSTRAP", value_name = "HOST:PORT,..")]
    pub kafka_bootstrap: Option<String>,
    /// Consumer group of all issuers
    #[arg(long, env = "KAFKA_GROUP", default_value = "dropgate-issuer", value_name = "GROUP")]
    pub kafka_group: String,
    /// Topic of the admitted claims, the same as at the gate
    #[arg(long, env = "KAFKA_TOPIC", default_value = TOPIC, value_name = "TOPIC")]
    pub kafka_topic: String,
    /// Topic of the records that can never become a row; by default that of the claims with `.dlq`
    #[arg(long, env = "KAFKA_DEAD_LETTER_TOPIC", value_name = "TOPIC")]
    pub kafka_dead_letter_topic: Option<String>,
    #[command(flatten)]
    pub client: Box<KafkaClientArgs>,
}

/// Security, and what is passed to librdkafka.
#[derive(Args)]
pub struct KafkaClientArgs {
    /// Name of this member, the same after each start (static membership): a short restart moves no partition
    #[arg(long, env = "KAFKA_INSTANCE_ID", value_name = "NAME")]
    pub kafka_instance_id: Option<String>,
    /// plaintext, ssl, sasl_plaintext or sasl_ssl
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", value_name = "PROTOCOL")]
    pub kafka_security_protocol: Option<String>,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "KAFKA_SASL_MECHANISM", value_name = "MECHANISM")]
    pub kafka_sasl_mechanism: Option<String>,
    /// User name at the brokers
    #[arg(long, env = "KAFKA_SASL_USERNAME", value_name = "USER")]
    pub kafka_sasl_username: Option<String>,
    /// Password of that user
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub kafka_sasl_password: Option<String>,
    /// Certificates of the authorities that signed the brokers' (PEM); by default those of the system
    #[arg(long, env = "KAFKA_CA_FILE", value_name = "FILE")]
    pub kafka_ca_file: Option<String>,
    /// A setting of librdkafka, KEY=VALUE; repeatable, in the environment separated by commas or lines
    #[arg(long = "kafka-option", env = "KAFKA_OPTIONS", hide_env_values = true, value_name = "KEY=VALUE")]
    pub kafka_options: Vec<String>,
}

#[derive(Args)]
pub struct RedisArgs {
    /// Address of the Redis REST service
    #[arg(long, env = "UPSTASH_REDIS_REST_URL", hide_env_values = true, value_name = "URL")]
    pub upstash_redis_rest_url: Option<String>,
    /// Its token
    #[arg(long, env = "UPSTASH_REDIS_REST_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub upstash_redis_rest_token: Option<String>,
    /// Scripts lock only the keys they name: hosted Upstash only, plain Redis rejects the flag
    #[arg(long, env = "UPSTASH_KEY_LOCKING", value_parser = FalseyValueParser::new())]
    pub upstash_key_locking: bool,
    /// Before every key, the same as at the gate; so that several systems can share one Redis
    #[arg(long, env = "REDIS_KEY_PREFIX", default_value = KEY_PREFIX, value_name = "PREFIX")]
    pub redis_key_prefix: String,
}

/// What coupon codes are derived from.
#[derive(Args)]
pub struct CodeSecretArgs {
    /// Secret that coupon codes are derived from, the same as at the gate; 16 bytes or more
    #[arg(long, env = "COUPON_CODE_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub coupon_code_secret: Option<String>,
    /// The secret before it, while it is being replaced: of the campaigns that were published with it
    #[arg(long, env = "COUPON_CODE_SECRET_PREVIOUS", hide_env_values = true, value_name = "SECRET")]
    pub coupon_code_secret_previous: Option<String>,
}

/// Connections of a verb that reads all three servers.
#[derive(Args)]
pub struct ServerArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    codes: CodeSecretArgs,
}

/// What the servers of a verb need.
pub struct ServerSettings {
    pub database: DatabaseSettings,
    pub redis: RedisSettings,
    pub kafka: Option<KafkaSettings>,
    pub secrets: Option<CodeSecrets>,
}

/// Connections of a verb on dead letters.
#[derive(Args)]
pub struct DlqServerArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// What `read` finds, or all problems.
fn checked<T>(read: impl FnOnce(&mut Problems) -> Option<T>) -> Result<T, Problems> {
    let mut problems = Problems::default();
    let settings = read(&mut problems);
    problems.or(settings)
}

impl DatabaseArgs {
    pub fn read(&self, problems: &mut Problems) -> Option<DatabaseSettings> {
        let expected = "mysql://USER:PASSWORD@HOST:PORT/DATABASE (a special character in the password as %XX)";
        problems.need("DATABASE_URL", expected, self.database_url.as_ref(), |url| Ok(url.parse()?))
    }

    pub fn settings(&self) -> Result<DatabaseSettings, Problems> {
        checked(|problems| self.read(problems))
    }
}

impl CodeSecretArgs {
    pub fn read(&self, problems: &mut Problems) -> Option<CodeSecrets> {
        let expected = "16 bytes or more, the same as at the gate";
        let mut need = |name, value| problems.need(name, expected, value, code_secret);
        let previous = self.coupon_code_secret_previous.as_ref();
        let previous = given(previous).map(|_| need("COUPON_CODE_SECRET_PREVIOUS", previous));
        let current = need("COUPON_CODE_SECRET", self.coupon_code_secret.as_ref());
        Some(CodeSecrets::new(current?, previous.map_or(Some(None), |previous| previous.map(Some))?))
    }

    /// `None` inside: neither is set.
    fn read_if_given(&self, problems: &mut Problems) -> Option<Option<CodeSecrets>> {
        let all = [&self.coupon_code_secret, &self.coupon_code_secret_previous];
        if all.into_iter().all(|secret| given(secret.as_ref()).is_none()) {
            return Some(None);
        }
        self.read(problems).map(Some)
    }
}

impl RedisArgs {
    pub fn read(&self, problems: &mut Problems) -> Option<RedisSettings> {
        let expected = "the https:// address of the Redis REST service, without user and query (its token is \
                        UPSTASH_REDIS_REST_TOKEN)";
        let value = self.upstash_redis_rest_url.as_ref();
        let url = problems.need("UPSTASH_REDIS_REST_URL", expected, value, plain_http_address);
        let value = self.upstash_redis_rest_token.as_ref();
        let token = problems.need("UPSTASH_REDIS_REST_TOKEN", "the token of that service", value, token);
        let expected = "a prefix such as dg: or staging:";
        let prefix = problems.need("REDIS_KEY_PREFIX", expected, Some(&self.redis_key_prefix), key_prefix);
        Some(RedisSettings { url: url?, token: token?, key_locking: self.upstash_key_locking, prefix: prefix? })
    }

    pub fn settings(&self) -> Result<RedisSettings, Problems> {
        checked(|problems| self.read(problems))
    }
}

impl KafkaArgs {
    pub fn read(&self, problems: &mut Problems) -> Option<KafkaSettings> {
        let value = self.kafka_bootstrap.as_ref();
        let bootstrap = problems.need("KAFKA_BOOTSTRAP", "HOST:PORT,HOST:PORT", value, brokers);
        let options = self.client.options(problems);
        let instance_id = given(self.client.kafka_instance_id.as_ref()).map(str::to_owned);
        let expected = "letters, digits, '.', '_' and '-'";
        let admissions = problems.need("KAFKA_TOPIC", expected, Some(&self.kafka_topic), topic);
        let dead_letters = given(self.kafka_dead_letter_topic.as_ref())
            .map_or_else(|| format!("{}.dlq", self.kafka_topic), str::to_owned);
        let dead_letters = problems.need("KAFKA_DEAD_LETTER_TOPIC", expected, Some(&dead_letters), topic);
        if admissions.is_some() && admissions == dead_letters {
            problems.add("KAFKA_DEAD_LETTER_TOPIC is KAFKA_TOPIC too; expected another topic");
        }
        Some(KafkaSettings {
            bootstrap: bootstrap?,
            group: self.kafka_group.clone(),
            instance_id,
            topics: Topics { admissions: admissions?, dead_letters: dead_letters? },
            options: options?,
        })
    }

    pub fn settings(&self) -> Result<KafkaSettings, Problems> {
        checked(|problems| self.read(problems))
    }
}

impl KafkaClientArgs {
    /// Security, and then what is passed through, which may refine it.
    fn options(&self, problems: &mut Problems) -> Option<Vec<(String, String)>> {
        let mut options = Vec::new();
        let before = problems.lines().len();
        let expected = "plaintext, ssl, sasl_plaintext or sasl_ssl";
        let protocol =
            self.kafka_security_protocol.as_ref().filter(|_| given(self.kafka_security_protocol.as_ref()).is_some());
        let is_sasl = protocol.is_some_and(|protocol| protocol.trim().to_ascii_lowercase().starts_with("sasl_"));
        if protocol.is_some() {
            let protocol =
                problems.need("KAFKA_SECURITY_PROTOCOL", expected, protocol, |text| one_of(text, &PROTOCOLS));
            options.extend(protocol.map(|protocol| ("security.protocol".to_owned(), protocol)));
        } else if [&self.kafka_sasl_username, &self.kafka_sasl_mechanism]
            .into_iter()
            .any(|v| given(v.as_ref()).is_some())
        {
            problems.add(
                "KAFKA_SECURITY_PROTOCOL is not set although KAFKA_SASL_.. is; expected sasl_ssl (or sasl_plaintext)",
            );
        }
        if is_sasl {
            let whole = |text: &str| Ok(text.to_owned());
            let mechanism = |text: &str| one_of(text, &MECHANISMS);
            let values = [
                (
                    "sasl.mechanism",
                    problems.need(
                        "KAFKA_SASL_MECHANISM",
                        "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
                        self.kafka_sasl_mechanism.as_ref(),
                        mechanism,
                    ),
                ),
                (
                    "sasl.username",
                    problems.need("KAFKA_SASL_USERNAME", "a user name", self.kafka_sasl_username.as_ref(), whole),
                ),
                (
                    "sasl.password",
                    problems.need(
                        "KAFKA_SASL_PASSWORD",
                        "the user's password",
                        self.kafka_sasl_password.as_ref(),
                        whole,
                    ),
                ),
            ];
            options.extend(values.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        if let Some(file) = given(self.kafka_ca_file.as_ref()) {
            match std::fs::metadata(file) {
                Ok(_) => options.push(("ssl.ca.location".to_owned(), file.to_owned())),
                Err(error) => problems.add(format!("KAFKA_CA_FILE {file}: {error}; expected a file of certificates")),
            }
        }
        for option in self.kafka_options.iter().flat_map(|options| options.split([',', '\n'])).map(str::trim) {
            // Never repeated as a whole: it may hold a password.
            match option.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                _ if option.is_empty() => {}
                Some((key, value)) if !key.is_empty() => match check_option(key) {
                    Ok(()) => options.push((key.to_owned(), value.to_owned())),
                    Err(problem) => problems.add(format!("KAFKA_OPTIONS {problem}")),
                },
                _ => problems.add("KAFKA_OPTIONS has a part without '='; expected KEY=VALUE,KEY=VALUE"),
            }
        }
        (problems.lines().len() == before).then_some(options)
    }
}

impl ServerArgs {
    /// MySQL, Redis, and Kafka and the secret of the codes where they are configured.
    ///
    /// # Errors
    /// [`Problems`] of all of them.
    pub fn settings(&self) -> Result<ServerSettings, Problems> {
        checked(|problems| {
            let database = self.database.read(problems);
            let redis = self.redis.read(problems);
            let has_kafka = given(self.kafka.kafka_bootstrap.as_ref()).is_some();
            let kafka = if has_kafka { self.kafka.read(problems) } else { None };
            let secrets = self.codes.read_if_given(problems);
            Some(ServerSettings { database: database?, redis: redis?, kafka, secrets: secrets? })
        })
    }

    /// MySQL, and Redis and Kafka as far as they are configured in full.
    ///
    /// # Errors
    /// [`Problems`] of MySQL.
    pub fn at_least_database(
        &self,
    ) -> Result<(DatabaseSettings, Option<RedisSettings>, Option<KafkaSettings>), Problems> {
        Ok((self.database.settings()?, self.redis.settings().ok(), self.kafka.settings().ok()))
    }
}

impl DlqServerArgs {
    /// MySQL and Kafka.
    ///
    /// # Errors
    /// [`Problems`] of both.
    pub fn settings(&self) -> Result<(DatabaseSettings, KafkaSettings), Problems> {
        checked(|problems| {
            let database = self.database.read(problems);
            let kafka = self.kafka.read(problems);
            Some((database?, kafka?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_security_is_complete_or_refused_and_options_are_checked() {
        let client = KafkaClientArgs {
            kafka_instance_id: None,
            kafka_security_protocol: None,
            kafka_sasl_mechanism: None,
            kafka_sasl_username: Some("user".to_owned()),
            kafka_sasl_password: None,
            kafka_ca_file: None,
            kafka_options: Vec::new(),
        };
        let kafka_bootstrap = Some("h:1".to_owned());
        let mut args = KafkaArgs {
            kafka_bootstrap,
            kafka_group: "g".to_owned(),
            kafka_topic: TOPIC.to_owned(),
            kafka_dead_letter_topic: None,
            client: Box::new(client),
        };
        let read = |args: &KafkaArgs| args.settings().map_err(|problems| problems.to_string());
        assert!(read(&args).unwrap_err().contains("KAFKA_SECURITY_PROTOCOL is not set although"));
        args.client.kafka_security_protocol = Some("tls".to_owned());
        assert!(
            read(&args).unwrap_err().contains("KAFKA_SECURITY_PROTOCOL \"tls\" is not supported; expected plaintext")
        );
        args.client.kafka_security_protocol = Some("SASL_SSL".to_owned());
        let text = read(&args).unwrap_err();
        assert!(text.contains("KAFKA_SASL_MECHANISM is not set") && text.contains("KAFKA_SASL_PASSWORD"), "{text}");
        args.client.kafka_sasl_mechanism = Some("scram-sha-256".to_owned());
        args.client.kafka_sasl_password = Some("hunter2".to_owned());
        args.client.kafka_options = vec!["session.timeout.ms=9000\n, fetch.wait.max.ms = 20".to_owned()];
        let options = read(&args).unwrap().options;
        let option = |key: &str| options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        assert_eq!((option("sasl.mechanism"), option("security.protocol")), (Some("SCRAM-SHA-256"), Some("sasl_ssl")));
        assert_eq!((option("session.timeout.ms"), option("fetch.wait.max.ms")), (Some("9000"), Some("20")));

        args.client.kafka_options = vec!["enable.auto.commit=false,hunter3".to_owned()];
        let text = read(&args).unwrap_err();
        assert!(
            text.contains("sets enable.auto.commit, which is fixed") && text.contains("a part without '='"),
            "{text}"
        );
        assert!(!text.contains("hunter"), "{text}");
    }

    #[test]
    fn systems_that_share_servers_have_names_of_their_own() {
        use clap::{Args as _, Command, FromArgMatches};
        let read = |args: &[&str]| {
            let command = KafkaArgs::augment_args(Command::new("x"));
            let args = ["x", "--kafka-bootstrap", "h:1"].iter().chain(args);
            let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
            let args = KafkaArgs::from_arg_matches(&matches).map_err(|error| error.to_string())?;
            let Topics { admissions, dead_letters } = args.settings().map_err(|error| error.to_string())?.topics;
            Ok::<_, String>(format!("{admissions} {dead_letters}"))
        };
        assert_eq!(read(&[]).unwrap(), "coupon_create coupon_create.dlq");
        assert_eq!(read(&["--kafka-topic", "staging.claims"]).unwrap(), "staging.claims staging.claims.dlq");
        assert_eq!(read(&["--kafka-topic", "a", "--kafka-dead-letter-topic", "b"]).unwrap(), "a b");
        assert!(read(&["--kafka-topic", "a", "--kafka-dead-letter-topic", "a"]).unwrap_err().contains("another topic"));
        assert!(read(&["--kafka-topic", "a b"]).unwrap_err().contains("KAFKA_TOPIC \"a b\" is not supported"));
    }
}
