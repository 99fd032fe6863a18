//! What a budget learns of a batch, and what it reports.

use std::time::Duration;

/// What a batch did, as far as the budget is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Rows written.
    pub rows: usize,
    /// Records whose row was there already.
    pub looked_up: usize,
    /// How long the database took for them.
    pub took: Duration,
    /// Whether every record became a new row at the first try. Only such a batch shows how busy
    /// the database is: any other is more work by itself.
    pub clean: bool,
}

/// A change of pace that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Others are on the database: the pace was cut.
    Slowed,
    /// The pace is what it was before the first cut.
    Recovered,
}

/// A count as a number to calculate with.
pub(super) fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::from(u32::MAX), f64::from)
}
