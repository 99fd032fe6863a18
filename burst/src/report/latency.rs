//! Latencies by percentile.

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

/// From 1 us to one hour, with three significant digits (60 kB).
///
/// # Errors
/// None: the bounds are constant and valid.
pub fn histogram_us(values_us: impl IntoIterator<Item = u64>) -> Result<Histogram<u64>, CreationError> {
    let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3)?;
    values_us.into_iter().for_each(|value_us| histogram.saturating_record(value_us));
    Ok(histogram)
}

/// NaN for an empty histogram.
#[must_use]
pub fn quantile_ms(histogram_us: &Histogram<u64>, quantile: f64) -> f64 {
    if histogram_us.is_empty() { f64::NAN } else { histogram_us.value_at_quantile(quantile) as f64 / 1000.0 }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// For drawing: pairs of percentile (0 to 100) and latency.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    #[must_use]
    pub fn of(values_us: impl IntoIterator<Item = u64>) -> Self {
        let Some(histogram) = histogram_us(values_us).ok().filter(|histogram| !histogram.is_empty()) else {
            return Self::default();
        };
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            curve: histogram
                .iter_quantiles(5)
                .map(|point| (point.quantile_iterated_to() * 100.0, point.value_iterated_to()))
                .collect(),
        }
    }
}
