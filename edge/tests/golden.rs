//! The Kafka REST dialects against their golden vectors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use dropgate_edge::upstream::kafka_rest::{v2, v3};
use dropgate_shared::fault::{Effect, Fault};
use dropgate_shared::http::HttpResponse;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../shared/tests/golden/kafka_rest.json")).unwrap()
}

fn records(request: &Value) -> Vec<AdmissionRecord> {
    request["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| AdmissionRecord {
            campaign: CampaignId::parse(record["campaign"].as_str().unwrap()).unwrap(),
            user: UserId::parse(record["user"].as_str().unwrap()).unwrap(),
            slot: Slot::new(u32::try_from(record["slot"].as_u64().unwrap()).unwrap()).unwrap(),
            admitted_at: record["admitted_at"].as_u64().unwrap(),
            code_key: None,
            trace: None,
        })
        .collect()
}

#[test]
fn a_v2_request_is_the_portable_one() {
    let request = &vectors()["request"];
    assert_eq!(serde_json::from_str::<Value>(&v2::encode(&records(request))).unwrap(), request["body"]);
}

#[test]
fn a_v3_request_is_one_document_a_record() {
    let request = &vectors()["v3"]["request"];
    let body = v3::encode(&records(request));
    let bodies: Vec<Value> = serde_json::Deserializer::from_str(&body).into_iter().map(Result::unwrap).collect();
    assert_eq!(Value::from(bodies), request["bodies"]);
}

/// I8: only an acknowledgement of the proxy counts; after any other response the outbox entry stays.
fn check_responses(answers: &Value, least: usize, acknowledged: impl Fn(&HttpResponse, &Value) -> Result<(), Fault>) {
    let answers = answers.as_array().unwrap();
    assert!(answers.len() >= least);
    for answer in answers {
        let response = HttpResponse {
            status: u16::try_from(answer["status"].as_u64().unwrap()).unwrap(),
            body: answer["body"].as_str().unwrap().into(),
        };
        match acknowledged(&response, answer) {
            Ok(()) => assert_eq!(answer["acknowledged"], true, "{answer}"),
            Err(fault) => {
                assert_eq!(answer["acknowledged"], false, "{answer}");
                assert_eq!(answer["label"], fault.label, "{answer}");
                assert_eq!(fault.effect, Effect::Unknown, "{answer}");
            }
        }
    }
}

#[test]
fn the_responses_of_every_dialect_are_understood() {
    check_responses(&vectors()["answers"], 16, |response, _| v2::acknowledged(response));
    check_responses(&vectors()["v3"]["answers"], 11, |response, answer| {
        v3::acknowledged(response, usize::try_from(answer["records"].as_u64().unwrap()).unwrap())
    });
}
