//! Runs the futures of the gate.
//!
//! A task continues inside the callback that wakes it, which the runtime calls in the context of the task's own event.
//! The executor of wasm-bindgen-futures has one queue for all events instead: what is in it runs in the context of the
//! event that empties it.

use js_sys::{Date, Error, Function, Promise};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use wasm_bindgen::prelude::*;

struct Task {
    /// When it began, in ms since the epoch.
    began: f64,
    work: Pin<Box<dyn Future<Output = Result<JsValue, JsValue>>>>,
    resolve: Function,
    reject: Function,
}

/// The runtime continues nothing of a request whose client has gone, so its task would wait for ever. No task that still
/// runs is as old: a run of the cron ends earlier.
const ABANDONED_AFTER_MS: f64 = 300_000.0;
/// Every so many tasks, the abandoned ones are dropped.
const DROP_EVERY: u64 = 256;

thread_local! {
    /// The tasks that wait. One that runs is not among them.
    static WAITING: RefCell<BTreeMap<u64, Task>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

struct TaskWaker {
    number: u64,
    /// Whether it was called while the task ran.
    called: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match WAITING.with_borrow_mut(|waiting| waiting.remove(&self.number)) {
            Some(task) => run(task, self),
            None => self.called.store(true, Ordering::Relaxed),
        }
    }
}

/// Runs `work`, at first until it waits. A panic in it rejects this promise and leaves everything else as it is: the
/// gate's state is plain values, each changed in one step between two awaits.
pub fn promise(work: impl Future<Output = Result<JsValue, JsValue>> + 'static) -> Promise {
    let functions = RefCell::new(None);
    let keep = AssertUnwindSafe(&functions);
    let promise = Promise::new(&mut move |resolve, reject| {
        keep.replace(Some((resolve, reject)));
    });
    // The constructor has called it.
    if let Some((resolve, reject)) = functions.take() {
        let number = NEXT.replace(NEXT.get().wrapping_add(1));
        let began = Date::now();
        if number.is_multiple_of(DROP_EVERY) {
            drop_abandoned(began);
        }
        let task = Task { began, work: Box::pin(work), resolve, reject };
        run(task, &Arc::new(TaskWaker { number, called: AtomicBool::new(false) }));
    }
    promise
}

fn drop_abandoned(now: f64) {
    loop {
        let abandoned = WAITING.with_borrow_mut(|waiting| {
            // The one that began first.
            let (number, task) = waiting.iter().next()?;
            let number = *number;
            if now - task.began < ABANDONED_AFTER_MS { None } else { waiting.remove(&number) }
        });
        // Dropped after the borrow: what a task owns may wake another.
        if abandoned.is_none() {
            return;
        }
    }
}

fn run(mut task: Task, waker: &Arc<TaskWaker>) {
    let std_waker = Waker::from(Arc::clone(waker));
    let mut context = Context::from_waker(&std_waker);
    let (settle, value) = loop {
        waker.called.store(false, Ordering::Relaxed);
        match catch_unwind(AssertUnwindSafe(|| task.work.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) if waker.called.load(Ordering::Relaxed) => {}
            Ok(Poll::Pending) => {
                WAITING.with_borrow_mut(|waiting| waiting.insert(waker.number, task));
                return;
            }
            Ok(Poll::Ready(Ok(value))) => break (&task.resolve, value),
            Ok(Poll::Ready(Err(error))) => break (&task.reject, error),
            Err(_) => break (&task.reject, Error::new("a panic").into()),
        }
    };
    // Settling a promise does not fail.
    let _ = settle.call1(&JsValue::UNDEFINED, &value);
}
