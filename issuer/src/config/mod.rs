//! The command line and the environment, checked before anything is opened.
//!
//! Every setting has an environment variable and a flag. Everything that is wrong is told at once, by
//! name and with what would be right; secrets are never printed.

pub mod parts;

use crate::cli::args::{
    CHECK, CampaignCommand, CheckArgs, CompletionsArgs, DlqCommand, ExportArgs, MigrateArgs, RECONCILE, ReconcileArgs,
    VERDICTS, VerifyArgs,
};
use crate::cli::file;
use crate::consume::budget::WriteBudget;
use crate::kafka::settings::{KafkaSettings, check_option};
use crate::kafka::topics::TopicSettings;
use crate::operator::probe::ProbeArgs;
use crate::redis::client::RedisSettings;
use clap::builder::{FalseyValueParser, Resettable};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use dropgate_shared::code::CodeSecret;
use sqlx::mysql::MySqlConnectOptions;
use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Turns admitted claims into coupons, and manages campaigns.
#[derive(Parser)]
#[command(name = "issuer", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings as TOML: `database_url = "..."`, the variables' names in lower case; environment and flags win
    #[arg(long, env = file::VARIABLE, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line, the environment and the configuration file. An empty variable counts as
    /// absent: `NAME=` is how many a compose file and shell says "the default". Ends the process where
    /// they are wrong.
    #[must_use]
    pub fn read() -> Self {
        let is_empty = |name: &OsStr| std::env::var(name).is_ok_and(|value| value.trim().is_empty());
        let mut command = Self::command();
        if let Some(path) = file::named(std::env::args_os(), std::env::var_os(file::VARIABLE)) {
            command = file::with_file(command, &path).unwrap_or_else(|problem| {
                eprintln!("issuer: {problem}");
                std::process::exit(2)
            });
        }
        let matches = without_empty_variables(command, &is_empty).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

fn without_empty_variables(command: clap::Command, is_empty: &dyn Fn(&OsStr) -> bool) -> clap::Command {
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(|sub| without_empty_variables(sub, is_empty))
}

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    /// Consume admitted claims and write coupons until SIGTERM or SIGINT
    Run(Box<RunArgs>),
    /// Bring the schema in MySQL up to date
    Migrate(MigrateArgs),
    /// Create, publish, pause, raise, close and look at campaigns
    #[command(subcommand)]
    Campaign(CampaignCommand),
    /// Prove that nobody was wronged: compare MySQL, Redis and Kafka
    #[command(after_help = VERDICTS)]
    Verify(VerifyArgs),
    /// Mend what `verify` finds and a command can mend
    #[command(after_help = RECONCILE)]
    Reconcile(ReconcileArgs),
    /// Look at dead letters, and send them again
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Write out who won, or who was refused
    Export(ExportArgs),
    /// Check all settings and try every server
    #[command(after_help = CHECK)]
    CheckConfig(Box<CheckArgs>),
    /// Ask a running issuer on this machine whether it lives
    Probe(ProbeArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
}

/// The database.
#[derive(Args)]
pub struct DatabaseArgs {
    /// mysql://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
}

/// Kafka.
#[derive(Args)]
pub struct KafkaArgs {
    /// Brokers, host:port, comma-separated
    #[arg(long, env = "KAFKA_BOOTSTRAP", value_name = "HOST:PORT,..")]
    kafka_bootstrap: Option<String>,
    /// Consumer group of all issuers
    #[arg(long, env = "KAFKA_GROUP", default_value = "dropgate-issuer", value_name = "GROUP")]
    kafka_group: String,
    #[command(flatten)]
    member: Box<KafkaMemberArgs>,
}

/// What a Kafka may ask of its clients, and clients of it.
#[derive(Args)]
pub struct KafkaMemberArgs {
    /// Name of this member, the same after each start (static membership): a short restart moves no partition
    #[arg(long, env = "KAFKA_INSTANCE_ID", value_name = "NAME")]
    kafka_instance_id: Option<String>,
    /// plaintext, ssl, sasl_plaintext or sasl_ssl
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", value_name = "PROTOCOL")]
    kafka_security_protocol: Option<String>,
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
    #[arg(long, env = "KAFKA_SASL_MECHANISM", value_name = "MECHANISM")]
    kafka_sasl_mechanism: Option<String>,
    /// User at the brokers
    #[arg(long, env = "KAFKA_SASL_USERNAME", value_name = "USER")]
    kafka_sasl_username: Option<String>,
    /// Its password
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    kafka_sasl_password: Option<String>,
    /// Certificates of the authorities that signed the brokers' (PEM); without it those of the system
    #[arg(long, env = "KAFKA_CA_FILE", value_name = "FILE")]
    kafka_ca_file: Option<String>,
    /// A setting of librdkafka, KEY=VALUE; repeatable, in the environment separated by commas or lines
    #[arg(long = "kafka-option", env = "KAFKA_OPTIONS", hide_env_values = true, value_name = "KEY=VALUE")]
    kafka_options: Vec<String>,
}

/// Redis.
#[derive(Args)]
pub struct RedisArgs {
    /// Address of the Redis REST service
    #[arg(long, env = "UPSTASH_REDIS_REST_URL", value_name = "URL")]
    upstash_redis_rest_url: Option<String>,
    /// Its token
    #[arg(long, env = "UPSTASH_REDIS_REST_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    upstash_redis_rest_token: Option<String>,
    /// Scripts lock only the keys they name: hosted Upstash only, plain Redis refuses the flag
    #[arg(long, env = "UPSTASH_KEY_LOCKING", value_parser = FalseyValueParser::new())]
    upstash_key_locking: bool,
}

/// `issuer run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    redis: RedisArgs,
    /// Secret that coupon codes are derived from, the same as at the gate; 16 bytes or more
    #[arg(long, env = "COUPON_CODE_SECRET", hide_env_values = true, value_name = "SECRET")]
    coupon_code_secret: Option<String>,
    /// Records in one transaction at most
    #[arg(long, env = "BATCH_RECORDS", default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch_records: u16,
    /// How long the first record of a batch waits for others
    #[arg(long, env = "BATCH_LINGER_MS", default_value_t = 20, value_name = "MS",
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    batch_linger_ms: u32,
    /// How fast coupons are written by all issuers of the group together, for the sake of whoever else is
    /// on the database: 500/s, 100/min, 1000/h, auto (as fast as the others do not notice), unlimited
    #[arg(long, env = "WRITE_BUDGET", default_value = "auto", value_name = "BUDGET")]
    write_budget: String,
    /// End after this many records in a row that can never become rows; 0: never
    #[arg(long, env = "DEAD_LETTER_LIMIT", default_value_t = 100, value_name = "N")]
    dead_letter_limit: u32,
    /// Where /livez, /readyz, /metrics and /version are served, or `off`; port 0: any free one, which the
    /// log tells
    #[arg(long, env = "HTTP_LISTEN", default_value = "127.0.0.1:9464", value_name = "ADDRESS:PORT")]
    http_listen: String,
    /// Send OpenTelemetry traces to this collector (OTLP over HTTP); the other OTEL_ variables are heeded too
    #[arg(long = "otlp-endpoint", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otel_exporter_otlp_endpoint: Option<String>,
    /// Create the topics that do not exist
    #[arg(long, env = "CREATE_TOPICS", value_parser = FalseyValueParser::new())]
    create_topics: bool,
    /// Partitions of a topic created here; one issuer at most works on each
    #[arg(long, env = "KAFKA_PARTITIONS", default_value_t = 6, value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Copies of each partition of a topic created here; -1: what the broker is set to
    #[arg(long, env = "KAFKA_REPLICATION", default_value_t = -1, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-1..=16))]
    replication: i32,
}

