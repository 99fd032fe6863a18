//! Settings for the operator's verbs, each of which needs some of the three servers.

use super::{DatabaseArgs, DatabaseSettings, KafkaArgs, Problems, RedisArgs, RunArgs};
use crate::kafka::settings::KafkaSettings;
use crate::redis::client::RedisSettings;

impl Problems {
    /// One line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl KafkaArgs {
    /// The settings.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<KafkaSettings, Problems> {
        let mut problems = Problems::default();
        let kafka = self.read(&mut problems);
        problems.or(kafka)
    }
}

impl RedisArgs {
    /// The settings.
    ///
    /// # Errors
    /// [`Problems`].
    pub fn settings(&self) -> Result<RedisSettings, Problems> {
        let mut problems = Problems::default();
        let redis = self.read(&mut problems);
        problems.or(redis)
    }
}

impl RunArgs {
    /// What concerns one server each.
    #[must_use]
    pub fn parts(&self) -> (&DatabaseArgs, &RedisArgs, &KafkaArgs) {
        (&self.database, &self.redis, &self.kafka)
    }
}

/// MySQL, Redis, and Kafka where it is configured.
///
/// # Errors
/// [`Problems`] of all of them.
pub fn sources(
    database: &DatabaseArgs,
    redis: &RedisArgs,
    kafka: &KafkaArgs,
) -> Result<(DatabaseSettings, RedisSettings, Option<KafkaSettings>), Problems> {
    let mut problems = Problems::default();
    let database = database.read(&mut problems);
    let redis = redis.read(&mut problems);
    let kafka = if kafka.is_set() { kafka.read(&mut problems) } else { None };
    problems.or(database.zip(redis).map(|(database, redis)| (database, redis, kafka)))
}

/// MySQL, and Redis and Kafka as far as they are configured in full.
///
/// # Errors
/// [`Problems`] of MySQL.
pub fn at_least_database(
    database: &DatabaseArgs,
    redis: &RedisArgs,
    kafka: &KafkaArgs,
) -> Result<(DatabaseSettings, Option<RedisSettings>, Option<KafkaSettings>), Problems> {
    Ok((database.settings()?, redis.settings().ok(), kafka.settings().ok()))
}

/// MySQL and Kafka.
///
/// # Errors
/// [`Problems`] of both.
pub fn database_and_kafka(
    database: &DatabaseArgs,
    kafka: &KafkaArgs,
) -> Result<(DatabaseSettings, KafkaSettings), Problems> {
    let mut problems = Problems::default();
    let database = database.read(&mut problems);
    let kafka = kafka.read(&mut problems);
    problems.or(database.zip(kafka))
}
