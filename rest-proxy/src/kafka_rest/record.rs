//! Parses the body of a produce request into records with the bytes for Kafka.

use data_encoding::BASE64;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The format of keys and values, from the content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `application/vnd.kafka.json.v2+json`: any JSON, stored as compact JSON.
    Json,
    /// `application/vnd.kafka.binary.v2+json`: base64.
    Binary,
}

impl Format {
    /// The format of a content type; parameters such as a charset are ignored.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/vnd.kafka.json.v2+json") {
            Some(Self::Json)
        } else if essence.eq_ignore_ascii_case("application/vnd.kafka.binary.v2+json") {
            Some(Self::Binary)
        } else {
            None
        }
    }
}

/// A record for Kafka. `None` is a null: no key, or a tombstone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: Option<Cow<'a, [u8]>>,
    pub(super) value: Option<Cow<'a, [u8]>>,
    pub(super) partition: Option<i32>,
}

/// Why a body is not a produce request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    /// It is not JSON.
    Json(String),
    /// It is JSON, but its records are invalid.
    Records(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow)]
    records: Vec<Object<WireRecord<'a>>>,
    // Allowed in a request by the published proxies, without effect on JSON and binary records.
    #[serde(default, rename = "key_schema")]
    _key_schema: IgnoredAny,
    #[serde(default, rename = "key_schema_id")]
    _key_schema_id: IgnoredAny,
    #[serde(default, rename = "value_schema")]
    _value_schema: IgnoredAny,
    #[serde(default, rename = "value_schema_id")]
    _value_schema_id: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRecord<'a> {
    // Unchanged: numbers keep their digits and objects their order.
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    partition: Option<i32>,
}

/// Parses the records of a request.
pub(super) fn parse(body: &[u8], format: Format) -> Result<Vec<Record<'_>>, ParseError> {
    let Object(envelope): Object<Envelope<'_>> = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() { ParseError::Records(error.to_string()) } else { ParseError::Json(error.to_string()) }
    })?;
    if envelope.records.is_empty() {
        return Err(ParseError::Records("records must not be empty".to_owned()));
    }
    envelope.records.into_iter().enumerate().map(|(index, Object(record))| convert(index, &record, format)).collect()
}

/// A struct from a JSON object only: a derived struct accepts an array too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

fn convert<'a>(index: usize, record: &WireRecord<'a>, format: Format) -> Result<Record<'a>, ParseError> {
    let field = |name: &str, raw: Option<&'a RawValue>| match (raw, format) {
        (None, _) => Ok(None),
        (Some(raw), Format::Json) => Ok(Some(compact(raw.get()))),
        (Some(raw), Format::Binary) => match decode(raw) {
            Some(bytes) => Ok(Some(Cow::Owned(bytes))),
            None => Err(ParseError::Records(format!("records[{index}].{name} must be a base64 string"))),
        },
    };
    if record.partition.is_some_and(|partition| partition < 0) {
        return Err(ParseError::Records(format!("records[{index}].partition must not be negative")));
    }
    Ok(Record { key: field("key", record.key)?, value: field("value", record.value)?, partition: record.partition })
}

fn decode(raw: &RawValue) -> Option<Vec<u8>> {
    let text: Cow<'_, str> = serde_json::from_str(raw.get()).ok()?;
    BASE64.decode(text.as_bytes()).ok()
}

/// Valid JSON without the space between its tokens; borrowed where there is none.
fn compact(json: &str) -> Cow<'_, [u8]> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    if !json.bytes().any(is_space) {
        return Cow::Borrowed(json.as_bytes());
    }
    let mut in_string = false;
    let mut escaped = false;
    let kept = json.bytes().filter(|&byte| {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            return true;
        }
        in_string = byte == b'"';
        !is_space(byte)
    });
    Cow::Owned(kept.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(body: &str, format: Format) -> (Option<String>, Option<String>, Option<i32>) {
        let records = parse(body.as_bytes(), format).unwrap();
        let text = |bytes: &Option<Cow<'_, [u8]>>| bytes.as_deref().map(|b| String::from_utf8(b.to_vec()).unwrap());
        (text(&records[0].key), text(&records[0].value), records[0].partition)
    }

    #[test]
    fn json_keeps_every_digit_and_becomes_compact() {
        let body = r#"{"records":[{"key": "a b" , "value": { "z" : 1.10, "a":[ 1, "x \" \\" ], "n":12345678901234567890123 }, "partition":3}]}"#;
        let value = r#"{"z":1.10,"a":[1,"x \" \\"],"n":12345678901234567890123}"#;
        assert_eq!(one(body, Format::Json), (Some(r#""a b""#.to_owned()), Some(value.to_owned()), Some(3)));
        assert_eq!(one(r#"{"records":[{"key":null,"value":null}]}"#, Format::Json), (None, None, None));
        assert_eq!(one(r#"{"records":[{"value":0}],"value_schema":null}"#, Format::Json).1.as_deref(), Some("0"));
        assert_eq!(one(r#"{"records":[{"key":"\u0059Q==","value":""}]}"#, Format::Binary).0.as_deref(), Some("a"));
    }

    #[test]
    fn invalid_json_and_invalid_records_are_different_errors() {
        for body in ["", "{", "nul", "{\"records\":[{]}"] {
            assert!(matches!(parse(body.as_bytes(), Format::Json), Err(ParseError::Json(_))), "{body}");
        }
        for body in [
            "{}",
            r#"{"records":[]}"#,
            r#"{"records":[{"value":1,"headers":[]}]}"#,
            r#"{"records":[{"value":1}],"topic":"t"}"#,
            r#"{"records":[{"value":1,"partition":-1}]}"#,
            r#"{"records":[{"value":1,"partition":"0"}]}"#,
            r#"{"records":{}}"#,
            r#"[[{"value":1}]]"#,
            r#"{"records":[["k","v"]]}"#,
        ] {
            assert!(matches!(parse(body.as_bytes(), Format::Json), Err(ParseError::Records(_))), "{body}");
        }
        for body in [r#"{"records":[{"value":"%%"}]}"#, r#"{"records":[{"key":1}]}"#] {
            assert!(matches!(parse(body.as_bytes(), Format::Binary), Err(ParseError::Records(_))), "{body}");
        }
    }

    #[test]
    fn content_types_are_compared_without_their_parameters() {
        assert_eq!(Format::of("Application/vnd.kafka.JSON.v2+json; charset=utf-8"), Some(Format::Json));
        assert_eq!(Format::of("application/vnd.kafka.binary.v2+json"), Some(Format::Binary));
        assert_eq!(Format::of("application/json"), None);
    }
}
