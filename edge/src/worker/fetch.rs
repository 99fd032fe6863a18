//! The ports for the network, implemented by `fetch` and WebCrypto.

use crate::identity::jwks::{PublicKey, PublicKeys};
use crate::labels::fault::UNUSABLE_KEY;
use crate::worker::js::error_text;
use crate::worker::web_crypto;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, RequestInit, RequestRedirect, Response};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    fn global_fetch(url: &str, init: &RequestInit) -> js_sys::Promise;
}

/// Holds nothing, so all requests of an isolate may share it.
#[derive(Debug, Clone, Copy)]
pub struct Fetch;

impl Http for Fetch {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let HttpRequest { url, headers, body, deadline_ms } = request;
        send(url, &headers, Some(&body), deadline_ms).await.map_err(|error| send_fault(error, deadline_ms))
    }
}

impl PublicKeys for Fetch {
    async fn get(&self, url: &str, deadline_ms: u32) -> Result<HttpResponse, SendFault> {
        let headers = [("accept", "application/json")];
        send(url, &headers, None, deadline_ms).await.map_err(|error| send_fault(error, deadline_ms))
    }

    async fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<bool, Fault> {
        let unusable = |error| Fault::none(Source::KeySet, UNUSABLE_KEY, false, error_text(error));
        web_crypto::verify(key, message, signature).await.map_err(unusable)
    }
}

fn send_fault(error: JsValue, deadline_ms: u32) -> SendFault {
    let name = js_sys::Reflect::get(&error, &"name".into()).ok().and_then(|n| n.as_string());
    let (label, detail) = match name.as_deref() {
        Some("TimeoutError" | "AbortError") => ("timeout", format!("no response within {deadline_ms} ms")),
        // The runtime does not distinguish a refused connection from one that broke later.
        _ => ("transport", error_text(error)),
    };
    SendFault { may_have_arrived: true, label, detail }
}

async fn send(
    url: &str,
    headers: &[(&'static str, &str)],
    body: Option<&str>,
    deadline_ms: u32,
) -> Result<HttpResponse, JsValue> {
    let all = Headers::new()?;
    for (name, value) in headers {
        all.set(name, value)?;
    }
    let init = RequestInit::new();
    init.set_headers_headers(&all);
    if let Some(body) = body {
        init.set_method("POST");
        init.set_body(&JsValue::from_str(body));
    }
    // A redirect would carry tokens and user ids to another host. It is an unexpected status, and so a fault.
    init.set_redirect(RequestRedirect::Manual);
    // The signal covers reading the body too.
    init.set_signal(Some(&AbortSignal::timeout_with_u32(deadline_ms)));
    let response: Response = JsFuture::from(global_fetch(url, &init)).await?.dyn_into()?;
    let body = JsFuture::from(response.array_buffer()?).await?;
    Ok(HttpResponse { status: response.status(), body: Uint8Array::new(&body).to_vec() })
}
