//! Helpers for JavaScript values.

use js_sys::{Object, Promise, Reflect};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

/// Runs `work`. A panic in it rejects this promise and leaves everything else as it is: the gate's state is plain
/// values, each changed in one step between two awaits.
pub fn promise(work: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    future_to_promise(AssertUnwindSafe(work))
}

pub fn object<const N: usize>(fields: [(&str, JsValue); N]) -> Object {
    let object = Object::new();
    for (name, value) in fields {
        // Setting a field of a plain object does not fail.
        let _ = Reflect::set(&object, &name.into(), &value);
    }
    object
}

pub fn error_text(error: JsValue) -> String {
    js_sys::Error::from(error).to_string().into()
}
