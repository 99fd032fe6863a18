//! The part that exists on Workers only: requests in, responses out, fetch.

mod fetch;

use crate::errand::Errand;
use crate::gate::{Gate, Step, Visit};
use crate::relay::Swept;
use crate::reply::{Problem, Reply};
use crate::settings::Settings;
use dropgate_shared::fault::Fault;
use fetch::Fetch;
use js_sys::{Date, Promise, Reflect};
use serde_json::json;
use std::cell::OnceCell;
use std::future::Future;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{Headers, Request, Response, ResponseInit};
// Linked for its start-up hooks: worker-build's entry point asks for `__worker_init_state`.
use worker as _;

type Shared = Result<Rc<Gate<Fetch>>, String>;

thread_local! {
    /// Built from the environment at the first event. An isolate's environment never changes.
    static GATE: OnceCell<Shared> = const { OnceCell::new() };
}

#[wasm_bindgen]
extern "C" {
    /// The context of an event.
    #[derive(Clone)]
    pub type Context;
    #[wasm_bindgen(method, js_name = waitUntil)]
    fn wait_until(this: &Context, promise: &Promise);

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(run: &js_sys::Function, ms: u32);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    fn console_warn(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(line: &str);
}

impl Errand for Context {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    async fn sleep(&self, ms: u32) {
        let timer = Promise::new(&mut |resolve, _| set_timeout(&resolve, ms));
        // A timer does not fail.
        let _ = JsFuture::from(timer).await;
    }

    fn after_answer(&self, work: impl Future<Output = ()> + 'static) {
        self.wait_until(&future_to_promise(async move {
            work.await;
            Ok(JsValue::UNDEFINED)
        }));
    }

    fn report(&self, during: &'static str, fault: &Fault) {
        let line = json!({
            "event": "fault",
            "during": during,
            "source": fault.source.label(),
            "label": fault.label,
            "detail": fault.detail,
        });
        console_error(&line.to_string());
    }
}

fn gate(env: &JsValue) -> Shared {
    GATE.with(|cell| {
        cell.get_or_init(|| {
            let settings = Settings::read(|name| Reflect::get(env, &name.into()).ok()?.as_string());
            if let Err(problems) = &settings {
                console_error(&json!({ "event": "misconfigured", "problems": problems.0 }).to_string());
            }
            settings.map(|settings| Rc::new(Gate::new(settings, Fetch))).map_err(|e| e.to_string())
        })
        .clone()
    })
}

/// A request. Returns a Response where the answer needs no I/O, else a Promise of one.
#[wasm_bindgen]
pub fn fetch(request: &Request, env: &JsValue, context: Context) -> JsValue {
    let gate = match gate(env) {
        Ok(gate) => gate,
        Err(problems) => return response(&Problem::Misconfigured(problems).reply(), false),
    };
    let method = request.method();
    let head = method == "HEAD";
    let url = request.url();
    let headers = request.headers();
    let header = |name: &str| headers.get(name).ok().flatten();
    match gate.begin(&Visit { method: &method, path: path_of(&url), header: &header }, now_ms()) {
        Step::Answer(reply) => response(&reply, head),
        Step::Call(call) => {
            future_to_promise(async move { Ok(response(&gate.finish(call, context).await, head)) }).into()
        }
    }
}

/// The cron: forwards what is due in the outbox.
#[wasm_bindgen]
pub fn scheduled(_event: &JsValue, env: &JsValue, context: Context) -> Promise {
    let gate = gate(env);
    future_to_promise(async move {
        let Ok(gate) = gate else { return Ok(JsValue::UNDEFINED) };
        match gate.sweep().await {
            Ok(results) => {
                for (campaign, swept) in results {
                    match swept {
                        Ok(swept) if swept.waiting == 0 => {}
                        Ok(Swept { waiting, forwarded }) => console_warn(
                            &json!({ "event": "outbox", "campaign": campaign, "waiting": waiting,
                                "forwarded": forwarded })
                            .to_string(),
                        ),
                        Err(fault) => context.report("sweep", &fault),
                    }
                }
            }
            Err(fault) => context.report("sweep", &fault),
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
