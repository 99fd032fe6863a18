//! Client side of the Upstash Redis REST protocol, over the [`Http`] port.
//!
//! Only the body form is used (`POST /` with a JSON array, `POST /pipeline` with an array of them):
//! it is the one form that the hosted service, serverless-redis-http and our gateway share.

use crate::fault::{Fate, Fault, Source};
use crate::http::{Http, HttpReply, HttpRequest, SendFault};
use crate::scripts::Script;
use serde_json::Value;

/// A Redis behind HTTP.
#[derive(Clone)]
pub struct RedisRest<H> {
    http: H,
    url: String,
    authorization: String,
    deadline_ms: u32,
    key_locking: bool,
}

impl<H: Http> RedisRest<H> {
    /// A client of the service at `url` (without a trailing slash). `key_locking` prepends
    /// `#!lua flags=allow-key-locking` to every script: hosted Upstash only.
    pub fn new(http: H, url: &str, token: &str, deadline_ms: u32, key_locking: bool) -> Self {
        Self {
            http,
            url: url.trim_end_matches('/').to_owned(),
            authorization: format!("Bearer {token}"),
            deadline_ms,
            key_locking,
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Fault`], with what became of the command.
    pub async fn command<S: AsRef<str>>(&self, args: &[S]) -> Result<Value, Fault> {
        let reply = self.post("/", json_array(args)).await?;
        decode(&reply)
    }

    /// Runs commands in one request, in order, not atomically.
    ///
    /// # Errors
    /// [`Fault`] of the request as a whole; each command has its own result within.
    pub async fn pipeline(&self, commands: &[Vec<String>]) -> Result<Vec<Result<Value, Fault>>, Fault> {
        let body = format!("[{}]", commands.iter().map(|c| json_array(c)).collect::<Vec<_>>().join(","));
        let reply = self.post("/pipeline", body).await?;
        let unknown = |detail: String| Fault::unknown(Source::Redis, "garbled", detail);
        if reply.status != 200 {
            return match decode(&reply) {
                Err(fault) => Err(fault),
                Ok(_) => Err(unknown(format!("status {} for a pipeline", reply.status))),
            };
        }
        let results: Vec<Value> =
            serde_json::from_slice(&reply.body).map_err(|e| unknown(format!("pipeline answer: {e}")))?;
        if results.len() != commands.len() {
            return Err(unknown(format!("{} results for {} commands", results.len(), commands.len())));
        }
        Ok(results.into_iter().map(result_of).collect())
    }

    /// Runs a script: EVALSHA, then EVAL if the server does not hold it yet.
    ///
    /// # Errors
    /// [`Fault`], with what became of the script.
    pub async fn eval<S: AsRef<str>>(&self, script: &Script, keys: &[&str], args: &[S]) -> Result<Value, Fault> {
        let (text, sha1) =
            if self.key_locking { (script.locking_text, script.locking_sha1) } else { (script.text, script.sha1) };
        let count = keys.len().to_string();
        let call = |command: &'static str, body: &'static str| {
            let mut all = vec![command, body, count.as_str()];
            all.extend(keys);
            all.extend(args.iter().map(AsRef::as_ref));
            json_array(&all)
        };
        match decode(&self.post("/", call("EVALSHA", sha1)).await?) {
            Err(fault) if fault.label == NOSCRIPT => decode(&self.post("/", call("EVAL", text)).await?),
            other => other,
        }
    }

    async fn post(&self, path: &str, body: String) -> Result<HttpReply, Fault> {
        let url = format!("{}{path}", self.url);
        let request = HttpRequest {
            url: &url,
            // serverless-redis-http wants exactly this content type.
            headers: vec![("authorization", &self.authorization), ("content-type", "application/json")],
            body,
            deadline_ms: self.deadline_ms,
        };
        self.http.post(request).await.map_err(|SendFault { may_have_arrived, label, detail }| Fault {
            fate: if may_have_arrived { Fate::Unknown } else { Fate::None },
            retry: true,
            source: Source::Redis,
            label,
            detail,
        })
    }
}

const NOSCRIPT: &str = "noscript";

fn json_array<S: AsRef<str>>(args: &[S]) -> String {
    // Strings always serialise.
    serde_json::to_string(&args.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap_or_default()
}

/// Reads the answer to one command: `{"result": ..}` or `{"error": ".."}`.
///
/// # Errors
/// [`Fault`]. An error that Redis or the service worded itself had no effect (our scripts validate
/// before their first write); anything unreadable may have had one.
pub fn decode(reply: &HttpReply) -> Result<Value, Fault> {
    let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
    match (reply.status, body) {
        (200, Some(body)) => result_of(body),
        (401 | 403, _) => Err(Fault::none(
            Source::Redis,
            "unauthorized",
            false,
            "the Redis REST service refuses the token: check UPSTASH_REDIS_REST_TOKEN",
        )),
        (400..=499, Some(body)) if body.get("error").is_some() => result_of(body),
        (status, _) => Err(Fault::unknown(
            Source::Redis,
            if status == 200 { "garbled" } else { "status" },
            format!("status {status} with a body that is no Redis REST answer"),
        )),
    }
}

fn result_of(mut body: Value) -> Result<Value, Fault> {
    if let Some(error) = body.get("error").and_then(Value::as_str) {
        let label = match error.split(' ').next().unwrap_or_default() {
            "NOSCRIPT" => NOSCRIPT,
            "DROPGATE" => "meta_damaged",
            "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" => "not_serving",
            "WRONGPASS" | "NOAUTH" | "NOPERM" => "unauthorized",
            _ => "command",
        };
        // The service words its own errors; none of them repeats an argument beyond the first words.
        let detail = error.chars().take(200).collect::<String>();
        return Err(Fault::none(Source::Redis, label, label == "not_serving", detail));
    }
    match body.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(Fault::unknown(Source::Redis, "garbled", "an answer without result and error")),
    }
}
