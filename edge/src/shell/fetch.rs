//! The [`Http`] port by way of the runtime's `fetch`.

use dropgate_shared::http::{Http, HttpReply, HttpRequest, SendFault};
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
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpReply, SendFault> {
        let deadline_ms = request.deadline_ms;
        send(request).await.map_err(|error| {
            let name = js_sys::Reflect::get(&error, &"name".into()).ok().and_then(|n| n.as_string());
            match name.as_deref() {
                Some("TimeoutError" | "AbortError") => SendFault {
                    may_have_arrived: true,
                    label: "timeout",
                    detail: format!("no answer within {deadline_ms} ms"),
                },
                // The runtime does not tell a refused connection from one that broke later.
                _ => SendFault {
                    may_have_arrived: true,
                    label: "transport",
                    detail: js_sys::Error::from(error).to_string().into(),
                },
            }
        })
    }
}

async fn send(request: HttpRequest<'_>) -> Result<HttpReply, JsValue> {
    let headers = Headers::new()?;
    for (name, value) in &request.headers {
        headers.set(name, value)?;
    }
    let init = RequestInit::new();
    init.set_method("POST");
    init.set_headers_headers(&headers);
    init.set_body(&JsValue::from_str(&request.body));
    // The signal ends the reading of the body too.
    init.set_signal(Some(&AbortSignal::timeout_with_u32(request.deadline_ms)));
    let response: Response = JsFuture::from(global_fetch(request.url, &init)).await?.dyn_into()?;
    let body = JsFuture::from(response.array_buffer()?).await?;
    Ok(HttpReply { status: response.status(), body: Uint8Array::new(&body).to_vec() })
}
