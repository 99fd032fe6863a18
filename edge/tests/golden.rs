//! The Kafka REST dialects against their golden vectors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use dropgate_edge::kafka_rest::{acknowledged, encode};
use dropgate_shared::fault::Fate;
use dropgate_shared::http::HttpReply;
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::record::AdmissionRecord;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../shared/tests/golden/kafka_rest.json")).unwrap()
}

#[test]
fn the_request_is_the_portable_one() {
    let request = &vectors()["request"];
    let records: Vec<AdmissionRecord> = request["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            AdmissionRecord::new(
                CampaignId::parse(record["campaign"].as_str().unwrap()).unwrap(),
                UserId::parse(record["user"].as_str().unwrap()).unwrap(),
                Slot::new(u32::try_from(record["slot"].as_u64().unwrap()).unwrap()).unwrap(),
                record["admitted_at"].as_u64().unwrap(),
                None,
            )
        })
        .collect();
    assert_eq!(serde_json::from_str::<Value>(&encode(&records)).unwrap(), request["body"]);
}

/// I8: only what every proxy's own words acknowledge counts; all else stays an obligation.
#[test]
fn every_dialects_answers_are_told_apart() {
    let answers = vectors()["answers"].as_array().unwrap().clone();
    assert!(answers.len() > 15);
    for answer in answers {
        let reply = HttpReply {
            status: u16::try_from(answer["status"].as_u64().unwrap()).unwrap(),
            body: answer["body"].as_str().unwrap().into(),
        };
        match acknowledged(&reply) {
            Ok(()) => assert_eq!(answer["acknowledged"], true, "{answer}"),
            Err(fault) => {
                assert_eq!(answer["acknowledged"], false, "{answer}");
                assert_eq!(answer["label"], fault.label, "{answer}");
                assert_eq!(fault.fate, Fate::Unknown, "{answer}");
            }
        }
    }
}
