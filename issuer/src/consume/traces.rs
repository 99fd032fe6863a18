//! Traces: OpenTelemetry spans by OTLP over HTTP.
//!
//! One span a batch, one for its write, and one for each record whose claim came with a sampled
//! `traceparent`: that one belongs to the visitor's trace, which so shows the claim from the edge to the row.
//! A record without a trace has no span of its own. Spans are best effort: they wait in a bounded queue,
//! and those that do not fit are dropped. No span holds a user id.

use super::ports::Delivery;
use crate::labels;
use dropgate_shared::ids::Slot;
use dropgate_shared::record::AdmissionRecord;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, TraceContextExt, Tracer, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Name of the service, unless `OTEL_SERVICE_NAME` gives another.
const SERVICE: &str = "dropgate-issuer";
/// How long the last spans may take.
const LAST: Duration = Duration::from_secs(5);

/// Where spans go, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Destination>);

#[derive(Debug, Clone)]
struct Destination {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Where the records come from, for the names of spans.
    topic: Arc<str>,
}

impl Traces {
    /// Sends spans of the records of `topic` to the collector at `endpoint`, `http(s)://HOST:4318`. Headers, timeouts, sampling and
    /// resource attributes come from the `OTEL_` variables of the OpenTelemetry specification.
    ///
    /// # Errors
    /// Why no exporter can be made.
    pub fn to(endpoint: &str, topic: &str) -> Result<Self, ExporterBuildError> {
        let endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_endpoint(endpoint);
        let exporter = exporter.build()?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
        Ok(Self::by(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build(), topic))
    }

    /// Sends spans to whatever `provider` has.
    #[must_use]
    pub fn by(provider: SdkTracerProvider, topic: &str) -> Self {
        let tracer = provider.tracer(SERVICE);
        Self(Some(Destination { provider, tracer, topic: topic.into() }))
    }

    /// A batch of so many records is begun.
    #[must_use]
    pub fn batch(&self, records: usize) -> BatchTrace {
        let batch = |Destination { tracer, topic, .. }: &Destination| Traced {
            tracer: tracer.clone(),
            topic: Arc::clone(topic),
            begun: SystemTime::now(),
            records,
            write: (None, None),
            spans: Vec::new(),
        };
        BatchTrace(self.0.as_ref().map(batch))
    }

    /// Sends what is left.
    pub async fn finish(self) {
        let Some(Destination { provider, .. }) = self.0 else { return };
        // It blocks until its own thread has sent everything.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(label = labels::TRACES, "the last spans were not sent: {error}");
        }
    }
}

/// The spans of one batch. Does nothing where there is no collector.
#[derive(Debug)]
pub struct BatchTrace(Option<Traced>);

#[derive(Debug)]
struct Traced {
    tracer: SdkTracer,
    topic: Arc<str>,
    begun: SystemTime,
    records: usize,
    /// When the write began and ended.
    write: (Option<SystemTime>, Option<SystemTime>),
    spans: Vec<(Context, SpanBuilder)>,
}

impl BatchTrace {
    /// The write begins.
    pub fn write_begins(&mut self) {
        if let Some(traced) = &mut self.0 {
            traced.write.0 = Some(SystemTime::now());
        }
    }

    /// The write has succeeded.
    pub fn write_ended(&mut self) {
        if let Some(traced) = &mut self.0 {
            traced.write.1 = Some(SystemTime::now());
        }
    }

