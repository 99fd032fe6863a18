//! Responses as the runtime has them.

use crate::http::response::Response;
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use web_sys::{Headers, ResponseInit};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = Response)]
    type JsResponse;
    // `new Response(body, init)` with a body that is a JavaScript string already.
    #[wasm_bindgen(constructor, js_class = "Response", catch)]
    fn new(body: &JsValue, init: &ResponseInit) -> Result<JsResponse, JsValue>;
}

/// The parts of a response that is given to many.
struct Prepared {
    response: Rc<Response>,
    init: ResponseInit,
    body: JsValue,
}

thread_local! {
    /// The last shared response: while a campaign is sold out, nearly all responses are this one.
    static PREPARED: RefCell<Option<Prepared>> = const { RefCell::new(None) };
}

/// Converts a shared response. Only the first time are its parts converted.
pub fn shared_to_js(response: Rc<Response>) -> JsValue {
    PREPARED.with_borrow_mut(|prepared| {
        let same = |prepared: &&mut Prepared| Rc::ptr_eq(&prepared.response, &response);
        if prepared.as_mut().filter(same).is_none() {
            let body = JsValue::from_str(&response.body);
            *prepared = init(&response).ok().map(|init| Prepared { body, init, response });
        }
        let made = prepared.as_ref().map(|prepared| JsResponse::new(&prepared.body, &prepared.init));
        made.map_or(JsValue::NULL, |made| made.map_or_else(|error| error, JsValue::from))
    })
}

/// Converts a response; to a HEAD request without its body.
pub fn to_js(response: &Response, head: bool) -> JsValue {
    let body = (!head && !response.body.is_empty()).then_some(response.body.as_str());
    let made = init(response).and_then(|init| web_sys::Response::new_with_opt_str_and_init(body, &init));
    made.map_or_else(|error| error, JsValue::from)
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
