//! The wall clock of the simulated world.
//!
//! It follows tokio's clock, which stands still while any task can run and then jumps to the next timer
//! (`tokio::time::pause`). Each party has a copy, with its own skew.

use tokio::time::Instant;

/// A wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start_epoch_ms: u64,
    origin: Instant,
    offset_ms: i64,
}

impl Clock {
    /// A clock that shows `start_epoch_ms` (ms since 1970) now.
    #[must_use]
    pub fn starting_at(start_epoch_ms: u64) -> Self {
        Self { start_epoch_ms, origin: Instant::now(), offset_ms: 0 }
    }

    /// The same clock, ahead by `offset_ms` (behind, if negative), whatever its skew was.
    #[must_use]
    pub fn skewed(self, offset_ms: i64) -> Self {
        Self { offset_ms, ..self }
    }

    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    #[must_use]
    pub fn now_us(&self) -> u64 {
        let elapsed_us = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        (self.start_epoch_ms * 1_000)
            .saturating_add(elapsed_us)
            .saturating_add_signed(self.offset_ms.saturating_mul(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn it_follows_virtual_time_with_its_skew() {
        let clock = Clock::starting_at(1_800_000_000_000);
        let ahead = clock.skewed(250);
        let behind = ahead.skewed(-1_000);
        assert_eq!(clock.now_ms(), 1_800_000_000_000);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(clock.now_ms(), 1_800_000_001_500);
        assert_eq!(ahead.now_ms(), 1_800_000_001_750);
        assert_eq!(behind.now_us(), 1_800_000_000_500_000);
    }
}
