//! From the bytes of a Kafka record to an admission, or to the reason why there is none.

use super::ports::{Admission, RejectReason};
use crate::labels;
use crate::timestamp;
use dropgate_shared::record::AdmissionRecord;

/// Reads a record's value.
///
/// # Errors
/// [`RejectReason`]: the record can never become a row, at any issuer.
pub fn decode(payload: &[u8]) -> Result<Admission, RejectReason> {
    let record = AdmissionRecord::decode(payload)
        .map_err(|error| RejectReason { label: error.label(), text: error.to_string() })?;
    match timestamp::from_ms(record.admitted_at) {
        Some(admitted_at) => Ok(Admission { record, admitted_at }),
        None => Err(RejectReason {
            label: labels::MALFORMED,
            text: format!("malformed: admitted_at {} lies beyond the year 9999", record.admitted_at),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(payload: &str) -> &'static str {
        decode(payload.as_bytes()).unwrap_err().label
    }

    #[test]
    fn a_record_becomes_an_admission() {
        let admission = decode(
            r#"{"v":1,"campaign":"c","user":"Ünï-鬼","slot":57,"admitted_at":1763700000123,"new":{"x":1}}"#.as_bytes(),
        )
        .unwrap();
        assert_eq!(admission.record.user.as_str(), "Ünï-鬼");
        assert_eq!(admission.record.slot.get(), 57);
        assert_eq!(timestamp::format(admission.admitted_at), "2025-11-21T04:40:00.123Z");
    }

    #[test]
    fn poison_has_a_label_and_never_panics() {
        assert_eq!(label(""), "malformed");
        assert_eq!(label("\0\u{1}"), "malformed");
        assert_eq!(label(r#"{"v":1,"campaign":"c","user":"u","slot":0,"admitted_at":1}"#), "malformed");
        assert_eq!(label(r#"{"v":1,"campaign":"C","user":"u","slot":1,"admitted_at":1}"#), "malformed");
        assert_eq!(label(r#"{"v":2,"anything":true}"#), "unknown_version");
        let year_10000 = r#"{"v":1,"campaign":"c","user":"u","slot":1,"admitted_at":253402300800000}"#;
        assert_eq!(label(year_10000), "malformed");
        assert!(decode(year_10000.as_bytes()).unwrap_err().text.contains("9999"));
    }
}
