//! Watches the rows come, beside the burst and after it.

use crate::load::progress::Live;
use crate::rows::{Count, Store};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the rows are counted: two counts over an index.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// A count that differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sight {
    /// When it was seen, in ms since the start.
    pub at_ms: u64,
    /// Rows of `coupons`.
    pub coupons: u64,
    /// Rows of `refusals`.
    pub refusals: u64,
}

/// The watch over one campaign's rows. Ends when it is dropped.
pub struct Watch {
    sights: watch::Receiver<Vec<Sight>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins to count. A database that fails is asked again at the next tick.
    #[must_use]
    pub fn begin(store: Arc<Store>, live: Arc<Live>) -> Self {
        let (sender, sights) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut tick = interval(COUNT_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok(Count { coupons, refusals }) = store.count().await else {
                    continue;
                };
                let at_ms = u64::try_from(live.elapsed().as_millis()).unwrap_or(u64::MAX);
                live.rows(coupons);
                sender.send_if_modified(|sights: &mut Vec<Sight>| {
                    let news = sights.last().is_none_or(|last| (last.coupons, last.refusals) != (coupons, refusals));
                    if news {
                        sights.push(Sight { at_ms, coupons, refusals });
                    }
                    news
                });
            }
        });
        Self { sights, task }
    }

    /// Waits until a count differs from those that the caller knows of, for `patience` at most.
    pub async fn news(&mut self, patience: Duration) -> bool {
        matches!(timeout(patience, self.sights.changed()).await, Ok(Ok(())))
    }

    /// The latest count of rows of either kind.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.sights.borrow().last().map_or(0, |sight| sight.coupons + sight.refusals)
    }

    /// What was seen so far.
    #[must_use]
    pub fn sights(&self) -> Vec<Sight> {
        self.sights.borrow().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