/// Where MySQL is, and how to name it to a human.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// For the driver.
    pub options: MySqlConnectOptions,
    /// The URL without its password.
    pub shown: String,
}

/// Everything `issuer run` needs.
pub struct RunSettings {
    /// MySQL.
    pub database: DatabaseSettings,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Redis.
    pub redis: RedisSettings,
    /// What codes are derived from.
    pub secret: CodeSecret,
    /// Records in one transaction at most.
    pub batch_records: usize,
    /// How long the first record of a batch waits.
    pub batch_linger: Duration,
    /// How fast rows are written.
    pub write_budget: WriteBudget,
    /// After how many dead letters in a row the service ends; 0: never.
    pub dead_letter_limit: u32,
    /// Where health and metrics are served.
    pub http_listen: Option<SocketAddr>,
    /// Where traces go: the address of an OpenTelemetry collector.
    pub otlp_endpoint: Option<String>,
    /// How absent topics are created, if they are.
    pub create_topics: Option<TopicSettings>,
}

/// All that is wrong with the settings, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is incomplete:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Problems {
    /// Reads a needed setting. An empty one counts as absent: that is how it looks in many a shell.
    fn need<T>(
        &mut self,
        name: &str,
        right: &str,
        value: Option<&String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = match given(value) {
            None => Err("is not set".to_owned()),
            Some(value) => parse(value),
        };
        match parsed {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.0.push(format!("{name} {problem}; it takes {right}"));
                None
            }
        }
    }

    fn or<T>(self, settings: Option<T>) -> Result<T, Self> {
        settings.filter(|_| self.0.is_empty()).ok_or(self)
    }
}

