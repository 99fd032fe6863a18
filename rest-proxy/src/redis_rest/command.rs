//! Parses a request into a Redis command, from the body form (JSON) or the path form, and rejects the
//! commands that a proxy with one shared connection cannot run.

use percent_encoding::percent_decode_str;
use redis::Cmd;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// Commands that have no meaning over stateless HTTP, or that would change the connection that all
/// requests share.
const RESTRICTED: &[&str] = &[
    "ASKING",
    "AUTH",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "QUIT",
    "READONLY",
    "READWRITE",
    "RESET",
    "SELECT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

/// Commands that block the shared connection, so that all other requests would wait, or that are for the
/// server's operator.
const UNAVAILABLE: &[&str] = &[
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "DEBUG",
    "FAILOVER",
    "MIGRATE",
    "PSYNC",
    "REPLCONF",
    "REPLICAOF",
    "SHUTDOWN",
    "SLAVEOF",
    "SYNC",
    "WAIT",
    "WAITAOF",
];

/// A command; in JSON it is an array of strings, numbers and booleans.
#[derive(Debug)]
pub(super) struct Command(pub(super) Cmd);

impl Command {
    /// The command of the path form: the path's segments, then the body, then the query.
    ///
    /// A query parameter without a value (`?NX`) is one argument, and `_token` none.
    pub(super) fn from_path(path: &str, body: &[u8], query: Option<&str>) -> Self {
        let mut cmd = Cmd::new();
        let path = path.strip_prefix('/').unwrap_or(path);
        for segment in path.strip_suffix('/').unwrap_or(path).split('/') {
            cmd.arg(percent_decode_str(segment).collect::<Vec<u8>>());
        }
        if !body.is_empty() {
            cmd.arg(body);
        }
        for (name, value) in parameters(query).filter(|(name, _)| name != TOKEN_PARAMETER.as_bytes()) {
            cmd.arg(name);
            if !value.is_empty() {
                cmd.arg(value);
            }
        }
        Self(cmd)
    }

    /// The error for a command that is not sent to Redis, in the hosted service's words.
    pub(super) fn rejection(&self) -> Option<String> {
        let name = self.name();
        if name.is_empty() {
            return Some("ERR empty command".to_owned());
        }
        let listed = |list: &[&str]| list.iter().any(|entry| name.eq_ignore_ascii_case(entry.as_bytes()));
        let printed = || String::from_utf8_lossy(name).to_uppercase();
        if listed(RESTRICTED) {
            return Some(format!(
                "ERR Command \"{}\" is not allowed in REST or it has a special context path",
                printed()
            ));
        }
        if listed(UNAVAILABLE) {
            return Some(format!("ERR Command is not available: '{}'", printed()));
        }
        if self.blocks_on_a_stream() {
            return Some(format!("ERR Command is not available: '{}' with BLOCK", printed()));
        }
        None
    }

    fn name(&self) -> &[u8] {
        self.arguments().next().unwrap_or_default()
    }

    fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.0.args_iter().map(|arg| match arg {
            redis::Arg::Simple(bytes) => bytes,
            // Only the crate's own SCAN helpers write a cursor.
            _ => &[],
        })
    }

    /// XREAD and XREADGROUP are rejected only where they would block.
    fn blocks_on_a_stream(&self) -> bool {
        let name = self.name();
        (name.eq_ignore_ascii_case(b"XREAD") || name.eq_ignore_ascii_case(b"XREADGROUP"))
            && self
                .arguments()
                .take_while(|arg| !arg.eq_ignore_ascii_case(b"STREAMS"))
                .any(|arg| arg.eq_ignore_ascii_case(b"BLOCK"))
    }
}

/// The query parameter that may carry the token instead of the header.
const TOKEN_PARAMETER: &str = "_token";

/// The token from the query.
pub(super) fn token_parameter(query: Option<&str>) -> Option<Vec<u8>> {
    parameters(query).find(|(name, _)| name == TOKEN_PARAMETER.as_bytes()).map(|(_, value)| value)
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    // In a query, unlike in a path, a plus stands for a space.
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>();
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Arguments;
        impl<'de> Visitor<'de> for Arguments {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings and numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Command, A::Error> {
                let mut cmd = Cmd::new();
                while seq.next_element_seed(Argument(&mut cmd))?.is_some() {}
                Ok(Command(cmd))
            }
        }
        deserializer.deserialize_seq(Arguments)
    }
}

/// Writes one JSON element into the command without a value tree in between.
struct Argument<'a>(&'a mut Cmd);

