//! `issuer run`, and `check-config`, which takes the same arguments.

use super::connections::{CodeSecretArgs, DatabaseArgs, KafkaArgs, RedisArgs};
use crate::config::problems::{Problems, given};
use crate::config::settings::RunSettings;
use crate::config::values::{http_address, listen_address};
use crate::kafka::topics::TopicSettings;
use clap::Args;
use clap::builder::FalseyValueParser;
use std::time::Duration;

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub codes: CodeSecretArgs,
    /// Records in one transaction at most
    #[arg(long, env = "BATCH_RECORDS", default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub batch_records: u16,
    /// How long the first record of a batch waits for others
    #[arg(long, env = "BATCH_LINGER_MS", default_value_t = 20, value_name = "MS",
          value_parser = clap::value_parser!(u32).range(0..=10_000))]
    batch_linger_ms: u32,
    /// How fast all issuers of the group together write coupons, so that the database's other users are not
    /// slowed down: 500/s, 100/min, 1000/h, auto (as fast as they do not notice), unlimited
    #[arg(long, env = "WRITE_BUDGET", default_value = "auto", value_name = "BUDGET")]
    write_budget: String,
    /// Hold at this many records in a row that can never become rows, and try again; 0: never
    #[arg(long, env = "DEAD_LETTER_LIMIT", default_value_t = 100, value_name = "N")]
    dead_letter_limit: u32,
    /// Where /livez, /readyz, /metrics and /version are served, or `off`; port 0: any free one, which is
    /// logged
    #[arg(long, env = "HTTP_LISTEN", default_value = "127.0.0.1:9464", value_name = "ADDRESS:PORT")]
    http_listen: String,
    /// Send OpenTelemetry traces to this collector (OTLP over HTTP); the other OTEL_ variables apply too
    #[arg(long = "otlp-endpoint", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true, value_name = "URL")]
    otel_exporter_otlp_endpoint: Option<String>,
    /// Create the topics that do not exist
    #[arg(long, env = "CREATE_TOPICS", value_parser = FalseyValueParser::new())]
    create_topics: bool,
    /// Partitions of a topic created here; at most one issuer works on each
    #[arg(long, env = "KAFKA_PARTITIONS", default_value_t = 6, value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Copies of each partition of a topic created here; -1: the broker's default
    #[arg(long, env = "KAFKA_REPLICATION", default_value_t = -1, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-1..=16))]
    replication: i32,
}

#[derive(Args)]
pub struct CheckConfigArgs {
    /// Print a JSON array on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub run: RunArgs,
}

impl RunArgs {
    pub fn settings(&self) -> Result<RunSettings, Problems> {
        let mut problems = Problems::default();
        let database = self.database.read(&mut problems);
        let kafka = self.kafka.read(&mut problems);
        let redis = self.redis.read(&mut problems);
        let secrets = self.codes.read(&mut problems);
        let expected = "500/s, 100/min, 1000/h, auto or unlimited";
        let budget = problems.need("WRITE_BUDGET", expected, Some(&self.write_budget), |budget| Ok(budget.parse()?));
        let expected = "ADDRESS:PORT, such as 127.0.0.1:9464 or 0.0.0.0:9464, or off";
        let http_listen = problems.need("HTTP_LISTEN", expected, Some(&self.http_listen), listen_address);
        let expected = "the http:// or https:// address of a collector, such as http://127.0.0.1:4318";
        let otlp_endpoint = match &self.otel_exporter_otlp_endpoint {
            endpoint if given(endpoint.as_ref()).is_none() => Some(None),
            endpoint => {
                problems.need("OTEL_EXPORTER_OTLP_ENDPOINT", expected, endpoint.as_ref(), http_address).map(Some)
            }
        };
        let topics = TopicSettings { partitions: self.partitions, replication: self.replication };
        let settings = || {
            Some(RunSettings {
                database: database?,
                kafka: kafka?,
                redis: redis?,
                secrets: secrets?,
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

#[cfg(test)]
mod tests {
    use super::super::connections::KafkaClientArgs;
    use super::*;

    fn none() -> RunArgs {
        RunArgs {
            database: DatabaseArgs { database_url: None },
            kafka: KafkaArgs {
                kafka_bootstrap: Some(" ".to_owned()),
                kafka_group: "g".to_owned(),
                kafka_topic: "t".to_owned(),
                kafka_dead_letter_topic: None,
                client: Box::new(KafkaClientArgs {
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
                redis_key_prefix: "dg:".to_owned(),
            },
            codes: CodeSecretArgs {
                coupon_code_secret: Some("hunter2".to_owned()),
                coupon_code_secret_previous: Some("hunter2-too".to_owned()),
            },
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
    fn every_problem_is_reported_at_once_and_no_secret() {
        let text = none().settings().err().unwrap().to_string();
        for (name, problem) in [
            ("DATABASE_URL", "is not set"),
            ("KAFKA_BOOTSTRAP", "is not set"),
            ("UPSTASH_REDIS_REST_URL", "is not an http address"),
            ("UPSTASH_REDIS_REST_TOKEN", "is not set"),
            ("COUPON_CODE_SECRET", "has only 7 bytes"),
            ("COUPON_CODE_SECRET_PREVIOUS", "has only 11 bytes"),
            ("HTTP_LISTEN", "is not an address with a port"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "is not an http address"),
            ("WRITE_BUDGET", "\"fast\" is not a budget"),
        ] {
            assert!(text.contains(&format!("{name} {problem}; expected ")), "{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn complete_settings_are_taken() {
        let mut args = none();
        args.database.database_url = Some("mysql://u:secret@h/db".to_owned());
        args.kafka.kafka_bootstrap = Some("h:1".to_owned());
        args.redis.upstash_redis_rest_url = Some("https://r".to_owned());
        args.redis.upstash_redis_rest_token = Some("t".to_owned());
        args.codes.coupon_code_secret = Some("0123456789abcdef".to_owned());
        args.codes.coupon_code_secret_previous = Some(" ".to_owned());
        args.write_budget = "100/min".to_owned();
        args.http_listen = "off".to_owned();
        args.otel_exporter_otlp_endpoint = Some(String::new());
        let settings = args.settings().map_err(|problems| problems.to_string()).unwrap();
        assert_eq!(settings.database.shown, "mysql://h/db");
        assert_eq!(settings.create_topics.unwrap().partitions, 3);
        assert_eq!((settings.write_budget.to_string(), settings.http_listen), ("100/min".to_owned(), None));

        args.database.database_url = Some("mysql://u:secret@h".to_owned());
        let text = args.settings().err().unwrap().to_string();
        assert!(text.contains("names no database") && !text.contains("secret"), "{text}");
    }
}
