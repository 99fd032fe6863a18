//! The part that exists on Workers only: entry points, `fetch`, WebCrypto, bindings.

mod event;
mod fetch;
mod js;
mod responses;
mod tasks;
mod web_crypto;

use crate::gate::{Begun, Gate};
use crate::http::problem::Problem;
use crate::http::request::Request;
use crate::settings::{Settings, SettingsError};
// Linked for its start-up hooks: worker-build's entry point asks for `__worker_init_state`.
use ::worker as _;
use event::{Context, Event, console_error};
use fetch::Fetch;
use js_sys::{Array, Promise, Reflect};
use responses::{shared_to_js, to_js};
use serde_json::json;
use std::cell::OnceCell;
use std::rc::Rc;
use tasks::promise;
use wasm_bindgen::prelude::*;

/// The gate, and the headers that are read of every request, by their names for Rust and for [`read_request`].
struct Instance {
    gate: Rc<Gate<Fetch>>,
    headers: Vec<&'static str>,
    names: Array,
}

type Started = Result<Rc<Instance>, SettingsError>;

thread_local! {
    /// Built from the environment at the first event. An isolate's environment never changes.
    static INSTANCE: OnceCell<Started> = const { OnceCell::new() };
}

#[wasm_bindgen(inline_js = r#"
export function read_request(request, names) {
  const headers = request.headers;
  let text = request.method + "\n" + request.url;
  for (let i = 0; i < names.length; i++) {
    const value = headers.get(names[i]);
    text += value === null ? "\n" : "\n=" + value;
  }
  return text;
}"#)]
extern "C" {
    /// Method, URL and the headers of these names, one a line; a header that is present begins with "=".
    /// None of them can contain the end of a line.
    fn read_request(request: &web_sys::Request, names: &Array) -> String;
}

fn instance(env: &JsValue) -> Started {
    let start = || {
        let settings = Settings::read(|name| Reflect::get(env, &name.into()).ok()?.as_string())
            .inspect_err(|e| console_error(&json!({ "event": "misconfigured", "problems": e.0 }).to_string()))?;
        let gate = Rc::new(Gate::new(settings, Fetch));
        let headers = gate.headers();
        let names = headers.iter().copied().map(JsValue::from_str).collect();
        Ok(Rc::new(Instance { gate, headers, names }))
    };
    INSTANCE.with(|cell| cell.get_or_init(start).clone())
}

/// A request. Returns a Response where it needs no I/O, else a Promise of one.
#[wasm_bindgen]
pub fn fetch(request: &web_sys::Request, env: JsValue, context: Context) -> JsValue {
    let instance = match instance(&env) {
        Ok(instance) => instance,
        Err(problems) => return to_js(&Problem::Misconfigured(problems.to_string()).response(), false),
    };
    // Each text that crosses into or out of WebAssembly costs about a microsecond: those that every request needs cross
    // in one piece, the others when they are read.
    let text = read_request(request, &instance.names);
    let mut lines = text.split('\n');
    let (method, url) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let head = method == "HEAD";
    let header = |name: &str| match instance.headers.iter().zip(lines.clone()).find(|(known, _)| **known == name) {
        Some((_, value)) => value.strip_prefix('=').map(str::to_owned),
        None => request.headers().get(name).ok().flatten(),
    };
    let event = Event { context, env };
    #[cfg(feature = "panic-trial")]
    if url.ends_with("/panic") {
        return panic_trial(event);
    }
    match instance.gate.begin(&Request { method, url, header: &header }, &event) {
        // A response that something else holds too will be given again.
        Begun::Done(response) if !head && Rc::strong_count(&response) > 1 => shared_to_js(response),
        Begun::Done(response) => to_js(&response, head),
        Begun::Pending(pending) => {
            let gate = Rc::clone(&instance.gate);
            promise(async move { Ok(to_js(&gate.finish(pending, event).await, head)) }).into()
        }
    }
}

/// The cron: forwards what is due in the outbox.
#[wasm_bindgen]
pub fn scheduled(_event: &JsValue, env: JsValue, context: Context) -> Promise {
    promise(async move {
        if let Ok(instance) = instance(&env) {
            instance.gate.sweep(&Event { context, env }).await;
        }
        Ok(JsValue::UNDEFINED)
    })
}

#[cfg(feature = "panic-trial")]
fn panic_trial(event: Event) -> JsValue {
    use crate::platform::Platform as _;
    promise(async move {
        event.sleep(5).await;
        if event.now().0 > 0 {
            panic!("a trial");
        }
        Ok(JsValue::NULL)
    })
    .into()
}
