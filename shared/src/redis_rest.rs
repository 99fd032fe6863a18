//! Client side of the Upstash Redis REST protocol, over the [`Http`] port.
//!
//! Only the body form is used (`POST /` with a JSON array, `POST /pipeline` with an array of them):
//! the one form that the hosted service, serverless-redis-http and our proxy share.

use crate::fault::{Fault, Source};
use crate::http::{Http, HttpRequest, HttpResponse};
use crate::ids::CampaignId;
use crate::names::{CampaignKeys, KeyPrefix};
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
    prefix: KeyPrefix,
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
            prefix: KeyPrefix::default(),
        }
    }

    /// The same, with another prefix of all keys.
    #[must_use]
    pub fn with_prefix(self, prefix: KeyPrefix) -> Self {
        Self { prefix, ..self }
    }

    /// Before every key.
    #[must_use]
    pub fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// The keys of `campaign` in this Redis.
    #[must_use]
    pub fn keys(&self, campaign: &CampaignId) -> CampaignKeys {
        self.prefix.keys(campaign)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Fault`], with the effect on the command.
    pub async fn command<S: AsRef<str>>(&self, args: &[S]) -> Result<Value, Fault> {
        let response = self.post("/", json_array(args)).await?;
        decode(&response)
    }

    /// Runs commands in one request, in order. Not atomic.
    ///
    /// # Errors
    /// [`Fault`] of the request as a whole; each command has its own result within.
    pub async fn pipeline(&self, commands: &[Vec<String>]) -> Result<Vec<Result<Value, Fault>>, Fault> {
        let body = format!("[{}]", commands.iter().map(|c| json_array(c)).collect::<Vec<_>>().join(","));
        let response = self.post("/pipeline", body).await?;
        let unknown = |detail: String| Fault::unknown(Source::Redis, "garbled", detail);
        if response.status != 200 {
            return match decode(&response) {
                Err(fault) => Err(fault),
                Ok(_) => Err(unknown(format!("status {} for a pipeline", response.status))),
            };
        }
        let results: Vec<Value> =
            serde_json::from_slice(&response.body).map_err(|e| unknown(format!("pipeline response: {e}")))?;
        if results.len() != commands.len() {
            return Err(unknown(format!("{} results for {} commands", results.len(), commands.len())));
        }
        Ok(results.into_iter().map(result_of).collect())
    }

    /// Runs a script: EVALSHA, then EVAL if the server has not cached it.
    ///
    /// # Errors
    /// [`Fault`], with the effect on the script.
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

    async fn post(&self, path: &str, body: String) -> Result<HttpResponse, Fault> {
        let url = format!("{}{path}", self.url);
        let request = HttpRequest {
            url: &url,
            // serverless-redis-http requires exactly this content type.
            headers: vec![("authorization", &self.authorization), ("content-type", "application/json")],
            body,
            deadline_ms: self.deadline_ms,
        };
        self.http.post(request).await.map_err(|fault| fault.at(Source::Redis))
    }
}

const NOSCRIPT: &str = "noscript";
/// The campaign's codes are derived from another secret than the caller's.
pub const OTHER_CODE_KEY: &str = "other_code_key";

/// A text in a reply; some services send numbers as numbers.
#[must_use]
pub fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number in a reply, as a string or as a number.
#[must_use]
pub fn number_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The reply to TIME, in ms since the epoch.
#[must_use]
pub fn time_ms(reply: &Value) -> Option<u64> {
    let (seconds, micros) = (number_of(reply.get(0)?)?, number_of(reply.get(1)?)?);
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}

fn json_array<S: AsRef<str>>(args: &[S]) -> String {
    // Strings always serialise.
    serde_json::to_string(&args.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap_or_default()
}

/// Decodes the response to one command: `{"result": ..}` or `{"error": ".."}`.
///
/// # Errors
/// [`Fault`]. An error worded by Redis or the service had no effect (the scripts validate before their first write).
/// Anything unreadable may have had one.
pub fn decode(response: &HttpResponse) -> Result<Value, Fault> {
    let body: Option<Value> = serde_json::from_slice(&response.body).ok();
    match (response.status, body) {
        (200, Some(body)) => result_of(body),
        (401 | 403, _) => Err(Fault::none(
            Source::Redis,
            "unauthorized",
            false,
            "the Redis REST service rejects the token: check UPSTASH_REDIS_REST_TOKEN",
        )),
        (400..=499, Some(body)) if body.get("error").is_some() => result_of(body),
        (status, body) => match body.as_ref().and_then(|body| body.get("error")?.as_str()) {
            // Some services wrap every error of Redis in a 500. A script that is not there certainly did not run.
            Some(error) if status >= 400 && is_noscript(error) => {
                Err(Fault::none(Source::Redis, NOSCRIPT, false, shortened(error)))
            }
            error => Err(Fault::unknown(
                Source::Redis,
                if status == 200 { "garbled" } else { "status" },
                match error {
                    Some(error) => format!("status {status}: {}", shortened(error)),
                    None => format!("status {status} with a body that is not a Redis REST response"),
                },
            )),
        },
    }
}

/// Redis begins the text with this word; some services put words of their own before it.
fn is_noscript(error: &str) -> bool {
    error.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "NOSCRIPT")
}

/// No error of a service repeats an argument beyond its first words.
fn shortened(error: &str) -> String {
    error.chars().take(200).collect()
}

fn result_of(mut body: Value) -> Result<Value, Fault> {
    if let Some(error) = body.get("error").and_then(Value::as_str) {
        let label = match error.split(' ').next().unwrap_or_default() {
            _ if is_noscript(error) => NOSCRIPT,
            "DROPGATE" => "meta_damaged",
            "DROPGATE_CODE_KEY" => OTHER_CODE_KEY,
            "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" => "not_serving",
            "WRONGPASS" | "NOAUTH" | "NOPERM" => "unauthorized",
            _ => "command",
        };
        return Err(Fault::none(Source::Redis, label, label == "not_serving", shortened(error)));
    }
    match body.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(Fault::unknown(Source::Redis, "garbled", "a response without result and error")),
    }
}
