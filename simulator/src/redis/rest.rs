//! The Upstash REST API in front of the model: `POST /` and `POST /pipeline`, the two forms that the gate and the
//! issuer use, worded as the hosted service and the REST proxy word it.
//!
//! Not modelled: the path form, `/multi-exec`, base64, `_token`. The sync token is not echoed by the project's
//! client, so it is not modelled either.

use super::{Bytes, Reply, Server};
use crate::network::{Answer, Request, Service};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::future::ready;

/// A REST service, and the Redis behind it.
#[derive(Debug)]
pub struct Front {
    pub server: Server,
    authorization: String,
    /// The service runs, and its Redis does not answer.
    pub redis_away: bool,
}

type Refused = (u16, String);

impl Front {
    #[must_use]
    pub fn new(server: Server, token: &str) -> Self {
        Self { server, authorization: format!("Bearer {token}"), redis_away: false }
    }

    /// Answers a request: status and JSON body.
    pub fn handle(&mut self, method: &str, path: &str, authorization: Option<&str>, body: &str) -> (u16, String) {
        match self.answer(method, path, authorization, body) {
            Ok(body) => (200, body),
            Err((status, text)) => (status, error(&text)),
        }
    }

    fn answer(&mut self, method: &str, path: &str, authorization: Option<&str>, body: &str) -> Result<String, Refused> {
        if authorization != Some(&self.authorization) {
            return Err((401, "WRONGPASS invalid or missing auth token".to_owned()));
        }
        if method != "POST" {
            return Err((405, format!("ERR method {method} is not allowed")));
        }
        let pipeline = path == "/pipeline";
        let parse = |kind: &str| (400, format!("ERR failed to parse {kind}"));
        let json: Value = serde_json::from_str(body).map_err(|_| parse("command"))?;
        let commands: Option<Vec<Vec<Bytes>>> = match &json {
            Value::Array(commands) if pipeline => commands.iter().map(arguments).collect(),
            command if path == "/" => arguments(command).map(|command| vec![command]),
            _ => None,
        };
        let commands = commands.ok_or_else(|| parse(if pipeline { "pipeline request" } else { "command" }))?;
        if commands.is_empty() {
            return Err((400, "ERR empty pipeline request".to_owned()));
        }
        if self.redis_away {
            return Err((503, "ERR Redis does not answer: connection refused".to_owned()));
        }
        let mut replies = commands.iter().map(|command| self.server.execute(command));
        if pipeline {
            let results: Vec<String> = replies.map(|reply| result(&reply)).collect();
            return Ok(format!("[{}]", results.join(",")));
        }
        match replies.next() {
            Some(Reply::Error(text)) => Err((400, text)),
            Some(reply) => Ok(result(&reply)),
            None => Err(parse("command")),
        }
    }
}

impl Service for RefCell<Front> {
    fn serve(&self, request: Request) -> Answer {
        let authorization = request.header("authorization");
        let mut front = self.borrow_mut();
        let (status, body) = front.handle(request.method, request.path(), authorization, &request.body);
        Box::pin(ready((status, body.into_bytes())))
    }
}

/// A command as it comes in JSON: strings, numbers, booleans.
fn arguments(command: &Value) -> Option<Vec<Bytes>> {
    let argument = |value: &Value| match value {
        Value::String(text) => Some(Bytes::from(text.as_bytes())),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().as_bytes().into()),
        _ => None,
    };
    command.as_array()?.iter().map(argument).collect()
}