impl<'de> DeserializeSeed<'de> for Argument<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Argument<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.arg(value);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.arg(value);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.arg(value);
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.arg(value);
        Ok(())
    }

    // The JavaScript client sends a boolean as it is, and reads "true" back.
    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.arg(if value { "true" } else { "false" });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(command: &Command) -> Vec<String> {
        command.arguments().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }

    #[test]
    fn json_elements_become_arguments_without_a_change() {
        let command: Command = serde_json::from_str(r#"["SET","k\u00e9y",-7,18446744073709551615,1.5,true]"#).unwrap();
        assert_eq!(texts(&command), ["SET", "kéy", "-7", "18446744073709551615", "1.5", "true"]);
        for invalid in [r#"["SET",null]"#, r#"["SET",["a"]]"#, r#"["SET",{}]"#, r#""SET""#, r#"{"a":1}"#] {
            assert!(serde_json::from_str::<Command>(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn path_body_and_query_become_arguments_in_that_order() {
        let command = Command::from_path("/set/a%2Fb%20c+d", b"body", Some("EX=100&_token=t&NX&v=x+y%26"));
        assert_eq!(texts(&command), ["set", "a/b c+d", "body", "EX", "100", "NX", "v", "x y&"]);
        assert_eq!(texts(&Command::from_path("/get/k/", b"", None)), ["get", "k"]);
        assert_eq!(token_parameter(Some("EX=1&_token=a%2Bb")), Some(b"a+b".to_vec()));
    }

    #[test]
    fn commands_that_block_or_change_the_shared_connection_are_rejected() {
        let rejection = |args: &[&str]| {
            let mut cmd = Cmd::new();
            cmd.arg(args);
            Command(cmd).rejection()
        };
        for name in RESTRICTED.iter().chain(UNAVAILABLE) {
            assert!(rejection(&[&name.to_lowercase(), "x"]).is_some_and(|text| text.contains(name)), "{name}");
        }
        assert!(rejection(&["xread", "BLOCK", "0", "STREAMS", "s", "$"]).is_some());
        assert_eq!(rejection(&["XREAD", "STREAMS", "block", "0"]), None);
        assert_eq!(rejection(&["GET", "multi"]), None);
        assert!(rejection(&[]).is_some());
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    fn arguments(command: &Command) -> Vec<Vec<u8>> {
        command.arguments().map(<[u8]>::to_vec).collect()
    }

    /// A text in which each character is written as it is, percent-encoded, or in the other case.
    fn disguised(text: &str, choices: &[u8]) -> String {
        let each = text.chars().zip(choices.iter().cycle());
        each.map(|(letter, choice)| match choice % 3 {
            0 => letter.to_string(),
            1 => format!("%{:02x}", u32::from(letter.to_ascii_lowercase())),
            _ => letter.to_ascii_lowercase().to_string(),
        })
        .collect()
    }

    proptest! {
        /// However a command of the lists is written, it is not sent.
        #[test]
        fn a_disguised_command_is_rejected(
            name in prop::sample::select([RESTRICTED, UNAVAILABLE].concat()),
            choices in prop::collection::vec(any::<u8>(), 1..20),
            rest in "[a-z/%+?&=]{0,12}",
        ) {
            let path = format!("/{}/{rest}", disguised(name, &choices));
            prop_assert!(Command::from_path(&path, b"", None).rejection().is_some(), "{}", path);
            let json = serde_json::json!([disguised(name, &[0, 2]), "x"]).to_string();
            prop_assert!(serde_json::from_str::<Command>(&json).unwrap().rejection().is_some(), "{}", json);
        }

        /// Bytes that are percent-encoded in a path arrive unchanged, each segment as one argument, and nothing in path,
        /// body or query is a reason to panic.
        #[test]
        fn what_a_path_encodes_arrives_unchanged(
            segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 1..6),
            body in prop::collection::vec(any::<u8>(), 0..12),
            query in ".{0,20}",
        ) {
            let encoded = segments.iter().map(|one| percent_encode(one, NON_ALPHANUMERIC).to_string());
            let path = format!("/{}", encoded.collect::<Vec<_>>().join("/"));
            let mut expected = segments;
            expected.extend((!body.is_empty()).then(|| body.clone()));
            prop_assert_eq!(arguments(&Command::from_path(&path, &body, None)), expected);
            let _ = (Command::from_path(&query, &body, Some(&query)).rejection(), token_parameter(Some(&query)));
            let _ = serde_json::from_slice::<Command>(&body);
        }
    }
}
