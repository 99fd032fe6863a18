//! The others on the same database: orders and sign-ups that arrive at a steady rate, whatever the
//! answers do.

use anyhow::Result;
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Arrivals a second; every fourth is a sign-up, the others are orders.
const RATE: u32 = 100;
const CONNECTIONS: u32 = 16;
const ITEMS: u64 = 1_000;

/// One arrival, in ms from the start and in ms that it took from the moment it was due.
pub type Point = (f64, f64);

/// The workload's tables.
///
/// # Errors
/// If they cannot be made.
pub async fn prepare(url: &str) -> Result<()> {
    let pool = MySqlPool::connect(url).await?;
    for statement in [
        "CREATE TABLE IF NOT EXISTS shop_items (id BIGINT PRIMARY KEY, stock BIGINT NOT NULL) ENGINE = InnoDB",
        "CREATE TABLE IF NOT EXISTS shop_orders (id BIGINT PRIMARY KEY AUTO_INCREMENT, item BIGINT NOT NULL, \
         at DATETIME(3) NOT NULL, KEY (item)) ENGINE = InnoDB",
        "CREATE TABLE IF NOT EXISTS shop_users (id BIGINT PRIMARY KEY AUTO_INCREMENT, mail VARCHAR(64) NOT NULL UNIQUE) \
         ENGINE = InnoDB",
    ] {
        sqlx::query(statement).execute(&pool).await?;
    }
    for id in 0..ITEMS {
        sqlx::query("INSERT IGNORE INTO shop_items VALUES (?, 1000000)").bind(id).execute(&pool).await?;
    }
    Ok(())
}

async fn arrival(pool: &MySqlPool, run: u64, n: u64) -> Result<()> {
    if n.is_multiple_of(4) {
        let mail = format!("{run}-{n}@shop.example");
        sqlx::query("INSERT INTO shop_users (mail) VALUES (?)").bind(mail).execute(pool).await?;
        return Ok(());
    }
    let mut order = pool.begin().await?;
    let item = n.wrapping_mul(7_919) % ITEMS;
    sqlx::query("UPDATE shop_items SET stock = stock - 1 WHERE id = ?").bind(item).execute(&mut *order).await?;
    let insert = sqlx::query("INSERT INTO shop_orders (item, at) VALUES (?, NOW(3))").bind(item);
    insert.execute(&mut *order).await?;
    Ok(order.commit().await?)
}

/// Lets the workload run for `seconds` and returns what each arrival took.
///
/// # Errors
/// If one of them fails.
pub async fn run(url: &str, seconds: u32) -> Result<Vec<Point>> {
    let options = MySqlPoolOptions::new().min_connections(CONNECTIONS).max_connections(CONNECTIONS);
    let pool = options.connect(url).await?;
    let run = u64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_millis())?;
    let points = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..RATE * seconds {
        let due = begun + Duration::from_secs_f64(f64::from(n) / f64::from(RATE));
        tokio::time::sleep_until(due.into()).await;
        let (pool, points) = (pool.clone(), Arc::clone(&points));
        tasks.push(tokio::spawn(async move {
            arrival(&pool, run, u64::from(n)).await?;
            let took_ms = due.elapsed().as_secs_f64() * 1e3;
            if let Ok(mut points) = points.lock() {
                points.push((due.duration_since(begun).as_secs_f64() * 1e3, took_ms));
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(points.lock().map(|points| points.clone()).unwrap_or_default())
}

/// The latency that `share` of the arrivals did not exceed, ms.
#[must_use]
pub fn quantile(points: &[Point], share: f64) -> f64 {
    let mut values: Vec<f64> = points.iter().map(|(_, took_ms)| *took_ms).collect();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((values.len() as f64 * share).ceil() as usize).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}
