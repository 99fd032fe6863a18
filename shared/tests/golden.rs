//! The wire formats against their golden vectors: a change that breaks one of these is a migration.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use dropgate_shared::campaign::CampaignMeta;
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::Effect;
use dropgate_shared::http::HttpResponse;
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
fn records_are_read_and_written_as_before() {
    for vector in vectors(include_str!("golden/records.json"), "accepted") {
        let value = vector["value"].as_str().unwrap();
        let record = AdmissionRecord::decode(value.as_bytes()).unwrap();
        let read = json!({
            "campaign": record.campaign, "user": record.user, "slot": record.slot,
            "admitted_at": record.admitted_at, "trace": record.trace, "code_key": record.code_key,
        });
        assert_eq!(read, vector["is"]);
        assert_eq!(record_key(&record.campaign, &record.user), vector["key"].as_str().unwrap());
        if vector["writes"] == true {
            assert_eq!(record.encode(), value);
        }
    }
}

#[test]
fn invalid_records_are_rejected_with_their_cause() {
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
fn key_ids_of_code_secrets_never_change() {
    for vector in vectors(include_str!("golden/codes.json"), "key_ids") {
        let secret = CodeSecret::parse(vector["secret"].as_str().unwrap()).unwrap();
        assert_eq!(secret.id().as_str(), vector["id"].as_str().unwrap());
    }
}

#[test]
fn redis_rest_responses_are_classified() {
    for vector in vectors(include_str!("golden/redis_rest.json"), "answers") {
        let response = HttpResponse {
            status: u16::try_from(vector["status"].as_u64().unwrap()).unwrap(),
            body: vector["body"].as_str().unwrap().into(),
        };
        match decode(&response) {
            Ok(result) => assert_eq!(Some(&result), vector.get("result"), "{vector}"),
            Err(fault) => {
                let effect = match fault.effect {
                    Effect::None => "none",
                    Effect::Unknown => "unknown",
                    Effect::Done => "done",
                };
                assert_eq!(Some(fault.label), vector["fault"].as_str(), "{vector}");
                assert_eq!(Some(effect), vector["effect"].as_str(), "{vector}");
                let detail = vector["detail"].as_str().unwrap_or_default();
                assert!(fault.detail.contains(detail), "{vector}: {}", fault.detail);
            }
        }
    }
}

#[test]
fn campaign_meta_is_read_and_written_as_before() {
    let file = include_str!("golden/campaign_meta.json");
    for vector in vectors(file, "read") {
        let meta = CampaignMeta::read(&vector["reply"]).unwrap();
        let read = meta.as_ref().map(|meta| {
            json!({
                "state": meta.settings.state, "capacity": meta.settings.capacity, "count": meta.count,
                "opens_ms": meta.settings.opens_ms, "closes_ms": meta.settings.closes_ms, "last_ms": meta.last_ms,
                "version": meta.version, "code_key": meta.code_key,
            })
        });
        assert_eq!(json!(read), vector["is"], "{vector}");
        if let Some(args) = vector.get("script_args") {
            assert_eq!(json!(meta.unwrap().settings.script_args()), *args, "{vector}");
        }
    }
    for vector in vectors(file, "damaged") {
        assert!(CampaignMeta::read(&vector).is_err(), "{vector}");
    }
    assert_eq!(
        CampaignMeta::command("k"),
        ["HMGET", "k", "state", "capacity", "count", "opens_ms", "closes_ms", "last_ms", "version", "code_key"]
    );
}
