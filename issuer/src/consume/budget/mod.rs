//! The write budget: how fast rows are written, so that the database's other users do not notice.
//!
//! **A rate** (`100/min`) is kept by spacing. A batch of `n` rows moves the time of the next one `n`
//! intervals on, and a batch is at most a tenth of a second's worth: at `100/min` that is one row every
//! 600 ms, at `5000/s` 500 rows every 100 ms. Nothing is saved up while there is nothing to write, and the
//! first row waits its turn too, so that a crash loop does not exceed the budget. The promise: in *any*
//! window of time `w`, at most `rate * (w + 0.1 s)` rows and one batch are written.
//!
//! **`auto`** has no number to keep and follows the database's own latency: see [`auto`].
//!
//! The budget holds for the whole group of issuers. Each takes the part of it that its partitions are of
//! all partitions, which each knows by itself (docs/adr/0005-budget-by-partitions.md).
//!
//! What counts is a row that is written, a coupon or a refusal. A record whose row is there already is only
//! looked up, which counts as a tenth of a row where a batch meets it: behind a small budget claims wait for hours, the
//! outbox sends them again meanwhile, and the copies must not hold up the next campaign as long as their originals did.
//! Most copies never come that far: see `super::copies`.
//! A record that is no admission costs nothing.

pub mod auto;
mod written;

use auto::Auto;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::Instant;
use written::count;
pub use written::{Change, Written};

/// A batch of a rate is what may be written in this time.
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// A timer that fired late, or a commit that took its time, may be made up for by this much.
const SLACK: Duration = BATCH_EVERY;
/// What a look for a row that is there already costs, in rows.
const LOOK: f64 = 0.1;
/// An interval between two rows is no longer than this, so that no arithmetic overflows.
const LONGEST_S: f64 = 86_400.0;

/// How fast rows may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteBudget {
    /// As fast as the database takes them.
    Unlimited,
    /// No faster than this, whatever the database would take.
    Rate(Rate),
    /// As fast as its other users do not notice.
    Auto,
}

/// Rows in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    rows: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// Rows a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        let unit_s = match self.unit {
            Unit::Second => 1.0,
            Unit::Minute => 60.0,
            Unit::Hour => 3_600.0,
        };
        f64::from(self.rows) / unit_s
    }
}

/// Why a text is not a budget. Follows the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    #[error("{0:?} is not a budget")]
    Malformed(String),
    #[error("of 0 rows would never issue a coupon (to admit nobody, pause the campaign)")]
    Zero,
}

impl FromStr for WriteBudget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let malformed = || BudgetError::Malformed(text.to_owned());
        match text.trim() {
            "auto" => return Ok(Self::Auto),
            "unlimited" => return Ok(Self::Unlimited),
            _ => {}
        }
        let (rows, unit) = text.trim().split_once('/').ok_or_else(malformed)?;
        let unit = match unit.trim() {
            "s" | "sec" => Unit::Second,
            "min" | "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(malformed()),
        };
        match rows.trim().parse() {
            Ok(0) => Err(BudgetError::Zero),
            Ok(rows) => Ok(Self::Rate(Rate { rows, unit })),
            Err(_) => Err(malformed()),
        }
    }
}

impl fmt::Display for WriteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Auto => f.write_str("auto"),
            Self::Rate(Rate { rows, unit }) => {
                let unit = match unit {
                    Unit::Second => "s",
                    Unit::Minute => "min",
                    Unit::Hour => "h",
                };
                write!(f, "{rows}/{unit}")
            }
        }
    }
}

/// The budget of one issuer. The clock comes in with every call.
#[derive(Debug)]
pub struct Budget {
    setting: WriteBudget,
    most: usize,
    /// The part of the group's budget that is ours, above 0 and at most 1.
    share: f64,
    next_at: Instant,
    auto: Auto,
}

