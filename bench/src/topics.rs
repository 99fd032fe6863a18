//! Kafka's topics for a benchmark.

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a topic may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().context("no client for Kafka")
}

/// Creates a topic.
///
/// # Errors
/// If the broker does not.
pub async fn create(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin = admin(bootstrap)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        if let Err((topic, code)) = result {
            bail!("Kafka does not create the topic {topic}: {code}");
        }
    }
    Ok(())
}

/// Creates a topic anew, with nothing in it.
///
/// # Errors
/// If the broker does not.
pub async fn recreate(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        match admin(bootstrap)?.delete_topics(&[topic], &AdminOptions::new()).await?.first() {
            Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))) => break,
            Some(Err((_, code))) => bail!("Kafka does not delete the topic {topic}: {code}"),
            // Gone only when a second request no longer finds it.
            _ if Instant::now() > deadline => bail!("the topic {topic} is still there"),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
    create(bootstrap, topic, partitions).await
}
