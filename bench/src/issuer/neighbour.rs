//! The other tenants of the database: orders and sign-ups at a steady rate, whatever becomes of them.

use anyhow::Result;
use dropgate_burst::load::random::Random;
use sqlx::{Executor as _, MySqlPool};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

/// Arrivals a second: half orders, half sign-ups.
pub const RATE: f64 = 200.0;
const PRODUCTS: u64 = 1_000;

/// One order or sign-up.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// When it came, in seconds since the start.
    pub at_s: f64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
}

/// Creates its tables.
///
/// # Errors
/// If the database refuses.
pub async fn prepare(mysql: &MySqlPool) -> Result<()> {
    for statement in [
        "CREATE TABLE products (id INT UNSIGNED PRIMARY KEY, stock INT NOT NULL) ENGINE = InnoDB",
        "CREATE TABLE orders (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, product_id INT UNSIGNED NOT NULL, \
         amount INT NOT NULL, placed_at DATETIME(3) NOT NULL, KEY (product_id)) ENGINE = InnoDB",
        "CREATE TABLE members (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, email VARCHAR(128) NOT NULL UNIQUE, \
         joined_at DATETIME(3) NOT NULL) ENGINE = InnoDB",
    ] {
        mysql.execute(statement).await?;
    }
    for id in 0..PRODUCTS {
        sqlx::query("INSERT INTO products VALUES (?, 1000000)").bind(id).execute(mysql).await?;
    }
    Ok(())
}

/// Works until `until` completes, and returns every visit with what `until` returned.
///
/// # Errors
/// If a visit fails, or `until` does.
pub async fn visits<T>(
    mysql: &MySqlPool,
    begun: Instant,
    seed: u64,
    until: impl Future<Output = Result<T>>,
) -> Result<(Vec<Visit>, T)> {
    let over = Rc::new(Cell::new(false));
    let local = LocalSet::new();
    let people = {
        let (mysql, over) = (mysql.clone(), Rc::clone(&over));
        local.run_until(async move {
            let mut random = Random::new(seed);
            let mut set = JoinSet::new();
            let mut all = Vec::new();
            let mut due = begun;
            let mut number = 0_u64;
            while !over.get() {
                // A Poisson process: the gaps are exponential.
                #[expect(clippy::cast_precision_loss, reason = "a million steps")]
                let uniform = (random.below(1_000_000) + 1) as f64 / 1e6;
                due += Duration::from_secs_f64(-uniform.ln() / RATE);
                sleep_until(due).await;
                number += 1;
                let (mysql, product) = (mysql.clone(), random.below(PRODUCTS));
                let came = Instant::now();
                let name = format!("{seed}-{number}@example.org");
                set.spawn_local(async move {
                    if number.is_multiple_of(2) { order(&mysql, product).await } else { sign_up(&mysql, &name).await }?;
                    let (at_s, took_ms) = ((came - begun).as_secs_f64(), came.elapsed().as_secs_f64() * 1000.0);
                    Ok::<_, sqlx::Error>(Visit { at_s, took_ms })
                });
                while let Some(done) = set.try_join_next() {
                    all.push(done??);
                }
            }
            while let Some(done) = set.join_next().await {
                all.push(done??);
            }
            all.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
            Ok::<_, anyhow::Error>(all)
        })
    };
    let watch = async {
        let result = until.await;
        over.set(true);
        result
    };
    let (all, result) = tokio::join!(people, watch);
    Ok((all?, result?))
}

async fn order(mysql: &MySqlPool, product: u64) -> sqlx::Result<()> {
    let mut transaction = mysql.begin().await?;
    sqlx::query("INSERT INTO orders (product_id, amount, placed_at) VALUES (?, 1, NOW(3))")
        .bind(product)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("UPDATE products SET stock = stock - 1 WHERE id = ?").bind(product).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn sign_up(mysql: &MySqlPool, email: &str) -> sqlx::Result<()> {
    let insert = sqlx::query("INSERT INTO members (email, joined_at) VALUES (?, NOW(3))").bind(email);
    insert.execute(mysql).await.map(drop)
}

/// A quantile of the visits that came between two moments, in ms; not a number if nobody came.
#[must_use]
pub fn quantile(visits: &[Visit], from_s: f64, to_s: f64, quantile: f64) -> f64 {
    let within = visits.iter().filter(|visit| (from_s..to_s).contains(&visit.at_s));
    let mut took: Vec<f64> = within.map(|visit| visit.took_ms).collect();
    took.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let index = (took.len() as f64 * quantile) as usize;
    took.get(index.min(took.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_counts_only_who_came_in_between() {
        let visits: Vec<Visit> =
            (0..100).map(|n| Visit { at_s: f64::from(n), took_ms: f64::from(n % 50) + 1.0 }).collect();
        assert_eq!(quantile(&visits, 0.0, 50.0, 0.5), 26.0);
        assert_eq!(quantile(&visits, 0.0, 50.0, 0.99), 50.0);
        assert_eq!(quantile(&visits, 10.0, 11.0, 0.99), 11.0);
        assert!(quantile(&visits, 200.0, 300.0, 0.5).is_nan());
    }
}
