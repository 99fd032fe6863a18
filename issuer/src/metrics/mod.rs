//! What the service counts, under the names by which dashboards know it: all of them are in `docs/metrics.md`.

pub mod campaigns;
mod process;

use crate::labels;
use campaigns::Campaigns;
use dropgate_shared::fault::Source;
use process::Process;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    pub source: &'static str,
}

/// The metrics; `Metrics::register` says what each means. Each is shared with the registry: to count here is to
/// publish.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of the process, under the names that all exporters use.
    process: Registry,
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
    pub kafka_faults: Family<ReasonLabel, Counter>,
    pub campaigns: Arc<Campaigns>,
    /// When MySQL and Redis answered all questions of a sample, in s since the epoch.
    pub sampled: Real,
    pub sample_faults: Family<SourceLabel, Counter>,
    pub state: Family<StateLabel, Gauge>,
    pub held: Gauge,
    pub held_reason: Family<ReasonLabel, Gauge>,
    pub stalled: Family<ReasonLabel, Gauge>,
    pub consumers_replaced: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            process: Registry::default(),
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
            kafka_faults: Family::default(),
            campaigns: Arc::default(),
            sampled: Real::default(),
            sample_faults: Family::default(),
            state: Family::default(),
            held: Gauge::default(),
            held_reason: Family::default(),
            stalled: Family::default(),
            consumers_replaced: Counter::default(),
        };
        metrics.budget_rows_per_second.set(f64::INFINITY);
        metrics.budget_duty.set(1.0);
        metrics.register();
        metrics.begin_at_zero();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self { registry: r, process, .. } = self;
        process.register_collector(Box::new(Process));
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
        r.register(
            "kafka_faults",
            "Errors of Kafka's client, and failed commits and dead letters",
            self.kafka_faults.clone(),
        );
        r.register_collector(Box::new(Arc::clone(&self.campaigns)));
        let (help, sampled) = ("When the last complete sample of the campaigns was taken", self.sampled.clone());
        r.register_with_unit("sample_timestamp", help, seconds(), sampled);
        r.register(
            "sample_faults",
            "Samples of campaigns that MySQL or Redis did not answer",
            self.sample_faults.clone(),
        );
        r.register("held", "1 while the service holds: it writes nothing", self.held.clone());
        r.register("held_reason", "1 for the reason why the service holds", self.held_reason.clone());
        r.register("stalled", "1 while a write, Kafka's or a partition's silence lasts too long", self.stalled.clone());
        let replaced = self.consumers_replaced.clone();
        r.register("consumers_replaced", "Consumers replaced because records did not arrive", replaced);
        r.register("state", "1 for the state that the service is in", self.state.clone());
    }

    /// A counter that appears with its first fault shows no increase then, and no alert fires. So those that an alert
    /// needs at once begin at 0.
    fn begin_at_zero(&self) {
        use dropgate_shared::record::RecordError;
        let unknown_version = RecordError::Version(0).label();
        for reason in [labels::MALFORMED, unknown_version, labels::DATA, labels::UNKNOWN_CAMPAIGN] {
            drop(self.dead_letters.get_or_create_owned(&ReasonLabel { reason }));
        }
        for source in [Source::MySql, Source::Redis] {
            drop(self.sample_faults.get_or_create_owned(&SourceLabel { source: source.label() }));
        }
    }

    /// All of it in the text format of Prometheus (OpenMetrics).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        let encoded =
            text::encode_registry(&mut page, &self.process).and_then(|()| text::encode(&mut page, &self.registry));
        match encoded {
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
    use super::campaigns::{CampaignSample, InRedis};
    use super::*;
    use crate::phase::Phase;
    use crate::store::rows::Tally;
    use dropgate_shared::ids::CampaignId;
    use std::collections::{BTreeMap, BTreeSet};

    /// With a value under each name and label.
    fn complete() -> Metrics {
        let metrics = Metrics::default();
        metrics.dead_letters.get_or_create(&ReasonLabel { reason: "malformed" }).inc();
        metrics.lag.get_or_create(&PartitionLabel { partition: 3 }).set(7);
        for reasons in [&metrics.unconfirmed, &metrics.redis_faults, &metrics.kafka_faults, &metrics.database_faults] {
            reasons.get_or_create(&ReasonLabel { reason: "timeout" }).inc();
        }
        metrics.state.get_or_create(&StateLabel { state: "consuming" }).set(1);
        metrics.stalled.get_or_create(&ReasonLabel { reason: "write" }).set(0);
        metrics.held_reason.get_or_create(&ReasonLabel { reason: "dead_letters" }).set(0);
        metrics.campaigns.show(vec![CampaignSample {
            id: CampaignId::parse("c").unwrap(),
            phase: Phase::SoldOut,
            capacity: 100,
            opens_ms: 1_500,
            rows: Some(Tally { issued: 99, refused: 0 }),
            redis: Some(InRedis { slots: 100, outbox: 1, oldest_ms: 2_500 }),
        }]);
        metrics
    }

    /// The lines of the table in docs/metrics.md that the page at /metrics stands for.
    fn described(page: &str) -> BTreeSet<String> {
        let (mut kinds, mut helps) = (BTreeMap::new(), BTreeMap::new());
        let mut labels = BTreeMap::<String, BTreeSet<&str>>::new();
        for line in page.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                kinds.insert(name, kind);
            } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                helps.insert(name, help.trim_end_matches('.'));
            } else if !line.starts_with('#') {
                let (name, set) = line.split_once('{').unwrap_or((line.split(' ').next().unwrap(), ""));
                let names = set.split("\",").map(|pair| pair.split('=').next().unwrap());
                let used = labels.entry(name.to_owned()).or_default();
                used.extend(names.filter(|label| !label.is_empty() && *label != "le"));
            }
        }
        let row = |(name, kind): (&&str, &&str)| {
            let shown = match *kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => (*name).to_owned(),
            };
            let sample = if *kind == "histogram" { format!("{name}_bucket") } else { shown.clone() };
            let labels = labels.get(&sample).unwrap_or_else(|| panic!("{sample} has no value in\n{page}"));
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            format!("| `{shown}` | {kind} | {labels} | {} |", helps[name]).replace("  ", " ")
        };
        kinds.iter().map(row).collect()
    }

    /// The names are a format: dashboards and alerts are written against them.
    #[test]
    fn the_names_are_those_in_the_documentation() {
        let found = described(&complete().encode());
        let text = include_str!("../../../docs/metrics.md");
        let documented: BTreeSet<String> =
            text.lines().filter(|line| line.starts_with("| `")).map(|line| line.replace("  ", " ")).collect();
        let missing: Vec<_> = found.difference(&documented).map(String::as_str).collect();
        let surplus: Vec<_> = documented.difference(&found).map(String::as_str).collect();
        assert!(missing.is_empty(), "docs/metrics.md does not have:\n{}", missing.join("\n"));
        assert!(surplus.is_empty(), "/metrics does not have:\n{}", surplus.join("\n"));
        assert!(found.len() > 30, "{found:?}");
    }

    #[test]
    fn values_are_shown_with_their_labels() {
        let page = complete().encode();
        for line in [
            "lag_records{partition=\"3\"} 7",
            "dead_letters_total{reason=\"malformed\"} 1",
            // What an alert must see rise begins at 0.
            "dead_letters_total{reason=\"unknown_version\"} 0",
            "campaign_outbox_oldest_seconds{campaign=\"c\"} 2.5",
            "campaign_opens_timestamp_seconds{campaign=\"c\"} 1.5",
            "campaign_state{campaign=\"c\",state=\"sold-out\"} 1",
        ] {
            assert!(page.contains(&format!("\n{PREFIX}_{line}\n")), "{line} is missing in\n{page}");
        }
        assert!(page.contains("\nprocess_resident_memory_bytes ") && page.ends_with("# EOF\n"), "{page}");
    }
}
