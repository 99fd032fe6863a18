//! `auto`: a pace that the database's other users do not notice.
//!
//! What another user of the database notices of the issuer is a commit that waits behind one of ours. So two things are
//! kept small: how *often* that happens (the **duty**: the part of the time in which a write of ours is
//! under way, on one connection) and how *long* it lasts (the **batch**).
//!
//! - After a write that took `t` there is a pause of `t * (1 - duty) / duty`: a database that becomes
//!   slower is written to less often, at once and without any decision. The duty is at most
//!   [`MOST`]: nineteen of twenty commits of others meet none of ours.
//! - A batch grows only while it takes no longer than one and a half times what a single row takes, and
//!   shrinks when it takes longer. A commit that does meet one of ours waits hardly longer than for any
//!   other user's, and many rows a commit make so few commits enough.
//! - The signal is the latency of our own writes against a **quiet baseline**: the lower quartile of the
//!   last minute, for each class of batch sizes by itself. Once a second, or every fourth time, a batch is a single row:
//!   what other users do, so its latency is what they see. It needs no table and no row of its own.
//! - If two of the last three writes took more than twice their baseline, the duty is halved at once; after a second
//!   without that the duty grows by half a percentage point a second. It is never zero.
//! - The start is slow: single rows at a low duty, which is also how the first baseline is learned; then
//!   the duty doubles four times a second until the first cut.
//!
//! After a cut we hardly write. What the samples then show is the other users' own load, and within a minute
//! it is the new baseline: a database that is always busy does not stop us for good.

use super::written::{Change, Written, count};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The greatest part of the time spent writing.
pub const MOST: f64 = 0.05;
/// The least.
pub const LEAST: f64 = 0.01;
const FIRST: f64 = 0.02;
/// At this duty the cuts are worth a line in the log.
const NEWS: f64 = MOST / 2.5;
/// Rows of a batch at most.
pub const MOST_ROWS: usize = 64;
/// The duty's growth in a second of calm.
const GROWTH: f64 = 0.005;
/// In the slow start it doubles this often.
const DOUBLE_EVERY: Duration = Duration::from_millis(250);
/// After a cut the duty stays for this long.
const CALM: Duration = Duration::from_secs(1);
/// A write that takes this many times its baseline is a sign of others.
const BUSY: f64 = 2.0;
/// A batch may take this many times what a single row takes.
const LONG: f64 = 1.5;
/// A pause is no longer than this, or than [`PATIENT`] times the write before it, whichever is more:
/// a database that is slow, or busy for good, is given up by nobody. It holds for all members together: each waits as
/// many times longer as it has a smaller part of the budget.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PATIENT: f64 = 10.0;
/// A single row is written this often, but no more than one write in [`PROBE_OF`]: where pauses are long, batches must
/// still be batches.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_OF: u32 = 4;
/// The baseline looks this far back.
const WINDOW: Duration = Duration::from_secs(60);
/// .. and so far where it has too few samples: a member with a small part of the budget, on a slow database, writes a few
/// times a minute.
const LONG_WINDOW: Duration = Duration::from_secs(600);
/// It takes one sample in this time, so that a minute is a minute at any pace.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// A class knows its baseline from this many samples on.
const ENOUGH: usize = 4;
/// Single rows at the start.
const FIRST_SINGLE: u32 = 4;
/// Classes of batch sizes: 1, 2 to 3, 4 to 7, .. 64.
const CLASSES: usize = 7;

/// The state of `auto`.
#[derive(Debug)]
pub struct Auto {
    duty: f64,
    batch: usize,
    classes: [Class; CLASSES],
    /// Whether each of the last three writes took long, newest last.
    busy: VecDeque<bool>,
    starting: bool,
    /// Slower than it was before the first cut of this kind.
    slowed: bool,
    grown_at: Instant,
    probed_at: Instant,
    /// Writes since then.
    batches: u32,
    writes: u32,
    /// Full batches in a row that were short.
    short: u32,
    pace: f64,
}

/// Latencies of one class of batches, in seconds, oldest first.
#[derive(Debug, Default)]
struct Class(VecDeque<(Instant, f64)>);