fn error(text: &str) -> String {
    format!(r#"{{"error":{}}}"#, quoted(text))
}

fn result(reply: &Reply) -> String {
    match reply {
        Reply::Error(text) => error(text),
        reply => {
            let mut out = r#"{"result":"#.to_owned();
            write(&mut out, reply);
            out.push('}');
            out
        }
    }
}

fn write(out: &mut String, reply: &Reply) {
    match reply {
        Reply::Nil => out.push_str("null"),
        // Writing into memory does not fail.
        Reply::Int(number) => drop(write!(out, "{number}")),
        Reply::Status(text) => out.push_str(&quoted(text)),
        Reply::Bulk(bytes) => out.push_str(&quoted(&String::from_utf8_lossy(bytes))),
        Reply::Error(text) => out.push_str(&quoted(text)),
        Reply::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::network::Network;
    use crate::random::Random;
    use dropgate_shared::fault::Effect;
    use dropgate_shared::redis_rest::RedisRest;
    use dropgate_shared::scripts::ADMIT;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    fn front() -> Front {
        Front::new(Server::new(Clock::starting_at(1_800_000_000_000), 1), "token")
    }

    const AUTHORIZED: Option<&str> = Some("Bearer token");

    #[tokio::test(start_paused = true)]
    async fn commands_and_pipelines_are_answered_as_the_service_words_them() {
        let mut front = front();
        let mut post = |path: &str, body: &str| front.handle("POST", path, AUTHORIZED, body);
        for (path, body, status, answer) in [
            ("/", r#"["SET","k","a\"\né"]"#, 200, r#"{"result":"OK"}"#),
            ("/", r#"["GET","k"]"#, 200, r#"{"result":"a\"\né"}"#),
            ("/", r#"["GET","none"]"#, 200, r#"{"result":null}"#),
            ("/", r#"["HSET","h","n",7,"b",true]"#, 200, r#"{"result":2}"#),
            ("/", r#"["HMGET","h","n","b","x"]"#, 200, r#"{"result":["7","true",null]}"#),
            (
                "/",
                r#"["GET","h"]"#,
                400,
                r#"{"error":"WRONGTYPE Operation against a key holding the wrong kind of value"}"#,
            ),
            ("/", r#"["EVAL","return {1,{},{err='E x'},'OK'}",0]"#, 200, r#"{"result":[1,[],"E x","OK"]}"#),
            ("/", r#"["EVAL","return redis.error_reply('DROPGATE x')",0]"#, 400, r#"{"error":"DROPGATE x"}"#),
            (
                "/pipeline",
                r#"[["GET","k2"],["NOPE","a"],["HLEN","h"],[]]"#,
                200,
                "[{\"result\":null},{\"error\":\"ERR unknown command 'NOPE', with args beginning with: 'a' \"},\
                 {\"result\":2},{\"error\":\"ERR empty command\"}]",
            ),
            ("/", r#"["GET",null]"#, 400, r#"{"error":"ERR failed to parse command"}"#),
            ("/", "<html>", 400, r#"{"error":"ERR failed to parse command"}"#),
            ("/", "[]", 400, r#"{"error":"ERR empty command"}"#),
            ("/pipeline", "[]", 400, r#"{"error":"ERR empty pipeline request"}"#),
            ("/pipeline", r#"["GET","k"]"#, 400, r#"{"error":"ERR failed to parse pipeline request"}"#),
        ] {
            assert_eq!(post(path, body), (status, answer.to_owned()), "{body}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_token_and_a_redis_that_is_away_have_no_effect() {
        let mut front = front();
        let body = r#"["INCR","n"]"#;
        for wrong in [None, Some("Bearer other"), Some("token")] {
            let answer = r#"{"error":"WRONGPASS invalid or missing auth token"}"#.to_owned();
            assert_eq!(front.handle("POST", "/", wrong, body), (401, answer));
        }
        assert_eq!(front.handle("GET", "/", AUTHORIZED, body).0, 405);
        front.redis_away = true;
        assert_eq!(front.handle("POST", "/", AUTHORIZED, body).0, 503);
        front.redis_away = false;
        assert_eq!(front.handle("POST", "/", AUTHORIZED, body), (200, r#"{"result":1}"#.to_owned()));
    }

    #[test]
    fn the_projects_client_reaches_the_scripts_through_the_network() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let front = Rc::new(RefCell::new(front()));
            let network = Network::new(Random::new(1), front.borrow().server.clock, |_| {});
            network.serve("redis.sim", front.clone());
            let redis = RedisRest::new(network.port("gate"), "http://redis.sim/", "token", 1_000, false);
            let fields = [("state", "open"), ("capacity", "1"), ("count", "0"), ("opens_ms", "1"), ("closes_ms", "0")];
            let commands: Vec<Vec<String>> =
                fields.map(|(field, value)| ["HSET", "m", field, value].map(str::to_owned).to_vec()).to_vec();
            assert!(redis.pipeline(&commands).await.unwrap().iter().all(Result::is_ok));
            for _ in 0..2 {
                let reply = redis.eval(&ADMIT, &["m", "c", "o"], &["5000", "", "ann"]).await.unwrap();
                assert!(reply.get(4).unwrap().as_str().unwrap().contains("1:18"), "{reply}");
            }
            assert_eq!(front.borrow().server.strikes().of("no_script"), 1, "EVAL after the first EVALSHA only");
            front.borrow_mut().server.flush_scripts();
            front.borrow_mut().server.read_only = true;
            assert!(
                redis.eval(&ADMIT, &["m", "c", "o"], &["5000", "", "bob"]).await.is_ok(),
                "full: nothing is written"
            );
            let fault = redis.command(&["DEL", "m"]).await.unwrap_err();
            assert_eq!((fault.effect, fault.label), (Effect::None, "not_serving"));
        });
    }
}
