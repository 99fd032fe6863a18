//! The neighbour: another user of the database, with orders and sign-ups at a steady rate.

use anyhow::Result;
use dropgate_burst::load::random::Random;
use dropgate_burst::report::latency::{histogram_us, quantile_ms};
use sqlx::{Executor as _, MySqlPool};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

/// Arrivals a second: half orders, half sign-ups.
pub const RATE: f64 = 200.0;
const PRODUCTS: u64 = 1_000;

/// One order or sign-up.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourRequest {
    /// Seconds from the start to its arrival.
    pub at_s: f64,
    pub latency_us: u64,
}

pub async fn create_tables(mysql: &MySqlPool) -> Result<()> {
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

/// Sends requests until `until` completes. Returns them in the order of their arrival, with the result of
/// `until`.
///
/// # Errors
/// If a request fails, or `until` does.
pub async fn run<T>(
    mysql: &MySqlPool,
    begun: Instant,
    seed: u64,
    until: impl Future<Output = Result<T>>,
) -> Result<(Vec<NeighbourRequest>, T)> {
    let over = Rc::new(Cell::new(false));
    let local = LocalSet::new();
    let requests = {
        let (mysql, over) = (mysql.clone(), Rc::clone(&over));
        local.run_until(async move {
            let mut random = Random::new(seed);
            let mut set = JoinSet::new();
            let mut all = Vec::new();
            let mut due = begun;
            let mut number = 0_u64;
            while !over.get() {
                // A Poisson process: the gaps are exponential.
                let uniform = (random.below(1_000_000) + 1) as f64 / 1e6;
                due += Duration::from_secs_f64(-uniform.ln() / RATE);
                sleep_until(due).await;
                number += 1;
                let (mysql, product) = (mysql.clone(), random.below(PRODUCTS));
                let arrived = Instant::now();
                let name = format!("{seed}-{number}@example.org");
                set.spawn_local(async move {
                    if number.is_multiple_of(2) { order(&mysql, product).await } else { sign_up(&mysql, &name).await }?;
                    let latency_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
                    Ok::<_, sqlx::Error>(NeighbourRequest { at_s: (arrived - begun).as_secs_f64(), latency_us })
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
    let (all, result) = tokio::join!(requests, watch);
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

/// Median and 99th percentile in ms of the requests that arrived within `seconds`; NaN without a request.
pub fn p50_and_p99_ms(requests: &[NeighbourRequest], seconds: &Range<f64>) -> Result<(f64, f64)> {
    let within = requests.iter().filter(|request| seconds.contains(&request.at_s));
    let histogram = histogram_us(within.map(|request| request.latency_us))?;
    Ok((quantile_ms(&histogram, 0.5), quantile_ms(&histogram, 0.99)))
}

/// Points of (middle of a second, latency in ms): the medians and the 99th percentiles.
pub fn by_second(requests: &[NeighbourRequest]) -> Result<[Vec<(f64, f64)>; 2]> {
    let mut points = [Vec::new(), Vec::new()];
    let seconds = requests.last().map_or(0, |last| last.at_s as u32 + 1);
    for second in (0..seconds).map(f64::from) {
        let (p50, p99) = p50_and_p99_ms(requests, &(second..second + 1.0))?;
        for (points, ms) in points.iter_mut().zip([p50, p99]).filter(|(_, ms)| ms.is_finite()) {
            points.push((second + 0.5, ms));
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_only_requests_in_the_interval() {
        let request = |n: u32| NeighbourRequest { at_s: f64::from(n), latency_us: u64::from(n % 50 + 1) * 1000 };
        let requests: Vec<_> = (0..100).map(request).collect();
        let rounded = |seconds| {
            let (p50, p99) = p50_and_p99_ms(&requests, &seconds).unwrap();
            (p50.round(), p99.round())
        };
        assert_eq!(rounded(0.0..50.0), (25.0, 50.0));
        assert_eq!(rounded(10.0..11.0), (11.0, 11.0));
        assert!(p50_and_p99_ms(&requests, &(200.0..300.0)).unwrap().0.is_nan());
        let [medians, _] = by_second(&requests[10..12]).unwrap();
        assert_eq!(
            medians.iter().map(|(at_s, ms)| (*at_s, ms.round())).collect::<Vec<_>>(),
            [(10.5, 11.0), (11.5, 12.0)]
        );
    }
}
