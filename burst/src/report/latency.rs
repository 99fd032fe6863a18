//! Latencies by percentile.

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

/// For values from 1 us to one hour, with three significant digits (60 kB).
///
/// # Errors
/// None: the bounds are constant and valid.
pub fn histogram_us() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3)
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
    pub fn of(values_us: impl Iterator<Item = u64>) -> Self {
        let Ok(mut histogram) = histogram_us() else {
            return Self::default();
        };
        for value_us in values_us {
            histogram.saturating_record(value_us);
        }
        if histogram.is_empty() {
            return Self::default();
        }
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
