//! Writes Redis values as the JSON of the REST API.

use data_encoding::BASE64;
use redis::{ServerError, Value};
use std::io::Write;

/// How strings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As text; bytes that are not UTF-8 become U+FFFD.
    Text,
    /// `Upstash-Encoding: base64`: exact, whatever the bytes are.
    Base64,
}

/// `{"result":..}` or `{"error":".."}` of one command, appended to `out`.
pub(super) fn write_response(out: &mut Vec<u8>, value: &Value, encoding: Encoding) {
    match value {
        Value::ServerError(error) => write_error(out, &error_text(error)),
        // The only string that is never base64: the status reply of a command.
        Value::Okay => out.extend_from_slice(br#"{"result":"OK"}"#),
        value => {
            out.extend_from_slice(br#"{"result":"#);
            write_value(out, value, encoding);
            out.push(b'}');
        }
    }
}

/// `{"error":".."}`, appended to `out`. Errors are never encoded.
pub(super) fn write_error(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(br#"{"error":"#);
    write_text(out, text);
    out.push(b'}');
}

/// The error in Redis's words, with its prefix (`NOSCRIPT No matching script..`).
pub(super) fn error_text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value, encoding: Encoding) {
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::Int(number) => write_number(out, *number),
        Value::BulkString(bytes) => write_string(out, bytes, encoding),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => write_string(out, text.as_bytes(), encoding),
        // Below the top level, clients decode every string.
        Value::Okay => write_string(out, b"OK", encoding),
        Value::Array(items) | Value::Set(items) | Value::Push { data: items, .. } => {
            write_array(out, items.iter(), encoding);
        }
        // As on a RESP2 connection: a flat array, a string, 1 or 0.
        Value::Map(pairs) => write_array(out, pairs.iter().flat_map(|(key, value)| [key, value]), encoding),
        Value::Double(number) => write_string(out, number.to_string().as_bytes(), encoding),
        Value::Boolean(flag) => write_number(out, i64::from(*flag)),
        Value::BigNumber(digits) => write_string(out, digits, encoding),
        Value::Attribute { data, .. } => write_value(out, data, encoding),
        Value::ServerError(error) => write_text(out, &error_text(error)),
        _ => out.extend_from_slice(b"null"),
    }
}

fn write_array<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a Value>, encoding: Encoding) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(out, item, encoding);
    }
    out.push(b']');
}

fn write_number(out: &mut Vec<u8>, number: i64) {
    // Writing into memory does not fail.
    let _ = write!(out, "{number}");
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8], encoding: Encoding) {
    match encoding {
        Encoding::Text => write_text(out, &String::from_utf8_lossy(bytes)),
        Encoding::Base64 => {
            out.push(b'"');
            out.extend_from_slice(BASE64.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing a string into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value, encoding: Encoding) -> String {
        let mut out = Vec::new();
        write_response(&mut out, value, encoding);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_are_written_as_the_hosted_service_writes_them() {
        let bulk = |text: &[u8]| Value::BulkString(text.to_vec());
        for (value, text, base64) in [
            (Value::Nil, r#"{"result":null}"#, r#"{"result":null}"#),
            (Value::Okay, r#"{"result":"OK"}"#, r#"{"result":"OK"}"#),
            (Value::Int(i64::MIN), r#"{"result":-9223372036854775808}"#, r#"{"result":-9223372036854775808}"#),
            (bulk(b"OK"), r#"{"result":"OK"}"#, r#"{"result":"T0s="}"#),
            (bulk(b"a\"\n\xff"), "{\"result\":\"a\\\"\\n\u{fffd}\"}", r#"{"result":"YSIK/w=="}"#),
            (Value::SimpleString("PONG".to_owned()), r#"{"result":"PONG"}"#, r#"{"result":"UE9ORw=="}"#),
            (
                Value::Array(vec![Value::Okay, Value::Array(vec![]), Value::Nil, bulk(b"x")]),
                r#"{"result":["OK",[],null,"x"]}"#,
                r#"{"result":["T0s=",[],null,"eA=="]}"#,
            ),
            (Value::Map(vec![(bulk(b"k"), Value::Int(1))]), r#"{"result":["k",1]}"#, r#"{"result":["aw==",1]}"#),
            (Value::Double(1.5), r#"{"result":"1.5"}"#, r#"{"result":"MS41"}"#),
        ] {
            assert_eq!(written(&value, Encoding::Text), text);
            assert_eq!(written(&value, Encoding::Base64), base64);
        }
    }
}
