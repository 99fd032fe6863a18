//! The part that exists on Workers only: requests in, responses out, fetch.

mod fetch;

use crate::gate::{Finished, Gate, Step, Visit};
use crate::reply::{Problem, Reply};
use crate::settings::Settings;
use fetch::Fetch;
use js_sys::{Date, Promise, Reflect};
use serde_json::json;
use std::cell::OnceCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::{Headers, Request, Response, ResponseInit};
// Linked for its start-up hooks: worker-build's entry point asks for `__worker_init_state`.
use worker as _;

type Shared = Rc<Result<Gate<Fetch>, String>>;

thread_local! {
    /// Built from the environment at the first event. An isolate's environment never changes.
    static GATE: OnceCell<Shared> = const { OnceCell::new() };
}

#[wasm_bindgen]
extern "C" {
    /// The context of an event.
    pub type Context;
    #[wasm_bindgen(method, js_name = waitUntil)]
    fn wait_until(this: &Context, promise: &Promise);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    fn console_warn(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(line: &str);
}

fn gate(env: &JsValue) -> Shared {
    GATE.with(|cell| {
        Rc::clone(cell.get_or_init(|| {
            let settings = Settings::read(|name| Reflect::get(env, &name.into()).ok()?.as_string());
            if let Err(problems) = &settings {
                console_error(&json!({ "event": "misconfigured", "problems": problems.0 }).to_string());
            }
            Rc::new(settings.map(|settings| Gate::new(settings, Fetch)).map_err(|e| e.to_string()))
        }))
    })
}

/// A request. Returns a Response where the answer needs no I/O, else a Promise of one.
#[wasm_bindgen]
pub fn fetch(request: &Request, env: &JsValue, context: Context) -> JsValue {
    let shared = gate(env);
    let gate = match &*shared {
        Ok(gate) => gate,
        Err(problems) => return response(&Problem::Misconfigured(problems.clone()).reply(), false),
    };
    let method = request.method();
    let head = method == "HEAD";
    let url = request.url();
    let headers = request.headers();
    let header = |name: &str| headers.get(name).ok().flatten();
    match gate.begin(&Visit { method: &method, path: path_of(&url), header: &header }) {
        Step::Answer(reply) => response(&reply, head),
        Step::Call(call) => {
            let shared = Rc::clone(&shared);
            future_to_promise(async move {
                let Ok(gate) = &*shared else {
                    return Ok(JsValue::UNDEFINED);
                };
                let Finished { reply, forward, fault } = gate.finish(call).await;
                if let Some(fault) = fault {
                    log_fault("request", &fault);
                }
                if let Some(record) = forward {
                    let shared = Rc::clone(&shared);
                    context.wait_until(&future_to_promise(async move {
                        if let Ok(gate) = &*shared
                            && let Err(fault) = gate.after(record, now_ms()).await
                        {
                            log_fault("forward", &fault);
                        }
                        Ok(JsValue::UNDEFINED)
                    }));
                }
                Ok(response(&reply, head))
            })
            .into()
        }
    }
}

/// The cron: forwards what is due in the outbox.
#[wasm_bindgen]
pub fn scheduled(_event: &JsValue, env: &JsValue, _context: &JsValue) -> Promise {
    let shared = gate(env);
    future_to_promise(async move {
        if let Ok(gate) = &*shared {
            match gate.sweep().await {
                Ok(results) => {
                    for (campaign, swept) in results {
                        match swept {
                            Ok(swept) if swept.waiting == 0 => {}
                            Ok(swept) => console_warn(
                                &json!({ "event": "outbox", "campaign": campaign, "waiting": swept.waiting,
                                    "forwarded": swept.forwarded })
                                .to_string(),
                            ),
                            Err(fault) => log_fault("sweep", &fault),
                        }
                    }
                }
                Err(fault) => log_fault("sweep", &fault),
            }
        }
        Ok(JsValue::UNDEFINED)
    })
}

fn now_ms() -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ms since the epoch")]
    let now = Date::now() as u64;
    now
}

/// The path within an absolute URL.
fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.find('/').and_then(|at| after_scheme.get(at..)).unwrap_or("/");
    path.split(['?', '#']).next().unwrap_or(path)
}

fn log_fault(during: &str, fault: &dropgate_shared::fault::Fault) {
    let line = json!({
        "event": "fault",
        "during": during,
        "source": fault.source.label(),
        "label": fault.label,
        "detail": fault.detail,
    });
    console_error(&line.to_string());
}

fn response(reply: &Reply, head: bool) -> JsValue {
    let make = || -> Result<Response, JsValue> {
        let headers = Headers::new()?;
        for (name, value) in &reply.headers {
            headers.set(name, value)?;
        }
        let init = ResponseInit::new();
        init.set_status(reply.status);
        init.set_headers_headers(&headers);
        Response::new_with_opt_str_and_init((!head).then_some(reply.body.as_str()), &init)
    };
    match make() {
        Ok(response) => response.into(),
        Err(error) => error,
    }
}