impl DatabaseArgs {
    fn read(&self, problems: &mut Problems) -> Option<DatabaseSettings> {
        let right = "mysql://USER:PASSWORD@HOST:PORT/DATABASE (an odd character in the password as %XX)";
        problems.need("DATABASE_URL", right, self.database_url.as_ref(), |url| {
            if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
                return Err("does not begin with mysql://".to_owned());
            }
            // The driver's error may quote the URL, so it is not repeated.
            let options = MySqlConnectOptions::from_str(url).map_err(|_| "cannot be read".to_owned())?;
            match options.get_database() {
                Some(database) if !database.is_empty() => Ok(DatabaseSettings { options, shown: redacted(url) }),
                _ => Err("names no database".to_owned()),
            }
        })
    }

    /// The settings.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<DatabaseSettings, Problems> {
        let mut problems = Problems::default();
        let database = self.read(&mut problems);
        problems.or(database)
    }
}

impl KafkaArgs {
    fn is_set(&self) -> bool {
        self.kafka_bootstrap.as_ref().is_some_and(|bootstrap| !bootstrap.trim().is_empty())
    }

    fn read(&self, problems: &mut Problems) -> Option<KafkaSettings> {
        let right = "HOST:PORT,HOST:PORT";
        let bootstrap = problems
            .need("KAFKA_BOOTSTRAP", right, self.kafka_bootstrap.as_ref(), |bootstrap| Ok(bootstrap.to_owned()));
        let options = self.member.options(problems);
        let instance_id = given(self.member.kafka_instance_id.as_ref()).map(str::to_owned);
        Some(KafkaSettings { bootstrap: bootstrap?, group: self.kafka_group.clone(), instance_id, options: options? })
    }
}

