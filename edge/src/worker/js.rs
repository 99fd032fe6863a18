//! Helpers for JavaScript values.

use js_sys::{Object, Reflect};
use wasm_bindgen::prelude::*;

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
