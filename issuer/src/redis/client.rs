//! The HTTP-based Redis, over reqwest.

use crate::labels;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use dropgate_shared::names::KeyPrefix;
use dropgate_shared::redis_rest::RedisRest;
use std::error::Error;
use std::time::Duration;

/// How long a command may take. Nobody waits for it but the confirmer and the operator.
const DEADLINE_MS: u32 = 5_000;

/// The Redis of the issuer.
pub type Redis = RedisRest<ReqwestHttp>;

/// Where Redis is.
#[derive(Clone)]
pub struct RedisSettings {
    pub url: String,
    pub token: String,
    /// Scripts lock only the keys that they name: hosted Upstash only.
    pub key_locking: bool,
    /// Before every key.
    pub prefix: KeyPrefix,
}

/// A client of it. Sends nothing yet.
///
/// # Errors
/// [`Fault`] where the HTTP client cannot be built.
pub fn client(settings: &RedisSettings) -> Result<Redis, Fault> {
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .build()
        .map_err(|error| Fault::none(Source::Redis, labels::CLIENT, false, causes(&error)))?;
    let redis = RedisRest::new(ReqwestHttp(http), &settings.url, &settings.token, DEADLINE_MS, settings.key_locking);
    Ok(redis.with_prefix(settings.prefix.clone()))
}

/// The [`Http`] port over reqwest.
#[derive(Clone)]
pub struct ReqwestHttp(reqwest::Client);

impl Http for ReqwestHttp {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let mut builder =
            self.0.post(request.url).timeout(Duration::from_millis(request.deadline_ms.into())).body(request.body);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let response = builder.send().await.map_err(fault)?;
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(fault)?.to_vec();
        Ok(HttpResponse { status, body })
    }
}

fn fault(error: reqwest::Error) -> SendFault {
    let never_left = error.is_connect() || error.is_builder();
    let label = match (never_left, error.is_timeout()) {
        (true, _) => labels::CONNECT,
        (false, true) => labels::TIMEOUT,
        (false, false) => labels::TRANSPORT,
    };
    SendFault { may_have_arrived: !never_left, label, detail: causes(&error.without_url()) }
}

/// An error with its causes: reqwest's own text stops at "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
