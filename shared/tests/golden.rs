//! The wire formats against their golden vectors: a change that breaks one of these is a migration.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::Fate;
use dropgate_shared::http::HttpReply;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::record_key;
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::redis_rest::decode;
use serde_json::{Value, json};

fn vectors(text: &str, list: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    let list = file[list].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

#[test]
fn records_are_read_and_written_as_ever() {
    for vector in vectors(include_str!("golden/records.json"), "accepted") {
        let value = vector["value"].as_str().unwrap();
        let record = AdmissionRecord::decode(value.as_bytes()).unwrap();
        let read = json!({
            "campaign": record.campaign, "user": record.user, "slot": record.slot,
            "admitted_at": record.admitted_at, "trace": record.trace,
        });
        assert_eq!(read, vector["is"]);
        assert_eq!(record_key(&record.campaign, &record.user), vector["key"].as_str().unwrap());
        if vector["writes"] == true {
            assert_eq!(record.encode(), value);
        }
    }
}

#[test]
fn bad_records_are_refused_with_their_cause() {
    for vector in vectors(include_str!("golden/records.json"), "refused") {
        let value = vector["value"].as_str().unwrap();
        let error = AdmissionRecord::decode(value.as_bytes()).expect_err(value);
        assert_eq!(error.label(), vector["label"].as_str().unwrap(), "{value}");
    }
}

#[test]
fn coupon_codes_never_change() {
    for vector in vectors(include_str!("golden/codes.json"), "codes") {
        let text = |name: &str| vector[name].as_str().unwrap();
        let campaign = CampaignId::parse(text("campaign")).unwrap();
        let user = UserId::parse(text("user")).unwrap();
        assert_eq!(CodeSecret::parse(text("secret")).unwrap().code(&campaign, &user), text("code"));
    }
}

#[test]
fn redis_rest_answers_are_told_apart() {
    for vector in vectors(include_str!("golden/redis_rest.json"), "answers") {
        let reply = HttpReply {
            status: u16::try_from(vector["status"].as_u64().unwrap()).unwrap(),
            body: vector["body"].as_str().unwrap().into(),
        };
        match decode(&reply) {
            Ok(result) => assert_eq!(Some(&result), vector.get("result"), "{vector}"),
            Err(fault) => {
                let fate = match fault.fate {
                    Fate::None => "none",
                    Fate::Unknown => "unknown",
                    Fate::Done => "done",
                };
                assert_eq!(Some(fault.label), vector["fault"].as_str(), "{vector}");
                assert_eq!(Some(fate), vector["fate"].as_str(), "{vector}");
            }
        }
    }
}
