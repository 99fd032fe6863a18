//! Campaigns at /metrics, as they were sampled last.

use crate::phase::Phase;
use crate::store::rows::Tally;
use dropgate_shared::ids::CampaignId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// A campaign at one moment. What is not known is absent.
#[derive(Debug, Clone)]
pub struct CampaignSample {
    pub id: CampaignId,
    pub phase: Phase,
    pub capacity: u32,
    pub opens_ms: u64,
    pub rows: Option<Tally>,
    pub redis: Option<InRedis>,
}

/// What Redis has of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InRedis {
    /// Slots handed out.
    pub slots: u64,
    /// Outbox entries.
    pub outbox: u64,
    /// Age of the oldest that was read, in ms.
    pub oldest_ms: u64,
}

/// The newest samples of campaigns. A campaign that is no longer sampled, and a value that is not known, is not shown:
/// an old value would look like a present one.
#[derive(Debug, Default)]
pub struct Campaigns(Mutex<Vec<CampaignSample>>);

impl Campaigns {
    pub fn show(&self, samples: Vec<CampaignSample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }
}

type ValueOf = fn(&CampaignSample) -> Option<f64>;

/// Name, meaning, unit, value.
const CAMPAIGN_GAUGES: [(&str, &str, Option<Unit>, ValueOf); 7] = [
    ("campaign_capacity", "Coupons granted, in MySQL", None, |c| Some(c.capacity.into())),
    ("campaign_opens_timestamp", "Opening time", Some(Unit::Seconds), |c| Some(c.opens_ms as f64 / 1e3)),
    ("campaign_coupons", "Coupon rows in MySQL", None, |c| c.rows.map(|rows| rows.issued as f64)),
    ("campaign_refusals", "Refusal rows in MySQL", None, |c| c.rows.map(|rows| rows.refused as f64)),
    ("campaign_slots", "Slots handed out, in Redis", None, |c| c.redis.map(|redis| redis.slots as f64)),
    ("campaign_outbox_entries", "Outbox entries in Redis", None, |c| c.redis.map(|redis| redis.outbox as f64)),
    (
        "campaign_outbox_oldest",
        "Time since the admission of the oldest of the 1000 outbox entries that are due first; 0: none waits",
        Some(Unit::Seconds),
        |c| c.redis.map(|redis| redis.oldest_ms as f64 / 1e3),
    ),
];

impl Collector for Campaigns {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, unit, value) in CAMPAIGN_GAUGES {
            let mut gauge = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for sample in &*samples {
                if let Some(value) = value(sample) {
                    gauge.encode_family(&[("campaign", sample.id.as_str())])?.encode_gauge(&value)?;
                }
            }
        }
        let help = "1 for the state of the campaign, as the gate's API names it";
        let mut gauge = encoder.encode_descriptor("campaign_state", help, None, MetricType::Gauge)?;
        for sample in &*samples {
            let labels = [("campaign", sample.id.as_str()), ("state", sample.phase.as_str())];
            gauge.encode_family(&labels)?.encode_gauge(&1_i64)?;
        }
        Ok(())
    }
}
