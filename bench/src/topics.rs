//! Kafka's topics for a benchmark.

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the deletion of a topic may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().context("cannot create a Kafka client")
}

pub async fn create(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin = admin(bootstrap)?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        if let Err((topic, code)) = result {
            bail!("Kafka did not create the topic {topic}: {code}");
        }
    }
    Ok(())
}

/// Deletes the topic if it exists, and creates it.
pub async fn recreate(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let deadline = Instant::now() + DELETE_TIMEOUT;
    loop {
        match admin(bootstrap)?.delete_topics(&[topic], &AdminOptions::new()).await?.first() {
            Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))) => break,
            Some(Err((_, code))) => bail!("Kafka did not delete the topic {topic}: {code}"),
            // It is deleted only when a second request does not find it.
            _ if Instant::now() > deadline => bail!("the topic {topic} still exists"),
            _ => sleep(Duration::from_millis(50)).await,
        }
    }
    create(bootstrap, topic, partitions).await
}