    /// What became of a record.
    pub fn record(&mut self, record: &AdmissionRecord, delivery: &Delivery, slot: Slot, outcome: &'static str) {
        let Some((traced, trace)) = self.0.as_mut().zip(record.trace.as_ref()) else { return };
        let carrier = HashMap::from([("traceparent".to_owned(), trace.clone())]);
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let span = process(&traced.tracer, &traced.topic).with_start_time(traced.begun).with_attributes([
            KeyValue::new("messaging.destination.partition.id", delivery.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", delivery.offset),
            KeyValue::new("dropgate.campaign", record.campaign.as_str().to_owned()),
            KeyValue::new("dropgate.slot", i64::from(slot.get())),
            KeyValue::new("dropgate.outcome", outcome),
        ]);
        traced.spans.push((parent, span));
    }

    /// The batch is settled.
    pub fn end(self) {
        let Some(Traced { tracer, topic, begun, records, write, spans }) = self.0 else { return };
        let now = SystemTime::now();
        let count = i64::try_from(records).unwrap_or(i64::MAX);
        let batch = process(&tracer, &topic)
            .with_start_time(begun)
            .with_attributes([KeyValue::new("messaging.batch.message_count", count)])
            .start_with_context(&tracer, &Context::new());
        let context = Context::new().with_span(batch);
        if let (Some(begun), Some(ended)) = write {
            let write = tracer.span_builder("INSERT coupons").with_kind(SpanKind::Client).with_start_time(begun);
            let write = write.with_attributes([KeyValue::new("db.system.name", "mysql")]);
            write.start_with_context(&tracer, &context).end_with_timestamp(ended);
        }
        let batch = context.span();
        for (parent, span) in spans {
            let links = vec![Link::with_context(batch.span_context().clone())];
            span.with_links(links).start_with_context(&tracer, &parent).end_with_timestamp(now);
        }
        batch.end_with_timestamp(now);
    }
}

/// A span as the messaging conventions name it.
fn process(tracer: &SdkTracer, topic: &str) -> SpanBuilder {
    tracer.span_builder(format!("process {topic}")).with_kind(SpanKind::Consumer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_shared::ids::{CampaignId, UserId};
    use opentelemetry::trace::{SpanId, TraceId};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn spans(records: &[Option<&str>]) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let traces =
            Traces::by(SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build(), "coupon_create");
        let mut batch = traces.batch(records.len());
        batch.write_begins();
        batch.write_ended();
        let (campaign, user, slot) = (CampaignId::parse("c"), UserId::parse("u"), Slot::new(7).unwrap());
        let mut record = AdmissionRecord {
            campaign: campaign.unwrap(),
            user: user.unwrap(),
            slot,
            admitted_at: 5,
            trace: None,
            code_key: None,
        };
        for (offset, trace) in records.iter().enumerate() {
            let offset = i64::try_from(offset).unwrap();
            let delivery = Delivery { partition: 3, offset, key: None, payload: Vec::new(), replayed: false };
            record.trace = trace.map(str::to_owned);
            batch.record(&record, &delivery, slot, "issued");
        }
        batch.end();
        exporter.get_finished_spans().unwrap()
    }

    #[test]
    fn a_record_joins_the_trace_of_its_claim_and_points_to_its_batch() {
        let all = spans(&[None, Some(&format!("00-{TRACE}-b7ad6b7169203331-01"))]);
        let [write, record, batch] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((batch.name.as_ref(), batch.parent_span_id), ("process coupon_create", SpanId::INVALID));
        assert_eq!(write.parent_span_id, batch.span_context.span_id());
        assert_eq!(record.span_context.trace_id(), TraceId::from_hex(TRACE).unwrap());
        assert_eq!(record.parent_span_id, SpanId::from_hex("b7ad6b7169203331").unwrap());
        assert!(record.links.iter().any(|link| link.span_context == batch.span_context), "{record:?}");
        assert!(record.attributes.contains(&KeyValue::new("messaging.kafka.offset", 1_i64)), "{record:?}");
    }

    #[test]
    fn what_is_not_sampled_or_no_trace_has_no_span() {
        let unsampled = format!("00-{TRACE}-b7ad6b7169203331-00");
        for trace in [None, Some(unsampled.as_str()), Some("00-zz"), Some("")] {
            assert_eq!(spans(&[trace]).len(), 2, "{trace:?}: a batch and its write");
        }
    }

    #[test]
    fn nothing_is_kept_where_nobody_collects() {
        let traces = Traces::default();
        let mut batch = traces.batch(1);
        batch.write_begins();
        batch.write_ended();
        assert!(batch.0.is_none());
        batch.end();
    }
}
