//! A group of tasks that ends or stands still as one: an isolate, or a process.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::task::AbortHandle;

thread_local! {
    static CRASHES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The panics of tasks since the last call.
#[must_use]
pub fn take_crashes() -> Vec<String> {
    CRASHES.take()
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// The group. Cloning gives another handle to the same one.
#[derive(Clone, Default)]
pub struct Tasks(Rc<Inner>);

#[derive(Default)]
struct Inner {
    running: RefCell<Vec<AbortHandle>>,
    ended: Cell<bool>,
    frozen: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Tasks {
    /// Starts a task in the group. In a group that has ended nothing starts any more.
    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        if self.0.ended.get() {
            return;
        }
        let work = Freezable { work: Box::pin(work), group: self.clone() };
        let handle = tokio::task::spawn_local(work).abort_handle();
        let mut running = self.0.running.borrow_mut();
        if running.len() >= 64 {
            running.retain(|task| !task.is_finished());
        }
        running.push(handle);
    }

    /// Ends every task where it is, between two of its awaits: SIGKILL, or the eviction of an isolate.
    pub fn kill(&self) {
        self.0.ended.set(true);
        // Dropping a future may reach back into this group.
        let running = std::mem::take(&mut *self.0.running.borrow_mut());
        running.iter().for_each(AbortHandle::abort);
    }

    /// Nothing of the group runs until [`Tasks::thaw`]: SIGSTOP.
    pub fn freeze(&self) {
        self.0.frozen.set(true);
    }

    pub fn thaw(&self) {
        self.0.frozen.set(false);
        std::mem::take(&mut *self.0.waiting.borrow_mut()).into_iter().for_each(Waker::wake);
    }
}

struct Freezable {
    work: Pin<Box<dyn Future<Output = ()>>>,
    group: Tasks,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.group.0.frozen.get() {
            self.group.0.waiting.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(context))).unwrap_or_else(|panic| {
            CRASHES.with_borrow_mut(|crashes| crashes.push(text_of(panic.as_ref())));
            Poll::Ready(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn a_group_stands_still_and_ends_as_one() {
        LocalSet::new()
            .run_until(async {
                let tasks = Tasks::default();
                let count = Rc::new(Cell::new(0));
                for _ in 0..2 {
                    let count = Rc::clone(&count);
                    tasks.spawn(async move {
                        loop {
                            sleep(Duration::from_millis(10)).await;
                            count.set(count.get() + 1);
                        }
                    });
                }
                sleep(Duration::from_millis(25)).await;
                assert_eq!(count.get(), 4);
                tasks.freeze();
                sleep(Duration::from_millis(100)).await;
                assert_eq!(count.get(), 4, "it ran while it was frozen");
                tasks.thaw();
                sleep(Duration::from_millis(15)).await;
                assert_eq!(count.get(), 8);
                tasks.kill();
                sleep(Duration::from_millis(100)).await;
                tasks.spawn(async { panic!("nothing starts in a group that has ended") });
                sleep(Duration::from_millis(1)).await;
                assert_eq!(count.get(), 8);
            })
            .await;
    }
}
