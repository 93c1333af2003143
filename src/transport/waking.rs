//! Wakers of tasks that wait for something on their own thread.

use std::task::{Context, Waker};

/// Wakes the task that left `waker`, if one did.
pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Keeps the waker of the task behind `cx`, for [`wake`].
pub(super) fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}