impl KafkaMemberArgs {
    /// Security, and then what is passed through, which may refine it.
    fn options(&self, problems: &mut Problems) -> Option<Vec<(String, String)>> {
        let mut options = Vec::new();
        let before = problems.0.len();
        let protocol = given(self.kafka_security_protocol.as_ref()).map(str::to_ascii_lowercase);
        let user = given(self.kafka_sasl_username.as_ref());
        match protocol.as_deref() {
            None if user.is_some() || given(self.kafka_sasl_mechanism.as_ref()).is_some() => problems.0.push(
                "KAFKA_SECURITY_PROTOCOL is not set although KAFKA_SASL_.. is; it takes sasl_ssl (or sasl_plaintext)"
                    .to_owned(),
            ),
            None => {}
            Some(protocol @ ("plaintext" | "ssl" | "sasl_plaintext" | "sasl_ssl")) => {
                options.push(("security.protocol".to_owned(), protocol.to_owned()));
            }
            Some(_) => problems.0.push(
                "KAFKA_SECURITY_PROTOCOL is unknown; it takes plaintext, ssl, sasl_plaintext or sasl_ssl".to_owned(),
            ),
        }
        if protocol.is_some_and(|protocol| protocol.starts_with("sasl_")) {
            let right = "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512";
            let mechanism =
                problems.need("KAFKA_SASL_MECHANISM", right, self.kafka_sasl_mechanism.as_ref(), |mechanism| {
                    let mechanism = mechanism.to_ascii_uppercase();
                    let known = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism.as_str());
                    if known { Ok(mechanism) } else { Err("is not among those this program speaks".to_owned()) }
                });
            let whole = |text: &str| Ok(text.to_owned());
            let user = problems.need("KAFKA_SASL_USERNAME", "a user", self.kafka_sasl_username.as_ref(), whole);
            let password =
                problems.need("KAFKA_SASL_PASSWORD", "his password", self.kafka_sasl_password.as_ref(), whole);
            for (key, value) in [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)] {
                options.extend(value.map(|value| (key.to_owned(), value)));
            }
        }
        if let Some(file) = given(self.kafka_ca_file.as_ref()) {
            match std::fs::metadata(file) {
                Ok(_) => options.push(("ssl.ca.location".to_owned(), file.to_owned())),
                Err(error) => {
                    problems.0.push(format!("KAFKA_CA_FILE {file}: {error}; it takes a file of certificates"))
                }
            }
        }
        for option in self.kafka_options.iter().flat_map(|options| options.split([',', '\n'])).map(str::trim) {
            // Never repeated as a whole: it may hold a password.
            match option.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                _ if option.is_empty() => {}
                Some((key, value)) if !key.is_empty() => match check_option(key) {
                    Ok(()) => options.push((key.to_owned(), value.to_owned())),
                    Err(problem) => problems.0.push(format!("KAFKA_OPTIONS {problem}")),
                },
                _ => problems.0.push("KAFKA_OPTIONS has a part without '='; it takes KEY=VALUE,KEY=VALUE".to_owned()),
            }
        }
        (problems.0.len() == before).then_some(options)
    }
}

fn http_address(url: &str) -> Result<String, String> {
    let fits = url.starts_with("https://") || url.starts_with("http://");
    if fits { Ok(url.to_owned()) } else { Err("is no http address".to_owned()) }
}

/// What is set and not empty.
fn given(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}

impl RedisArgs {
    fn read(&self, problems: &mut Problems) -> Option<RedisSettings> {
        let right = "the https:// address of the Redis REST service";
        let url = problems.need("UPSTASH_REDIS_REST_URL", right, self.upstash_redis_rest_url.as_ref(), http_address);
        let token = self.upstash_redis_rest_token.as_ref();
        let token = problems.need("UPSTASH_REDIS_REST_TOKEN", "the token of that service", token, |token| {
            let fits = token.bytes().all(|byte| byte.is_ascii_graphic());
            if fits { Ok(token.to_owned()) } else { Err("holds a character that no token has".to_owned()) }
        });
        Some(RedisSettings { url: url?, token: token?, key_locking: self.upstash_key_locking })
    }
}

