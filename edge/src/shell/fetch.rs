//! The [`Http`] port by way of the runtime's `fetch`.

use super::{signature, words};
use crate::identity::keys::{PublicKey, PublicKeys};
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, Response};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    fn global_fetch(url: &str, init: &RequestInit) -> js_sys::Promise;
}

/// Sends with `fetch`; holds nothing, so it may be shared by all requests of an isolate.
#[derive(Debug, Clone, Copy)]
pub struct Fetch;

impl Http for Fetch {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let HttpRequest { url, headers, body, deadline_ms } = request;
        answered(send(url, &headers, Some(&body), deadline_ms).await, deadline_ms)
    }
}

impl PublicKeys for Fetch {
    async fn get(&self, url: &str, deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        answered(send(url, &[("accept", "application/json")], None, deadline_ms).await, deadline_ms)
    }

    async fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<bool, String> {
        signature::verify(key, message, signature).await.map_err(words)
    }
}

fn answered(result: Result<HttpResponse, JsValue>, deadline_ms: u32) -> Result<HttpResponse, SendFault> {
    result.map_err(|error| {
        let name = js_sys::Reflect::get(&error, &"name".into()).ok().and_then(|n| n.as_string());
        match name.as_deref() {
            Some("TimeoutError" | "AbortError") => SendFault {
                may_have_arrived: true,
                label: "timeout",
                detail: format!("no answer within {deadline_ms} ms"),
            },
            // The runtime does not tell a refused connection from one that broke later.
            _ => SendFault { may_have_arrived: true, label: "transport", detail: words(error) },
        }
    })
}

async fn send(
    url: &str,
    headers: &[(&'static str, &str)],
    body: Option<&str>,
    deadline_ms: u32,
) -> Result<HttpResponse, JsValue> {
    let of_request = Headers::new()?;
    for (name, value) in headers {
        of_request.set(name, value)?;
    }
    let init = RequestInit::new();
    init.set_headers_headers(&of_request);
    if let Some(body) = body {
        init.set_method("POST");
        init.set_body(&JsValue::from_str(body));
    }
    // The signal ends the reading of the body too.
    init.set_signal(Some(&AbortSignal::timeout_with_u32(deadline_ms)));
    let response: Response = JsFuture::from(global_fetch(url, &init)).await?.dyn_into()?;
    let body = JsFuture::from(response.array_buffer()?).await?;
    Ok(HttpResponse { status: response.status(), body: Uint8Array::new(&body).to_vec() })
}
