//! The peers of the issuer: INSERT without Kafka, and a consumer without batches.

use super::setup::{CAMPAIGN, CAPACITY};
use anyhow::{Context as _, Result};
use dropgate_shared::record::AdmissionRecord;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use sqlx::{Connection as _, Executor as _, MySqlConnection};
use tokio::time::Instant;

const COLUMNS: &str =
    "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) VALUES ";
const ROW: &str = "(?, ?, ?, ?, '7ZQK-3M9F-XW20-BC8D', NOW(3), NOW(3))";

/// The ceiling: the same rows in the same schema, `batch` rows per statement and transaction, over one
/// connection. Returns rows a second.
pub async fn raw_insert(database_url: &str, rows: u32, batch: u32) -> Result<f64> {
    let mut connection = MySqlConnection::connect(database_url).await?;
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    let statement = |rows: u32| format!("{COLUMNS}{}", vec![ROW; rows as usize].join(","));
    let full = statement(batch);
    let begun = Instant::now();
    let mut slot = 1;
    while slot <= rows {
        let count = batch.min(rows - slot + 1);
        let text = if count == batch { full.clone() } else { statement(count) };
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
        for slot in slot..slot + count {
            query = query.bind(CAMPAIGN).bind(slot).bind(CAPACITY).bind(format!("user-{slot:08}"));
        }
        query.execute(&mut connection).await?;
        slot += count;
    }
    Ok(f64::from(rows) / begun.elapsed().as_secs_f64())
}

/// The plain consumer: reads a record, inserts its row, reads the next. It never ends by itself.
///
/// # Errors
/// If Kafka or the database fails. A row that exists already is no error.
pub async fn per_message() -> Result<()> {
    let var = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let mut connection = MySqlConnection::connect(&var("DATABASE_URL")?).await?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", var("KAFKA_BOOTSTRAP")?)
        .set("group.id", var("KAFKA_GROUP")?)
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[dropgate_shared::names::TOPIC])?;
    let insert = format!("{COLUMNS}{ROW}");
    loop {
        let message = consumer.recv().await?;
        let record = AdmissionRecord::decode(message.payload().unwrap_or_default())?;
        let inserted = sqlx::query(sqlx::AssertSqlSafe(insert.clone()))
            .bind(record.campaign.as_str())
            .bind(record.slot.get())
            .bind(CAPACITY)
            .bind(record.user.as_str())
            .execute(&mut connection)
            .await;
        match inserted {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
            result => {
                result?;
            }
        }
    }
}