impl RunArgs {
    /// The settings.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<RunSettings, Problems> {
        let mut problems = Problems::default();
        let database = self.database.read(&mut problems);
        let kafka = self.kafka.read(&mut problems);
        let redis = self.redis.read(&mut problems);
        let right = "16 bytes or more, the same as at the gate";
        let secret = problems.need("COUPON_CODE_SECRET", right, self.coupon_code_secret.as_ref(), |secret| {
            CodeSecret::parse(secret).map_err(|_| format!("has only {} bytes", secret.len()))
        });
        let budget = Some(&self.write_budget);
        let right = "500/s, 100/min, 1000/h, auto or unlimited";
        let budget = problems.need("WRITE_BUDGET", right, budget, |budget| {
            budget.parse::<WriteBudget>().map_err(|problem| format!("cannot be used: {problem}"))
        });
        let right = "ADDRESS:PORT, as 127.0.0.1:9464 or 0.0.0.0:9464, or off";
        let http_listen = problems.need("HTTP_LISTEN", right, Some(&self.http_listen), |listen| match listen {
            "off" => Ok(None),
            address => address.parse().map(Some).map_err(|_| "is no address with a port".to_owned()),
        });
        let right = "the http:// or https:// address of a collector, as http://127.0.0.1:4318";
        let otlp_endpoint = match &self.otel_exporter_otlp_endpoint {
            endpoint if given(endpoint.as_ref()).is_none() => Some(None),
            endpoint => problems.need("OTEL_EXPORTER_OTLP_ENDPOINT", right, endpoint.as_ref(), http_address).map(Some),
        };
        let topics = TopicSettings { partitions: self.partitions, replication: self.replication };
        let settings = || {
            Some(RunSettings {
                database: database?,
                kafka: kafka?,
                redis: redis?,
                secret: secret?,
                batch_records: self.batch_records.into(),
                batch_linger: Duration::from_millis(self.batch_linger_ms.into()),
                write_budget: budget?,
                dead_letter_limit: self.dead_letter_limit,
                http_listen: http_listen?,
                otlp_endpoint: otlp_endpoint?,
                create_topics: self.create_topics.then_some(topics),
            })
        };
        problems.or(settings())
    }
}

