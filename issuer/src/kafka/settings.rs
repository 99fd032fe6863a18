//! Where Kafka is, and what the operator may set of librdkafka.

use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use rdkafka::ClientConfig;
use std::fmt;

/// Where Kafka is, and as whom.
#[derive(Clone, Default)]
pub struct KafkaSettings {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// Consumer group of the issuers.
    pub group: String,
    /// Name of this member within the group, the same after each start: a restart that is shorter than
    /// the session then moves no partition.
    pub instance_id: Option<String>,
    pub topics: Topics,
    /// Settings of librdkafka, key and value: security, and what the operator passes through. They win
    /// over the defaults of this program, and are checked by [`check_option`]. They may hold passwords.
    pub options: Vec<(String, String)>,
}

/// The names of the topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Of the admitted claims.
    pub admissions: String,
    /// Of the records that can never become a row.
    pub dead_letters: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self { admissions: TOPIC.to_owned(), dead_letters: DEAD_LETTER_TOPIC.to_owned() }
    }
}

impl Topics {
    /// Both must be there: a rejected record must have somewhere to go before it comes.
    #[must_use]
    pub fn all(&self) -> [&str; 2] {
        [&self.admissions, &self.dead_letters]
    }
}

/// Without the options: they may hold passwords.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap", &self.bootstrap)
            .field("group", &self.group)
            .field("instance_id", &self.instance_id)
            .field("topics", &self.topics)
            .field("options", &self.options.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .finish()
    }
}

/// Settings that are not the operator's, and why.
const FIXED: [(&str, &str); 15] = [
    ("enable.auto.offset.store", "an offset may move only when its record is settled (I7)"),
    ("enable.auto.commit", "stored offsets are committed every second"),
    ("auto.offset.reset", "a group that begins must begin with the oldest record (I3)"),
    ("partition.assignment.strategy", "members of one group must all use cooperative-sticky"),
    ("group.protocol", "members of one group must all use the classic protocol"),
    ("isolation.level", "records of aborted transactions must not be read"),
    ("enable.partition.eof", "the end of a partition is not a record"),
    ("allow.auto.create.topics", "a mistyped topic must not appear by itself"),
    ("statistics.interval.ms", "lag and the share of the budget are taken from the statistics"),
    ("acks", "a dead letter must be on all replicas before its offset moves (I7)"),
    ("enable.idempotence", "a dead letter must be acknowledged once"),
    ("transactional.id", "dead letters are not sent in transactions"),
    ("bootstrap.servers", "use KAFKA_BOOTSTRAP"),
    ("group.id", "use KAFKA_GROUP"),
    ("group.instance.id", "use KAFKA_INSTANCE_ID"),
];

/// A setting of librdkafka that the operator may not set.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    #[error("sets {key}, which is fixed: {why}")]
    Fixed { key: String, why: &'static str },
    /// Not repeated: it may be what follows a comma in a password.
    #[error("has a name that librdkafka does not have; expected KEY=VALUE,KEY=VALUE")]
    NoSuchName,
}

/// Names without a dot, which all others have.
const UNDOTTED: [&str; 4] = ["acks", "debug", "partitioner", "retries"];

/// Whether the operator may set `key`.
pub fn check_option(key: &str) -> Result<(), OptionError> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'.' || byte == b'_';
    if !key.bytes().all(is_name) || !(key.contains('.') || UNDOTTED.contains(&key)) {
        return Err(OptionError::NoSuchName);
    }
    // Its other names in librdkafka.
    let name = match key {
        "metadata.broker.list" => "bootstrap.servers",
        "request.required.acks" => "acks",
        "auto.commit.enable" => "enable.auto.commit",
        other => other,
    };
    match FIXED.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, why)) => Err(OptionError::Fixed { key: key.to_owned(), why }),
        None => Ok(()),
    }
}

impl KafkaSettings {
    /// The configuration that every client begins with.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        self.client_with(&[])
    }

    /// The same, with defaults for one kind of client. The operator's options win over them; what the
    /// caller sets afterwards wins over the options.
    #[must_use]
    pub fn client_with(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "dropgate-issuer");
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config
            .set("bootstrap.servers", &self.bootstrap)
            // A topic that somebody deleted, or mistyped, must not appear by itself.
            .set("allow.auto.create.topics", "false");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_invariants_rest_on_cannot_be_set() {
        for key in ["enable.auto.offset.store", "auto.offset.reset", "auto.commit.enable", "acks", "group.instance.id"]
        {
            assert!(check_option(key).unwrap_err().to_string().contains(key), "{key}");
        }
        check_option("session.timeout.ms").unwrap();
    }

    #[test]
    fn options_win_over_defaults_and_are_never_shown() {
        let options = vec![("sasl.password".to_owned(), "hunter2".to_owned()), ("a".to_owned(), "given".to_owned())];
        let settings = KafkaSettings { bootstrap: "h:1".to_owned(), options, ..KafkaSettings::default() };
        let config = settings.client_with(&[("a", "default"), ("b", "default")]);
        assert_eq!((config.get("a"), config.get("b")), (Some("given"), Some("default")));
        assert!(!format!("{settings:?}").contains("hunter2"));

        let options = vec![("sasl.passwrd".to_owned(), "hunter2".to_owned())];
        let settings = KafkaSettings { bootstrap: "h:1".to_owned(), options, ..KafkaSettings::default() };
        let error = settings.client().create::<rdkafka::consumer::BaseConsumer>().err().unwrap();
        let text = crate::kafka::client::fault("settings", false, &error).to_string();
        assert!(text.contains("sasl.passwrd") && !text.contains("hunter2"), "{text}");
    }
}
