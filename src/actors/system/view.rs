//! The state of the whole system as this node knows it, for everybody on this node.

use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

use crate::domain::system::{System, SystemState, Trouble};

/// See the module. The actor alone writes it.
#[derive(Debug, Default)]
pub struct SystemView {
    /// As it was read from the store last.
    stored: ArcSwapOption<System>,
    /// The critical part that does not work, as this node sees it.
    trouble: ArcSwapOption<Trouble>,
    /// What the store could not be told while it was away.
    untold: ArcSwapOption<Trouble>,
    /// The nodes that drained have all ended: nobody has to drain any more.
    ends_drain: AtomicBool,
    woken: Notify,
}

impl SystemView {
    /// As it was read from the store last; none before the store was read.
    pub fn stored(&self) -> Option<Arc<System>> {
        self.stored.load_full()
    }

    /// The critical part that does not work, as this node sees it.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.trouble.load_full()
    }

    /// Whether publishes may be refused, as of the last look. The store decides.
    pub fn is_in_maintenance(&self) -> bool {
        self.stored.load().as_ref().is_some_and(|system| system.state == SystemState::Maintenance)
    }

    /// The state as this node sees it; none before the store was read.
    pub fn seen(&self) -> Option<SystemState> {
        Some(self.stored.load().as_ref()?.seen(self.trouble.load().is_some()))
    }

    /// Has the actor look at the store at once.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Ready when [`Self::wake`] was called since the last time.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    pub(super) fn set_stored(&self, system: System) {
        self.stored.store(Some(Arc::new(system)));
    }

    pub(super) fn set_trouble(&self, trouble: Option<Trouble>) {
        self.trouble.store(trouble.map(Arc::new));
    }

    pub(super) fn untold(&self) -> Option<Arc<Trouble>> {
        self.untold.load_full()
    }

    pub(super) fn set_untold(&self, trouble: Option<Arc<Trouble>>) {
        self.untold.store(trouble);
    }

    pub(super) fn ends_drain(&self) -> bool {
        self.ends_drain.load(Ordering::Acquire)
    }

    pub(super) fn set_ends_drain(&self, ends: bool) {
        self.ends_drain.store(ends, Ordering::Release);
    }
}