impl Class {
    fn add(&mut self, took_s: f64, now: Instant) {
        while let Some((at, _)) = self.0.front() {
            let age = now.saturating_duration_since(*at);
            if age <= WINDOW || (age <= LONG_WINDOW && self.0.len() < ENOUGH) {
                break;
            }
            self.0.pop_front();
        }
        // Until the baseline is known every sample counts.
        let due = self.0.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SAMPLE_EVERY);
        if due || self.0.len() < ENOUGH {
            self.0.push_back((now, took_s));
        }
    }

    /// The lower quartile.
    fn baseline_s(&self) -> Option<f64> {
        if self.0.len() < ENOUGH {
            return None;
        }
        let mut all: Vec<f64> = self.0.iter().map(|(_, took_s)| *took_s).collect();
        let (_, quartile, _) = all.select_nth_unstable_by(self.0.len() / 4, f64::total_cmp);
        Some(*quartile)
    }
}

impl Auto {
    /// Begins slowly.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            duty: FIRST,
            batch: 1,
            classes: Default::default(),
            busy: VecDeque::new(),
            starting: true,
            slowed: false,
            grown_at: now,
            probed_at: now,
            batches: 0,
            writes: 0,
            short: 0,
            pace: 0.0,
        }
    }

    /// Rows of the next batch at most.
    #[must_use]
    pub fn batch(&self, now: Instant) -> usize {
        let is_time = now.saturating_duration_since(self.probed_at) >= PROBE_EVERY;
        if is_time && self.batches + 1 >= PROBE_OF { 1 } else { self.batch }
    }

    /// The part of the time spent writing at most.
    #[must_use]
    pub fn duty(&self) -> f64 {
        self.duty
    }

    /// The pace that the last write showed.
    #[must_use]
    pub fn rows_per_second(&self) -> f64 {
        self.pace
    }

    /// A batch was written. Returns the pause before the next one.
    pub fn wrote(&mut self, written: Written, share: f64, now: Instant) -> (Duration, Option<Change>) {
        let took_s = written.took.as_secs_f64().max(1e-6);
        if written.rows + written.looked_up <= 1 {
            (self.probed_at, self.batches) = (now, 0);
        } else {
            self.batches = self.batches.saturating_add(1);
        }
        let change = if written.clean { self.learn(written.rows, took_s, now) } else { None };
        let duty = self.duty * share;
        let longest_s = LONGEST_PAUSE.as_secs_f64().max(PATIENT * took_s) / share;
        let pause = Duration::from_secs_f64((took_s * (1.0 - duty) / duty).min(longest_s));
        self.pace = count(written.rows) / (took_s + pause.as_secs_f64());
        (pause, change)
    }

    fn learn(&mut self, rows: usize, took_s: f64, now: Instant) -> Option<Change> {
        self.writes = self.writes.saturating_add(1);
        let index = usize::try_from(rows.max(1).ilog2()).unwrap_or(0).min(CLASSES - 1);
        let class = self.classes.get_mut(index)?;
        let baseline_s = class.baseline_s();
        class.add(took_s, now);
        self.resize(rows, took_s);

        self.busy.push_back(baseline_s.is_some_and(|baseline_s| took_s > BUSY * baseline_s));
        if self.busy.len() > 3 {
            self.busy.pop_front();
        }
        if self.busy.iter().filter(|busy| **busy).count() >= 2 {
            self.busy.clear();
            self.starting = false;
            self.grown_at = now;
            self.duty = (self.duty / 2.0).max(LEAST);
            // A single cut may be chance, and is no news.
            let news = self.duty <= NEWS && !self.slowed;
            self.slowed |= news;
            return news.then_some(Change::Slowed);
        }
        self.grow(now)
    }

    fn grow(&mut self, now: Instant) -> Option<Change> {
        let since = now.saturating_duration_since(self.grown_at);
        if self.starting {
            if since >= DOUBLE_EVERY && self.writes >= FIRST_SINGLE {
                self.duty *= 2.0;
                self.grown_at = now;
            }
        } else if since >= CALM {
            // A long idle time is no long calm.
            self.duty += GROWTH;
            self.grown_at = now;
        }
        if self.duty >= MOST {
            self.duty = MOST;
            self.starting = false;
            return std::mem::replace(&mut self.slowed, false).then_some(Change::Recovered);
        }
        None
    }

    /// Keeps a batch about as short as two single rows.
    fn resize(&mut self, rows: usize, took_s: f64) {
        let single_s = self.classes.first().and_then(Class::baseline_s);
        let Some(single_s) = single_s.filter(|_| self.writes >= FIRST_SINGLE && rows >= self.batch) else {
            return;
        };
        if took_s > LONG * single_s {
            // A single long write is chance.
            self.short = self.short.saturating_sub(2);
            if self.short == 0 && took_s > 1.5 * LONG * single_s {
                self.batch = (self.batch / 2).max(1);
            }
            return;
        }
        self.short += 1;
        if self.short >= 2 {
            self.short = 0;
            self.batch = (self.batch * 2).min(MOST_ROWS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database: what a row costs beyond a commit, its noise, and how much slower others make it.
    struct Simulated {
        commit_s: f64,
        row_s: f64,
        noise: f64,
        seed: u64,
        now: Instant,
        auto: Auto,
        share: f64,
        changes: Vec<Change>,
    }

    #[derive(Default)]
    struct Ran {
        rows: usize,
        writing_s: f64,
        all_s: f64,
        longest_s: f64,
        writes: u32,
    }

    impl Ran {
        fn per_second(&self) -> f64 {
            count(self.rows) / self.all_s
        }
    }

    impl Simulated {
        fn new(commit_s: f64, row_s: f64, noise: f64, seed: u64) -> Self {
            let now = Instant::now();
            Self { commit_s, row_s, noise, seed, now, auto: Auto::new(now), share: 1.0, changes: Vec::new() }
        }

        /// A number from 0 to 1, by a generator whose period is long enough for a test.
        fn random(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.seed >> 33).unwrap()) / f64::from(u32::MAX >> 1)
        }

        /// Writes for a while, with others who make every write `slower` times as long.
        fn run(&mut self, seconds: f64, slower: f64) -> Ran {
            let mut ran = Ran::default();
            while ran.all_s < seconds {
                let rows = self.auto.batch(self.now);
                // Noise has a long tail: one write in fifty takes four times as long.
                let tail = if self.random() < 0.02 { 4.0 } else { 1.0 };
                let noise = 1.0 + self.noise * self.random();
                let took_s = (self.commit_s + self.row_s * count(rows)) * noise * tail * slower;
                let took = Duration::from_secs_f64(took_s);
                self.now += took;
                let (pause, change) =
                    self.auto.wrote(Written { rows, looked_up: 0, took, clean: true }, self.share, self.now);
                self.now += pause;
                self.changes.extend(change);
                ran.rows += rows;
                ran.writes += 1;
                ran.writing_s += took_s;
                ran.longest_s = ran.longest_s.max(took_s);
                ran.all_s += took_s + pause.as_secs_f64();
                assert!((LEAST..=MOST).contains(&self.auto.duty()) && rows >= 1);
                let longest = LONGEST_PAUSE.max(took * 11).div_f64(self.share);
                assert!(pause <= longest, "{pause:?} after {took:?}");
            }
            ran
        }
    }

    #[test]
    fn a_quiet_database_is_used_well_and_never_more_than_the_duty() {
        for seed in 1..=20 {
            let mut db = Simulated::new(0.001, 0.00001, 0.3, seed);
            let first = db.run(0.5, 1.0);
            assert!(first.rows < 100, "the start is slow: {}", first.rows);
            db.run(4.5, 1.0);
            let ran = db.run(60.0, 1.0);
            assert!(ran.per_second() > 1_000.0, "seed {seed}: {} rows/s", ran.per_second());
            assert!(ran.writing_s / ran.all_s <= MOST * 1.01, "seed {seed}");
        }
    }

    #[test]
    fn others_slow_it_at_once_and_it_comes_back_slowly() {
        for seed in 1..=20 {
            let mut db = Simulated::new(0.001, 0.00001, 0.3, seed);
            let quiet = db.run(30.0, 1.0).per_second();
            let duty = db.auto.duty();
            db.changes.clear();
            db.run(0.8, 4.0);
            assert!(db.auto.duty() <= duty / 2.0, "seed {seed}: {} after 0.8 s", db.auto.duty());
            let busy = db.run(10.0, 4.0);
            assert!(busy.per_second() < quiet / 8.0, "seed {seed}: {} of {quiet}", busy.per_second());
            assert!(busy.rows > 0, "never zero");
            assert_eq!(db.changes.first(), Some(&Change::Slowed), "reported once, not with every cut");
            assert!(db.changes.len() <= 1, "{:?}", db.changes);

            let (soon, duty_soon) = (db.run(1.0, 1.0).per_second(), db.auto.duty());
            assert!(duty_soon <= MOST / 2.0, "seed {seed}: recovers slowly: {soon}, {duty_soon}");
            db.run(25.0, 1.0);
            let later = db.run(5.0, 1.0).per_second();
            assert!(later > quiet / 3.0, "seed {seed}: {later} of {quiet}");
            assert!(db.changes.contains(&Change::Recovered), "{:?}", db.changes);
        }
    }

    #[test]
    fn a_load_that_stays_becomes_the_new_normal() {
        let mut db = Simulated::new(0.001, 0.00001, 0.3, 7);
        db.run(30.0, 1.0);
        db.run(120.0, 3.0);
        assert!(db.auto.duty() > MOST / 2.0, "{}", db.auto.duty());
    }

    #[test]
    fn a_database_of_100_rows_a_minute_is_left_most_of_its_time() {
        let mut db = Simulated::new(0.3, 0.3, 0.1, 3);
        let ran = db.run(1_800.0, 1.0);
        assert!(ran.writing_s / ran.all_s < 0.15, "{}", ran.writing_s / ran.all_s);
        assert!(ran.rows > 100 && ran.longest_s < 6.0, "{} rows, {} s", ran.rows, ran.longest_s);
    }

    /// Six members, each with a sixth of the budget, burden a database like one member with all of it, and write as much.
    #[test]
    fn members_together_are_like_one() {
        for commit_s in [0.001, 0.023, 0.1, 0.3] {
            let run = |share: f64, seed: u64| {
                let mut db = Simulated::new(commit_s, 0.00001, 0.1, seed);
                db.share = share;
                db.run(120.0, 1.0);
                let ran = db.run(600.0, 1.0);
                (ran.writing_s / ran.all_s, ran.per_second())
            };
            let (part, pace) = run(1.0, 5);
            let six = (1..=6).map(|seed| run(1.0 / 6.0, seed));
            let (part_of_six, pace_of_six) = six.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert!(part < 0.11 && part_of_six < part * 1.2, "{commit_s}: {part_of_six} instead of {part}");
            assert!(pace_of_six > pace / 2.0, "{commit_s}: {pace_of_six} rows/s instead of {pace}");
        }
    }

    #[test]
    fn a_batch_stays_about_as_short_as_two_single_rows() {
        // Rows are dear here, so batches must stay small.
        let mut db = Simulated::new(0.001, 0.0005, 0.1, 5);
        let ran = db.run(60.0, 1.0);
        let mean = count(ran.rows) / f64::from(ran.writes);
        assert!((1.0..=8.0).contains(&mean), "{mean} rows a batch");
    }

    #[test]
    fn a_batch_of_conflicts_is_no_sign_of_others() {
        let mut db = Simulated::new(0.001, 0.00001, 0.1, 9);
        db.run(10.0, 1.0);
        let duty = db.auto.duty();
        for _ in 0..50 {
            let slow = Written { rows: 0, looked_up: 64, took: Duration::from_millis(50), clean: false };
            let (pause, change) = db.auto.wrote(slow, 1.0, db.now);
            assert_eq!(change, None);
            assert!(pause >= Duration::from_millis(400), "but it is paid for: {pause:?}");
        }
        assert!((db.auto.duty() - duty).abs() < f64::EPSILON);
    }
}
