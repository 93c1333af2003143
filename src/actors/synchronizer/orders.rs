//! What operators and the client of a service have asked for, until the task of the service takes it.

use std::cell::RefCell;

use tokio::sync::Notify;

use super::messages::Demand;

/// See the module. Equal demands are one, so there are few.
#[derive(Default)]
pub(super) struct Orders {
    waiting: RefCell<Vec<Demand>>,
    pushed: Notify,
    cancelled: Notify,
}

impl Orders {
    pub(super) fn push(&self, demand: Demand) {
        let mut waiting = self.waiting.borrow_mut();
        if demand == Demand::Cancel {
            // What was asked for before is not begun.
            waiting.clear();
            self.cancelled.notify_one();
        }
        if !waiting.contains(&demand) {
            waiting.push(demand);
        }
        self.pushed.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Demand> {
        std::mem::take(&mut self.waiting.borrow_mut())
    }

    /// Until something may have been pushed.
    pub(super) async fn pushed(&self) {
        self.pushed.notified().await;
    }

    /// What `work` gives; none if what is under way is cancelled meanwhile.
    pub(super) async fn or_cancelled<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.cancelled.notified() => None,
            done = work => Some(done),
        }
    }
}
