//! The runtime around one event.

use crate::counters::Point;
use crate::labels::fault::LIMITER;
use crate::platform::{Limiter, Platform, Wake};
// The raw types: the typed ones of `worker` convert through serde and add 7 KB to the module.
use crate::worker::js::{error_text, object};
use crate::worker::tasks::promise;
use ::worker::worker_sys::{AnalyticsEngineDataset, RateLimiter};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::time::Millis;
use js_sys::{Array, Date, Math, Promise, Reflect};
use serde_json::{Value, json};
use std::future::Future;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// The context of an event.
    #[derive(Clone)]
    pub type Context;
    #[wasm_bindgen(method, js_name = waitUntil)]
    fn wait_until(this: &Context, promise: &Promise);

    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(run: &js_sys::Function, ms: u32);

    #[wasm_bindgen(js_namespace = console, js_name = log)]
    fn console_log(line: &str);
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub fn console_error(line: &str);
}

// The promise is created in the request that waits, so the runtime continues that request in its own context when another
// one resolves the promise. An interval, unlike a timer that has fired, also keeps the request alive between the
// resolution and the continuation: a request that waits for nothing of its own is cancelled as hung.
#[wasm_bindgen(inline_js = r#"
export class Pause {
  constructor(ms) {
    let timer;
    const ended = new Promise((resolve) => {
      this.end = resolve;
      timer = setInterval(resolve, ms);
    });
    this.ended = ended.then(() => clearInterval(timer));
  }
}"#)]
extern "C" {
    type Pause;
    #[wasm_bindgen(constructor)]
    fn new(ms: u32) -> Pause;
    #[wasm_bindgen(method)]
    fn end(this: &Pause);
    #[wasm_bindgen(method, getter)]
    fn ended(this: &Pause) -> Promise;
}

#[derive(Clone)]
pub struct Event {
    pub context: Context,
    /// Variables, secrets and bindings.
    pub env: JsValue,
}

impl Event {
    fn binding(&self, name: &str) -> Option<JsValue> {
        Reflect::get(&self.env, &name.into()).ok().filter(JsValue::is_object)
    }
}

impl Platform for Event {
    fn now(&self) -> Millis {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ms since the epoch")]
        let now_ms = Date::now() as u64;
        Millis(now_ms)
    }

    fn random(&self) -> f64 {
        Math::random()
    }

    async fn sleep(&self, ms: u32) {
        let timer = Promise::new(&mut |resolve, _| set_timeout(&resolve, ms));
        // A timer does not fail.
        let _ = JsFuture::from(timer).await;
    }

    fn pause(&self, limit: Millis) -> (Wake, impl Future<Output = ()>) {
        let pause = Pause::new(u32::try_from(limit.0).unwrap_or(u32::MAX).max(1));
        let ended = JsFuture::from(pause.ended());
        let wake = Wake::new(move || pause.end());
        (wake, async move {
            // It is never rejected.
            let _ = ended.await;
        })
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        self.context.wait_until(&promise(async move {
            work.await;
            Ok(JsValue::UNDEFINED)
        }));
    }

    async fn within(&self, limiter: Limiter, key: &str) -> Result<bool, Fault> {
        let Some(binding) = self.binding(limiter.binding()) else { return Ok(true) };
        let fault =
            |detail: String| Fault::none(Source::Platform, LIMITER, true, format!("{}: {detail}", limiter.binding()));
        let ask = async {
            let promise = binding.unchecked_into::<RateLimiter>().limit(object([("key", key.into())]))?;
            Reflect::get(&JsFuture::from(promise).await?, &"success".into())
        };
        let success = ask.await.map_err(|error| fault(error_text(error)))?;
        success.as_bool().ok_or_else(|| fault("the result has no success".to_owned()))
    }

    fn log(&self, line: &Value) {
        console_log(&line.to_string());
    }

    fn log_error(&self, line: &Value) {
        console_error(&line.to_string());
    }

    fn write_metrics(&self, points: &[Point]) {
        let Some(dataset) = self.binding("METRICS") else { return };
        let dataset = dataset.unchecked_into::<AnalyticsEngineDataset>();
        for Point { key, count, total_ms } in points {
            let dimensions = key.dimensions();
            let index = Array::of1(&dimensions[0].into());
            let texts: Array = dimensions.into_iter().map(JsValue::from_str).collect();
            #[expect(clippy::cast_precision_loss, reason = "counts of one second")]
            let numbers: Array = [*count as f64, *total_ms as f64].into_iter().map(JsValue::from_f64).collect();
            let point = object([("blobs", texts.into()), ("doubles", numbers.into()), ("indexes", index.into())]);
            if let Err(error) = dataset.write_data_point(point.into()) {
                self.log_error(&json!({ "event": "metrics", "detail": error_text(error) }));
                return;
            }
        }
    }
}
