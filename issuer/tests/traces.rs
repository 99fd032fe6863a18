//! Spans on their way to a collector that speaks HTTP.
#![allow(clippy::unwrap_used, clippy::panic)]

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use dropgate_issuer::consume::ports::Delivery;
use dropgate_issuer::consume::traces::Traces;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use tokio::sync::mpsc;

const TRACE: [u8; 16] = *b"sixteen bytes ok";

/// As the program does it at its start.
fn to(endpoint: &str) -> Traces {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Traces::to(endpoint, "coupon_create").unwrap()
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_reach_the_collector_before_the_end() {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let collect = async move |uri: Uri, headers: HeaderMap, body: Bytes| {
        sender.send((uri.path().to_owned(), headers, body)).unwrap();
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(collect)).await });

    let traces = to(&endpoint);
    let trace: String = TRACE.iter().map(|byte| format!("{byte:02x}")).collect();
    let record = AdmissionRecord {
        campaign: CampaignId::parse("spring").unwrap(),
        user: UserId::parse("a-secret-name").unwrap(),
        slot: Slot::new(57).unwrap(),
        admitted_at: 5,
        trace: Some(format!("00-{trace}-b7ad6b7169203331-01")),
        code_key: None,
    };
    let delivery =
        Delivery { partition: 0, offset: 7, key: None, payload: record.encode().into_bytes(), replayed: false };
    let mut batch = traces.batch(1);
    batch.record(&record, &delivery, record.slot, "issued");
    batch.end();
    traces.finish().await;

    let (path, headers, body) = requests.recv().await.unwrap();
    assert_eq!((path.as_str(), headers["content-type"].to_str().unwrap()), ("/v1/traces", "application/x-protobuf"));
    for part in [&TRACE[..], b"process coupon_create", b"dropgate-issuer", b"spring", b"issued"] {
        assert!(holds(&body, part), "{} is missing", String::from_utf8_lossy(part));
    }
    assert!(!holds(&body, b"a-secret-name"), "a user id was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_delays_nothing() {
    // Nothing listens on port 1.
    let traces = to("http://127.0.0.1:1");
    traces.batch(1).end();
    traces.finish().await;
}
