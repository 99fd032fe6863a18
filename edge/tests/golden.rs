//! The Kafka REST dialects against their golden vectors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use dropgate_edge::kafka_rest::{v2, v3};
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
            trace: None,
        })
        .collect()
}

#[test]
fn the_request_is_the_portable_one() {
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

/// I8: only what every proxy's own words acknowledge counts; all else stays an obligation.
fn told_apart(answers: &Value, least: usize, acknowledged: impl Fn(&HttpResponse, &Value) -> Result<(), Fault>) {
    let answers = answers.as_array().unwrap();
    assert!(answers.len() >= least);
    for answer in answers {
        let reply = HttpResponse {
            status: u16::try_from(answer["status"].as_u64().unwrap()).unwrap(),
            body: answer["body"].as_str().unwrap().into(),
        };
        match acknowledged(&reply, answer) {
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
fn every_dialects_answers_are_told_apart() {
    told_apart(&vectors()["answers"], 16, |reply, _| v2::acknowledged(reply));
    told_apart(&vectors()["v3"]["answers"], 11, |reply, answer| {
        v3::acknowledged(reply, usize::try_from(answer["records"].as_u64().unwrap()).unwrap())
    });
}
