//! What the gate reports to its operator: counts of all responses and faults, log lines of faults and of a share of the
//! requests. No line has a token, a secret or a user id.

use crate::counters::{Counters, MetricKey};
use crate::http::response::Response;
use crate::labels::{Activity, Outcome, RouteLabel};
use crate::platform::Platform;
use dropgate_shared::fault::Fault;
use dropgate_shared::time::Millis;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Owns the counters of the isolate. Every part of the gate reports its faults here.
pub struct Telemetry {
    counters: Counters,
    /// The share of requests that leave a log line.
    log_sample: f64,
    /// Whether responses say how long they took.
    expose_timing: bool,
    /// When each reason of a 401 was logged last.
    reported: RefCell<BTreeMap<&'static str, Millis>>,
}

/// Time between two lines about the same reason of a 401.
const REASON_INTERVAL: Millis = Millis(60_000);

impl Telemetry {
    #[must_use]
    pub fn new(log_sample: f64, expose_timing: bool) -> Self {
        Self { counters: Counters::default(), log_sample, expose_timing, reported: RefCell::default() }
    }

    /// Counts a response to a request that began at `began`, and logs it if it failed or is in the sample.
    pub fn record_response<P: Platform>(
        &self,
        route: RouteLabel,
        began: Millis,
        response: &Response,
        request_id: Option<&str>,
        trace: Option<&str>,
        platform: &P,
    ) {
        let Response { status, outcome, .. } = *response;
        let now = platform.now();
        self.counters.count(MetricKey::Request { route, outcome }, now - began);
        if let Some(points) = self.counters.take_due(now) {
            platform.write_metrics(&points);
        }
        // A paused campaign is a decision of the operator, not a failure.
        let failed = status >= 500 && outcome != Outcome::Paused;
        if failed || (self.log_sample > 0.0 && platform.random() < self.log_sample) {
            let line = json!({
                "event": "request",
                "route": route.as_str(),
                "status": status,
                "outcome": outcome.as_str(),
                "took_ms": now - began,
                "request_id": request_id,
                "trace": trace,
            });
            if failed { platform.log_error(&line) } else { platform.log(&line) }
        }
    }

    /// Counts a user who is not accepted. The first of each reason in a minute leaves a line: the visitor gets the same
    /// response for every reason, so the operator must get it here.
    pub fn record_unauthenticated<P: Platform>(&self, reason: &'static str, platform: &P) {
        self.counters.count(MetricKey::Unauthenticated { reason }, Millis(0));
        let now = platform.now();
        let mut reported = self.reported.borrow_mut();
        if reported.get(reason).is_none_or(|at| now - *at >= REASON_INTERVAL) {
            reported.insert(reason, now);
            platform.log(&json!({ "event": "unauthenticated", "reason": reason }));
        }
    }

    pub fn record_fault<P: Platform>(&self, during: Activity, fault: &Fault, platform: &P) {
        let source = fault.source.label();
        self.counters.count(MetricKey::Fault { source, label: fault.label }, Millis(0));
        platform.log_error(&json!({
            "event": "fault",
            "during": during.as_str(),
            "source": source,
            "label": fault.label,
            "detail": fault.detail,
        }));
    }

    /// Adds how long the response took, in development.
    pub fn add_timing<P: Platform>(&self, response: Response, began: Millis, platform: &P) -> Response {
        if !self.expose_timing {
            return response;
        }
        response.with("server-timing", format!("gate;dur={}", platform.now() - began))
    }
}
