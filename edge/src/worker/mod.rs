//! The part that exists on Workers only: requests in, responses out, fetch, and what is bound to the
//! gate.

mod fetch;
mod web_crypto;

use crate::counters::Point;
use crate::gate::{Begun, Gate};
use crate::http::request::Request;
use crate::http::response::{Problem, Response};
use crate::platform::{Limiter, Platform};
use crate::settings::Settings;
use fetch::Fetch;
use js_sys::{Array, Date, Math, Object, Promise, Reflect};
use serde_json::{Value, json};
use std::cell::{OnceCell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::{Headers, ResponseInit};
// Linked for its start-up hooks: worker-build's entry point asks for `__worker_init_state`.
use ::worker as _;

type Shared = Result<Rc<Door>, String>;

/// The gate, and the headers that every request is asked for, by their names for us and for [`look`].
struct Door {
    gate: Rc<Gate<Fetch>>,
    headers: Vec<&'static str>,
    names: Array,
}

/// An answer that is given to many, in the runtime's own terms.
struct Ready {
    response: Rc<Response>,
    init: ResponseInit,
    body: JsValue,
}

thread_local! {
    /// Built from the environment at the first event. An isolate's environment never changes.
    static DOOR: OnceCell<Shared> = const { OnceCell::new() };
    /// The last answer that was shared: after sold-out, nearly all answers are this one.
    static READY: RefCell<Option<Ready>> = const { RefCell::new(None) };
}

#[wasm_bindgen(inline_js = r#"
export function look(request, names) {
  const headers = request.headers;
  let seen = request.method + "\n" + request.url;
  for (let i = 0; i < names.length; i++) {
    const value = headers.get(names[i]);
    seen += value === null ? "\n" : "\n=" + value;
  }
  return seen;
}"#)]
extern "C" {
    /// Method, URL and the headers of these names, one a line; a header that is there begins with "=".
    /// None of them can hold the end of a line.
    fn look(request: &web_sys::Request, names: &Array) -> String;
}

#[wasm_bindgen]
extern "C" {
    /// The context of an event.
    #[derive(Clone)]
    pub type Context;
    #[wasm_bindgen(method, js_name = waitUntil)]
    fn wait_until(this: &Context, promise: &Promise);

    /// A rate limit (`[[ratelimits]]`).
    type RateLimit;
    #[wasm_bindgen(method, catch)]
    fn limit(this: &RateLimit, key: &JsValue) -> Result<Promise, JsValue>;

    /// A dataset (`[[analytics_engine_datasets]]`).
    type Dataset;
    #[wasm_bindgen(method, catch, js_name = writeDataPoint)]
    fn write_data_point(this: &Dataset, point: &JsValue) -> Result<(), JsValue>;

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(run: &js_sys::Function, ms: u32);

    #[wasm_bindgen(js_namespace = console, js_name = log)]
    fn console_log(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(line: &str);

    #[wasm_bindgen(js_name = Response)]
    type AnyResponse;
    // `new Response(body, init)` with a body that is a JavaScript string already.
    #[wasm_bindgen(constructor, js_class = "Response", catch)]
    fn new(body: &JsValue, init: &ResponseInit) -> Result<AnyResponse, JsValue>;
}

/// One event, with what the runtime has bound to the gate.
#[derive(Clone)]
struct Event {
    context: Context,
    env: JsValue,
}

impl Event {
    fn binding(&self, name: &str) -> Option<JsValue> {
        Reflect::get(&self.env, &name.into()).ok().filter(JsValue::is_object)
    }
}

impl Platform for Event {
    fn now_ms(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ms since the epoch")]
        let now = Date::now() as u64;
        now
    }

    fn random(&self) -> f64 {
        Math::random()
    }

    async fn sleep(&self, ms: u32) {
        let timer = Promise::new(&mut |resolve, _| set_timeout(&resolve, ms));
        // A timer does not fail.
        let _ = JsFuture::from(timer).await;
    }

    fn after_answer(&self, work: impl Future<Output = ()> + 'static) {
        self.context.wait_until(&promise(async move {
            work.await;
            Ok(JsValue::UNDEFINED)
        }));
    }

    async fn within(&self, limiter: Limiter, key: &str) -> Result<bool, String> {
        let Some(limit) = self.binding(limiter.binding()) else { return Ok(true) };
        let ask = async {
            let promise = limit.unchecked_into::<RateLimit>().limit(&object([("key", key.into())]))?;
            let outcome = JsFuture::from(promise).await?;
            Reflect::get(&outcome, &"success".into())
        };
        let success = ask.await.map_err(|error| format!("{}: {}", limiter.binding(), words(error)))?;
        success.as_bool().ok_or_else(|| format!("{} did not answer with success", limiter.binding()))
    }

    fn log(&self, line: &Value) {
        console_log(&line.to_string());
    }

    fn log_error(&self, line: &Value) {
        console_error(&line.to_string());
    }

    fn write(&self, points: &[Point]) {
        let Some(dataset) = self.binding("METRICS") else { return };
        let dataset = dataset.unchecked_into::<Dataset>();
        for Point { what, count, total_ms } in points {
            let texts: Array = [what.kind, what.place, what.label].into_iter().map(JsValue::from_str).collect();
            #[expect(clippy::cast_precision_loss, reason = "counts of one second")]
            let numbers: Array = [*count as f64, *total_ms as f64].into_iter().map(JsValue::from_f64).collect();
            let index = Array::of1(&what.kind.into());
            let point = object([("blobs", texts.into()), ("doubles", numbers.into()), ("indexes", index.into())]);
            if let Err(error) = dataset.write_data_point(&point) {
                self.log_error(&json!({ "event": "metrics", "detail": words(error) }));
                return;
            }
        }
    }
}

fn object<const N: usize>(fields: [(&str, JsValue); N]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // Setting a field of a plain object does not fail.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object.into()
}

/// Runs `work`. A panic in it rejects this promise and leaves everything else as it is: the gate's own
/// state is plain values, each changed in one step between two awaits.
fn promise(work: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    future_to_promise(AssertUnwindSafe(work))
}

fn words(error: JsValue) -> String {
    js_sys::Error::from(error).to_string().into()
}

fn door(env: &JsValue) -> Shared {
    DOOR.with(|cell| {
        cell.get_or_init(|| {
            let settings = Settings::read(|name| Reflect::get(env, &name.into()).ok()?.as_string());
            if let Err(problems) = &settings {
                console_error(&json!({ "event": "misconfigured", "problems": problems.0 }).to_string());
            }
            let gate = settings.map(|settings| Rc::new(Gate::new(settings, Fetch))).map_err(|e| e.to_string())?;
            let headers = gate.headers();
            let names = headers.iter().copied().map(JsValue::from_str).collect();
            Ok(Rc::new(Door { gate, headers, names }))
        })
        .clone()
    })
}

/// A request. Returns a Response where the answer needs no I/O, else a Promise of one.
#[wasm_bindgen]
pub fn fetch(request: &web_sys::Request, env: JsValue, context: Context) -> JsValue {
    let door = match door(&env) {
        Ok(door) => door,
        Err(problems) => return to_js(&Problem::Misconfigured(problems).response(), false),
    };
    // Each text that crosses into or out of WebAssembly costs a microsecond or so: the ones that every
    // request needs come in one piece, the others when they are asked for.
    let seen = look(request, &door.names);
    let mut lines = seen.split('\n');
    let (method, url) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let head = method == "HEAD";
    let header = |name: &str| match door.headers.iter().zip(lines.clone()).find(|(known, _)| **known == name) {
        Some((_, value)) => value.strip_prefix('=').map(str::to_owned),
        None => request.headers().get(name).ok().flatten(),
    };
    let event = Event { context, env };
    #[cfg(feature = "panic-trial")]
    if url.ends_with("/panic") {
        return promise(async move {
            event.sleep(5).await;
            if event.now_ms() > 0 {
                panic!("a trial");
            }
            Ok(JsValue::NULL)
        })
        .into();
    }
    match door.gate.begin(&Request { method, url, header: &header }, &event) {
        // Whoever holds it beside this request means to give it again.
        Begun::Done(response) if !head && Rc::strong_count(&response) > 1 => ready(response),
        Begun::Done(response) => to_js(&response, head),
        Begun::Pending(call) => {
            let gate = Rc::clone(&door.gate);
            promise(async move { Ok(to_js(&gate.finish(call, event).await, head)) }).into()
        }
    }
}

/// The cron: forwards what is due in the outbox.
#[wasm_bindgen]
pub fn scheduled(_event: &JsValue, env: JsValue, context: Context) -> Promise {
    promise(async move {
        if let Ok(door) = door(&env) {
            door.gate.sweep(&Event { context, env }).await;
        }
        Ok(JsValue::UNDEFINED)
    })
}

/// The response to a shared answer; only the first is put together from its parts.
fn ready(response: Rc<Response>) -> JsValue {
    READY.with_borrow_mut(|ready| {
        let same = |ready: &&mut Ready| Rc::ptr_eq(&ready.response, &response);
        if ready.as_mut().filter(same).is_none() {
            *ready = init(&response).ok().map(|init| Ready { body: JsValue::from_str(&response.body), init, response });
        }
        let made = ready.as_ref().map(|ready| AnyResponse::new(&ready.body, &ready.init));
        made.map_or(JsValue::NULL, |made| made.map_or_else(|error| error, JsValue::from))
    })
}

fn init(response: &Response) -> Result<ResponseInit, JsValue> {
    let headers = Headers::new()?;
    for (name, value) in &response.headers {
        headers.set(name, value)?;
    }
    let init = ResponseInit::new();
    init.set_status(response.status);
    init.set_headers_headers(&headers);
    Ok(init)
}

fn to_js(response: &Response, head: bool) -> JsValue {
    let body = (!head && !response.body.is_empty()).then_some(response.body.as_str());
    let made = init(response).and_then(|init| web_sys::Response::new_with_opt_str_and_init(body, &init));
    made.map_or_else(|error| error, JsValue::from)
}