/// A URL with `***` for its password.
pub(crate) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "***".to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // An unescaped '/' or '@' in the password would end up in what is shown: show the host only then.
    match (authority.rsplit_once('@'), path.contains('@')) {
        (_, true) => format!("{scheme}://***"),
        (Some((user, host)), false) => match user.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{host}{path}"),
            None => format!("{scheme}://{user}@{host}{path}"),
        },
        (None, false) => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redacted("mysql://u:p%40ss@h:3306/db"), "mysql://u:***@h:3306/db");
        assert_eq!(redacted("mysql://u:p@ss@h/db?ssl-mode=required"), "mysql://u:***@h/db?ssl-mode=required");
        assert_eq!(redacted("mysql://u@h/db"), "mysql://u@h/db");
        assert_eq!(redacted("mysql://h/db"), "mysql://h/db");
        assert!(!redacted("mysql://u:se/cr@et@h/db").contains("cr"));
        assert!(!redacted("secret").contains("secret"));
    }

    fn none() -> RunArgs {
        RunArgs {
            database: DatabaseArgs { database_url: None },
            kafka: KafkaArgs {
                kafka_bootstrap: Some(" ".to_owned()),
                kafka_group: "g".to_owned(),
                member: Box::new(KafkaMemberArgs {
                    kafka_instance_id: None,
                    kafka_security_protocol: None,
                    kafka_sasl_mechanism: None,
                    kafka_sasl_username: None,
                    kafka_sasl_password: None,
                    kafka_ca_file: None,
                    kafka_options: Vec::new(),
                }),
            },
            redis: RedisArgs {
                upstash_redis_rest_url: Some("redis://h".to_owned()),
                upstash_redis_rest_token: None,
                upstash_key_locking: false,
            },
            coupon_code_secret: Some("hunter2".to_owned()),
            batch_records: 500,
            batch_linger_ms: 20,
            write_budget: "fast".to_owned(),
            dead_letter_limit: 100,
            http_listen: "9464".to_owned(),
            otel_exporter_otlp_endpoint: Some("h:4317".to_owned()),
            create_topics: true,
            partitions: 3,
            replication: -1,
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_no_secret() {
        let text = none().settings().err().unwrap().to_string();
        for (name, problem) in [
            ("DATABASE_URL", "is not set"),
            ("KAFKA_BOOTSTRAP", "is not set"),
            ("UPSTASH_REDIS_REST_URL", "is no http address"),
            ("UPSTASH_REDIS_REST_TOKEN", "is not set"),
            ("COUPON_CODE_SECRET", "has only 7 bytes"),
            ("HTTP_LISTEN", "is no address with a port"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "is no http address"),
        ] {
            assert!(text.contains(&format!("{name} {problem}; it takes ")), "{text}");
        }
        assert!(text.contains("WRITE_BUDGET cannot be used: \"fast\" is no budget"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn kafka_security_is_complete_or_refused_and_options_are_checked() {
        let mut args = none().kafka;
        args.kafka_bootstrap = Some("h:1".to_owned());
        let read = |args: &KafkaArgs| {
            let mut problems = Problems::default();
            let settings = args.read(&mut problems);
            problems.or(settings).map_err(|problems| problems.to_string())
        };
        args.member.kafka_sasl_username = Some("user".to_owned());
        assert!(read(&args).unwrap_err().contains("KAFKA_SECURITY_PROTOCOL is not set although"));
        args.member.kafka_security_protocol = Some("SASL_SSL".to_owned());
        let text = read(&args).unwrap_err();
        assert!(text.contains("KAFKA_SASL_MECHANISM is not set") && text.contains("KAFKA_SASL_PASSWORD"), "{text}");
        args.member.kafka_sasl_mechanism = Some("scram-sha-256".to_owned());
        args.member.kafka_sasl_password = Some("hunter2".to_owned());
        args.member.kafka_options = vec!["session.timeout.ms=9000\n, fetch.wait.max.ms = 20".to_owned()];
        let options = read(&args).unwrap().options;
        let option = |key: &str| options.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        assert_eq!(option("sasl.mechanism"), Some("SCRAM-SHA-256"));
        assert_eq!((option("session.timeout.ms"), option("fetch.wait.max.ms")), (Some("9000"), Some("20")));

        args.member.kafka_options = vec!["enable.auto.commit=false,hunter3".to_owned()];
        let text = read(&args).unwrap_err();
        assert!(
            text.contains("sets enable.auto.commit, which is fixed") && text.contains("a part without '='"),
            "{text}"
        );
        assert!(!text.contains("hunter"), "{text}");
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        let command = without_empty_variables(Cli::command(), &|name| name == "BATCH_RECORDS");
        let run = command.get_subcommands().find(|sub| sub.get_name() == "run").unwrap();
        let asks = |name: &str| run.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == name));
        assert!(!asks("BATCH_RECORDS") && asks("WRITE_BUDGET"));
    }

    #[test]
    fn complete_settings_are_taken() {
        let mut args = none();
        args.database.database_url = Some("mysql://u:secret@h/db".to_owned());
        args.kafka.kafka_bootstrap = Some("h:1".to_owned());
        args.redis.upstash_redis_rest_url = Some("https://r".to_owned());
        args.redis.upstash_redis_rest_token = Some("t".to_owned());
        args.coupon_code_secret = Some("0123456789abcdef".to_owned());
        args.write_budget = "100/min".to_owned();
        args.http_listen = "off".to_owned();
        args.otel_exporter_otlp_endpoint = Some(String::new());
        let settings = args.settings().map_err(|problems| problems.to_string()).unwrap();
        assert_eq!(settings.database.shown, "mysql://u:***@h/db");
        assert_eq!(settings.create_topics.unwrap().partitions, 3);
        assert_eq!((settings.write_budget.to_string(), settings.http_listen), ("100/min".to_owned(), None));

        args.database.database_url = Some("mysql://u:secret@h".to_owned());
        let text = args.settings().err().unwrap().to_string();
        assert!(text.contains("names no database") && !text.contains("secret"), "{text}");
    }
}
