//! What the service counts, under the names by which dashboards know it. All names are in this file.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Before every name.
const PREFIX: &str = "dropgate_issuer";

/// A number that need not be whole.
pub type Real = Gauge<f64, AtomicU64>;

/// A reason: one of [`crate::labels`], never anything out of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    pub partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    pub state: &'static str,
}

/// The metrics; `Metrics::register` says what each means. Each is shared with the registry: to count here is to
/// publish.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub records: Counter,
    pub issued: Counter,
    pub moved: Counter,
    pub already: Counter,
    pub refused: Counter,
    pub waiting: Gauge,
    pub dead_letters: Family<ReasonLabel, Counter>,
    pub batch_records: Histogram,
    pub commit_seconds: Histogram,
    pub database_faults: Family<ReasonLabel, Counter>,
    pub database_outage_seconds: Counter<f64, AtomicU64>,
    /// `+Inf` without a budget.
    pub budget_rows_per_second: Real,
    pub budget_share: Real,
    /// 1 with any other budget than `auto`.
    pub budget_duty: Real,
    pub budget_wait_seconds: Counter<f64, AtomicU64>,
    pub lag: Family<PartitionLabel, Gauge>,
    pub partitions: Gauge,
    pub confirmed: Counter,
    pub unconfirmed: Family<ReasonLabel, Counter>,
    pub redis_faults: Family<ReasonLabel, Counter>,
    pub state: Family<StateLabel, Gauge>,
    pub held: Gauge,
    pub held_reason: Family<ReasonLabel, Gauge>,
    pub stalled: Family<ReasonLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            records: Counter::default(),
            issued: Counter::default(),
            moved: Counter::default(),
            already: Counter::default(),
            refused: Counter::default(),
            waiting: Gauge::default(),
            dead_letters: Family::default(),
            batch_records: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 10_000.0]),
            commit_seconds: Histogram::new([
                0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
            ]),
            database_faults: Family::default(),
            database_outage_seconds: Counter::default(),
            budget_rows_per_second: Real::default(),
            budget_share: Real::default(),
            budget_duty: Real::default(),
            budget_wait_seconds: Counter::default(),
            lag: Family::default(),
            partitions: Gauge::default(),
            confirmed: Counter::default(),
            unconfirmed: Family::default(),
            redis_faults: Family::default(),
            state: Family::default(),
            held: Gauge::default(),
            held_reason: Family::default(),
            stalled: Family::default(),
        };
        metrics.budget_rows_per_second.set(f64::INFINITY);
        metrics.budget_duty.set(1.0);
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self { registry: r, .. } = self;
        r.register("build", "The version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("records", "Records settled, of every kind", self.records.clone());
        r.register("coupons_issued", "Coupon rows written", self.issued.clone());
        r.register("coupons_moved", "Coupon rows written under another slot than the proposed one", self.moved.clone());
        r.register("records_redelivered", "Records whose row existed before", self.already.clone());
        r.register("claims_refused", "Records whose claim is refused: no slot was left", self.refused.clone());
        r.register("claims_waiting", "Claims whose slot another user holds, not decided yet", self.waiting.clone());
        r.register("dead_letters", "Records sent to the dead-letter topic", self.dead_letters.clone());
        r.register("batch_records", "Records in a batch", self.batch_records.clone());
        let (commit, seconds) = (self.commit_seconds.clone(), || Unit::Seconds);
        r.register_with_unit("commit", "Time of a batch's transaction", seconds(), commit);
        r.register("database_faults", "Failed tries to write a batch", self.database_faults.clone());
        let outage = self.database_outage_seconds.clone();
        r.register_with_unit("database_outage", "Time in which no row could be written", seconds(), outage);
        let pace = self.budget_rows_per_second.clone();
        r.register("budget_rows_per_second", "Rows per second that the write budget allows this member", pace);
        r.register("budget_share_ratio", "This member's share of the group's budget", self.budget_share.clone());
        r.register("budget_duty_ratio", "Part of the time that may be spent writing", self.budget_duty.clone());
        let wait = self.budget_wait_seconds.clone();
        r.register_with_unit("budget_wait", "Time in which records waited for the budget", seconds(), wait);
        r.register("lag_records", "Records of our partitions that are not settled", self.lag.clone());
        r.register("partitions", "Partitions assigned to this member", self.partitions.clone());
        r.register("confirmations", "Claims confirmed to Redis", self.confirmed.clone());
        r.register(
            "confirmations_dropped",
            "Claims not confirmed to Redis; sent again later",
            self.unconfirmed.clone(),
        );
        r.register("redis_faults", "Failed calls to Redis", self.redis_faults.clone());
        r.register("held", "1 while the service holds: it writes nothing", self.held.clone());
        r.register("held_reason", "1 for the reason why the service holds", self.held_reason.clone());
        r.register("stalled", "1 while a write or Kafka's silence lasts too long", self.stalled.clone());
        r.register("state", "1 for the state that the service is in", self.state.clone());
    }

    /// All of it in the text format of Prometheus (OpenMetrics).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => page,
            // A string takes everything.
            Err(_) => String::new(),
        }
    }

    /// Adds to a counter of seconds.
    pub fn add_seconds(counter: &Counter<f64, AtomicU64>, time: Duration) {
        counter.inc_by(time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are a format: dashboards and alerts are written against them.
    #[test]
    fn names_are_stable() {
        let metrics = Metrics::default();
        metrics.dead_letters.get_or_create(&ReasonLabel { reason: "malformed" }).inc();
        metrics.lag.get_or_create(&PartitionLabel { partition: 3 }).set(7);
        metrics.unconfirmed.get_or_create(&ReasonLabel { reason: "timeout" }).inc();
        metrics.redis_faults.get_or_create(&ReasonLabel { reason: "timeout" }).inc();
        metrics.database_faults.get_or_create(&ReasonLabel { reason: "read_only" }).inc();
        metrics.state.get_or_create(&StateLabel { state: "consuming" }).set(1);
        metrics.stalled.get_or_create(&ReasonLabel { reason: "write" }).set(0);
        metrics.held_reason.get_or_create(&ReasonLabel { reason: "dead_letters" }).set(0);
        let page = metrics.encode();
        let names: Vec<&str> =
            page.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(['{', ' ']).next().unwrap()).collect();
        for name in [
            "build_info",
            "records_total",
            "coupons_issued_total",
            "coupons_moved_total",
            "records_redelivered_total",
            "claims_refused_total",
            "claims_waiting",
            "dead_letters_total",
            "batch_records_bucket",
            "commit_seconds_bucket",
            "commit_seconds_sum",
            "database_faults_total",
            "database_outage_seconds_total",
            "budget_rows_per_second",
            "budget_share_ratio",
            "budget_duty_ratio",
            "budget_wait_seconds_total",
            "lag_records",
            "partitions",
            "confirmations_total",
            "confirmations_dropped_total",
            "redis_faults_total",
            "held",
            "held_reason",
            "stalled",
            "state",
        ] {
            assert!(names.contains(&format!("{PREFIX}_{name}").as_str()), "{name} is missing in\n{page}");
        }
        assert!(page.contains("dropgate_issuer_lag_records{partition=\"3\"} 7\n"), "{page}");
        assert!(page.contains("dropgate_issuer_dead_letters_total{reason=\"malformed\"} 1\n"), "{page}");
    }
}