impl Budget {
    /// A budget that begins at `now`, for batches of at most `most` rows.
    #[must_use]
    pub fn new(setting: WriteBudget, most: usize, now: Instant) -> Self {
        let mut budget = Self { setting, most: most.max(1), share: 1.0, next_at: now, auto: Auto::new(now) };
        if let WriteBudget::Rate(_) = setting {
            budget.next_at = now + budget.interval(1.0);
        }
        budget
    }

    /// This issuer has `owned` of all `all` partitions. Without any it has nothing to write, and its
    /// share does not matter.
    pub fn share(&mut self, owned: usize, all: usize) {
        if owned > 0 && all > 0 {
            let (owned, all) = (owned.min(all), all);
            self.share = count(owned) / count(all);
        }
    }

    /// This issuer's part of the group's budget, of 1.
    #[must_use]
    pub fn part(&self) -> f64 {
        self.share
    }

    /// Rows of the next batch at most; at least one.
    #[must_use]
    pub fn batch(&self, now: Instant) -> usize {
        match self.setting {
            WriteBudget::Unlimited => self.most,
            WriteBudget::Rate(rate) => whole(rate.per_second() * self.share * BATCH_EVERY.as_secs_f64(), self.most),
            WriteBudget::Auto => self.auto.batch(now).min(self.most),
        }
    }

    /// From when on the next batch may be written.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// A batch was written, and its answer came at `now`.
    pub fn wrote(&mut self, written: Written, now: Instant) -> Option<Change> {
        if written.rows == 0 && written.looked_up == 0 {
            return None;
        }
        match self.setting {
            WriteBudget::Unlimited => None,
            WriteBudget::Rate(_) => {
                let from = now.checked_sub(SLACK).unwrap_or(now).max(self.next_at);
                self.next_at = from + self.interval(count(written.rows) + LOOK * count(written.looked_up));
                None
            }
            WriteBudget::Auto => {
                let (pause, change) = self.auto.wrote(written, self.share, now);
                self.next_at = now + pause;
                change
            }
        }
    }

    /// The pace in force, in rows a second; `None` without a budget.
    #[must_use]
    pub fn rows_per_second(&self) -> Option<f64> {
        match self.setting {
            WriteBudget::Unlimited => None,
            WriteBudget::Rate(rate) => Some(rate.per_second() * self.share),
            WriteBudget::Auto => Some(self.auto.rows_per_second()),
        }
    }

    /// What part of the time `auto` spends writing at most, of 1.
    #[must_use]
    pub fn duty(&self) -> Option<f64> {
        (self.setting == WriteBudget::Auto).then(|| self.auto.duty())
    }

    fn interval(&self, rows: f64) -> Duration {
        match self.setting {
            WriteBudget::Rate(rate) => {
                Duration::from_secs_f64((rows / (rate.per_second() * self.share)).min(LONGEST_S))
            }
            WriteBudget::Unlimited | WriteBudget::Auto => Duration::ZERO,
        }
    }
}

/// The whole part of `n`, from 1 to `most`.
fn whole(n: f64, most: usize) -> usize {
    let mut whole = 1;
    // A cast would do as well, and would need a lint's leave for its edges.
    if n >= 1.0 {
        whole = Duration::from_secs_f64(n.min(1e9)).as_secs().try_into().unwrap_or(most);
    }
    whole.clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn budgets_are_read_and_written() {
        for text in ["500/s", "100/min", "3/h", "auto", "unlimited"] {
            assert_eq!(text.parse::<WriteBudget>().unwrap().to_string(), text);
        }
        assert_eq!(" 7 / sec ".parse::<WriteBudget>().unwrap().to_string(), "7/s");
        for text in ["", "100", "/s", "1/day", "-1/s", "1.5/s", "99999999999/s", "fast"] {
            assert_eq!(text.parse::<WriteBudget>(), Err(BudgetError::Malformed(text.to_owned())));
        }
        assert_eq!("0/s".parse::<WriteBudget>(), Err(BudgetError::Zero));
    }

    /// Writes as fast as the budget lets it, against a database that takes `took` a batch, and returns
    /// when how many rows were offered.
    fn run(budget: &mut Budget, from: Instant, length: Duration, took: impl Fn(u64) -> Duration) -> Vec<(f64, usize)> {
        let (mut now, mut written, mut nth) = (from, Vec::new(), 0);
        loop {
            // A timer is always a little late.
            now = now.max(budget.next_at()) + Duration::from_micros(nth * 7919 % 3000);
            if now > from + length {
                return written;
            }
            let rows = budget.batch(now);
            nth += 1;
            now += took(nth);
            written.push(((now - from).as_secs_f64(), rows));
            budget.wrote(Written { rows, looked_up: 0, took: took(nth), clean: true }, now);
        }
    }

    /// The most rows in any window of `width` seconds.
    fn most_in(written: &[(f64, usize)], width: f64) -> usize {
        let (mut window, mut sum, mut most) = (VecDeque::new(), 0, 0);
        for (at, rows) in written {
            window.push_back((*at, *rows));
            sum += rows;
            while window.front().is_some_and(|(first, _)| at - first >= width) {
                sum -= window.pop_front().unwrap().1;
            }
            most = most.max(sum);
        }
        most
    }

    #[test]
    fn a_rate_is_kept_in_every_window_and_used_up() {
        for (text, per_second) in [("100/min", 100.0 / 60.0), ("600/min", 10.0), ("500/s", 500.0), ("90000/s", 90000.0)]
        {
            for slow_every in [u64::MAX, 50, 3] {
                let now = Instant::now();
                let mut budget = Budget::new(text.parse().unwrap(), 10_000, now);
                let took = |nth: u64| Duration::from_millis(if nth.is_multiple_of(slow_every) { 700 } else { 2 });
                let written = run(&mut budget, now, SECOND * 120, took);
                let batch = budget.batch(now);
                for width in [0.05, 0.5, 1.0, 10.0, 60.0] {
                    let bound = per_second * (width + 0.1) + count(batch);
                    let most = most_in(&written, width);
                    assert!(count(most) <= bound.ceil(), "{text}: {most} rows in {width} s, {bound} allowed");
                }
                let all: usize = written.iter().map(|(_, rows)| rows).sum();
                if slow_every == u64::MAX {
                    assert!(count(all) >= per_second * 120.0 * 0.97 - 1.0, "{text}: only {all} in two minutes");
                }
            }
        }
    }

    #[test]
    fn at_100_a_minute_rows_come_one_by_one_and_the_first_waits_too() {
        let now = Instant::now();
        let mut budget = Budget::new("100/min".parse().unwrap(), 500, now);
        assert_eq!((budget.batch(now), budget.next_at()), (1, now + SECOND * 6 / 10));
        // An idle hour saves nothing up.
        let later = now + SECOND * 3600;
        budget.wrote(Written { rows: 1, looked_up: 0, took: SECOND, clean: true }, later);
        assert_eq!(budget.next_at(), later - SLACK + SECOND * 6 / 10);
    }

    #[test]
    fn shares_of_all_members_sum_to_the_budget() {
        let now = Instant::now();
        let mut sum = 0.0;
        for owned in [3, 2, 1] {
            let mut budget = Budget::new("600/min".parse().unwrap(), 500, now);
            budget.share(owned, 6);
            sum += budget.rows_per_second().unwrap();
            let mut first = budget.next_at();
            for _ in 0..10 {
                budget.wrote(Written { rows: 1, looked_up: 0, took: SECOND, clean: true }, first);
                first = budget.next_at();
            }
            let took = (first - now).as_secs_f64();
            assert!((took - (0.1 + 6.0 / count(owned))).abs() < 0.3, "{owned}: {took}");
        }
        assert!((sum - 10.0).abs() < 1e-9, "{sum}");
    }

    /// 10,000 claims behind 100 rows a minute, and the copies that the outbox sends meanwhile.
    #[test]
    fn copies_of_what_waits_do_not_wait_as_long_as_their_originals() {
        let now = Instant::now();
        let mut budget = Budget::new("100/min".parse().unwrap(), 500, now);
        let mut settle = |records: usize, is_new: bool| {
            let begun = budget.next_at();
            for _ in 0..records {
                let (rows, looked_up) = if is_new { (1, 0) } else { (0, 1) };
                let at = budget.next_at();
                budget.wrote(Written { rows, looked_up, took: Duration::from_millis(2), clean: is_new }, at);
            }
            (budget.next_at() - begun).as_secs_f64() / 60.0
        };
        let originals = settle(10_000, true);
        assert!((99.0..101.0).contains(&originals), "{originals} min");
        // Sent again after 15, 30 and 60 minutes, as the gate does it.
        let copies = settle(8_500 + 7_000 + 4_000, false);
        assert!((19.0..20.0).contains(&copies), "{copies} min");
    }

    #[test]
    fn without_a_budget_there_is_no_wait() {
        let now = Instant::now();
        let mut budget = Budget::new(WriteBudget::Unlimited, 500, now);
        budget.wrote(Written { rows: 500, looked_up: 0, took: SECOND, clean: true }, now);
        assert_eq!((budget.batch(now), budget.next_at(), budget.rows_per_second()), (500, now, None));
    }

    #[test]
    fn a_record_that_is_no_row_costs_nothing() {
        let now = Instant::now();
        let mut budget = Budget::new("1/h".parse().unwrap(), 500, now);
        let next_at = budget.next_at();
        budget.wrote(Written { rows: 0, looked_up: 0, took: SECOND, clean: false }, now);
        assert_eq!(budget.next_at(), next_at);
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;

    /// How long the issuer waits beyond its turn, what part of its batch it has, the share of it that it only looks up,
    /// and how long the database takes, ms.
    type Turn = (u64, f64, f64, u64);

    fn turn() -> impl Strategy<Value = Turn> {
        let wait_ms = prop_oneof![4 => 0_u64..5, 1 => 0_u64..3_000];
        (wait_ms, 0.0_f64..=1.0, 0.0_f64..=1.0, prop_oneof![4 => 0_u64..20, 1 => 0_u64..900])
    }

    proptest! {
        /// In any window, at most `rate * (window + 0.1 s)` rows and one batch are written, whatever the issuer and the
        /// database do in between, and a look costs a tenth of a row.
        #[test]
        fn no_window_exceeds_a_rate(
            rows in 1_u32..2_000,
            unit in prop::sample::select(vec!["s", "min", "h"]),
            (owned, all) in (1_usize..8).prop_flat_map(|all| (1..=all, Just(all))),
            turns in prop::collection::vec(turn(), 1..60),
        ) {
            let from = Instant::now();
            let mut budget = Budget::new(format!("{rows}/{unit}").parse().unwrap(), 500, from);
            budget.share(owned, all);
            let per_second = budget.rows_per_second().unwrap();
            let (mut now, mut written) = (from, Vec::<(f64, f64)>::new());
            let mut most = 0.0_f64;
            for (wait_ms, part, looked_up, took_ms) in turns {
                now = now.max(budget.next_at()) + Duration::from_millis(wait_ms);
                let batch = budget.batch(now);
                most = most.max(count(batch));
                let all_rows = whole(count(batch) * part, batch);
                let looks = whole(count(all_rows) * looked_up, all_rows) - usize::from(looked_up < 0.5);
                let rows = all_rows - looks;
                let took = Duration::from_millis(took_ms);
                now += took;
                // The rows are there at the latest when the answer comes.
                written.push(((now - from).as_secs_f64(), count(rows) + LOOK * count(looks)));
                budget.wrote(Written { rows, looked_up: looks, took, clean: true }, now);
            }
            for (first, (start, _)) in written.iter().enumerate() {
                let mut sum = 0.0;
                for (at, rows) in &written[first..] {
                    sum += rows;
                    let allowed = per_second * (at - start + BATCH_EVERY.as_secs_f64()) + most;
                    prop_assert!(sum <= allowed * 1.000_001 + 1e-6, "{} rows in {} s", sum, at - start);
                }
            }
        }
    }
}
