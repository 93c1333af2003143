//! The state of a service that outlives the process: its pause, its breaker, and the commands that were applied.

use tokio::sync::oneshot;

use super::writes::ToStore;
use crate::domain::routes::ServiceId;
use crate::storage::{CommandId, Registered};

/// The state that is kept in the store, and who waits until it is stored.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The stored state, as last known; `None` while the store does not know the service.
    stored: Option<Registered>,
    /// Why the service is paused, if it is.
    pause: Option<String>,
    /// Something has changed since the last state was handed to the writer.
    is_changed: bool,
    /// The last command of another node that was applied.
    applied_through: CommandId,
    /// Operators who wait until the effect of their commands is stored.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Kept {
    pub(super) fn id(&self) -> Option<ServiceId> {
        self.stored.as_ref().map(|stored| stored.id)
    }

    pub(super) fn pause(&self) -> Option<&str> {
        self.pause.as_deref()
    }

    /// Whether the store has another state than the one known here.
    pub(super) fn differs_from(&self, stored: &Registered) -> bool {
        self.stored.as_ref() != Some(stored)
    }

    /// Continues with the stored state.
    pub(super) fn adopt(&mut self, stored: Registered) {
        self.pause = stored.paused.clone();
        self.stored = Some(stored);
    }

    /// Another process holds the lease now, so the unsaved state is void. Operators who wait learn that it was not
    /// stored.
    pub(super) fn void(&mut self) {
        self.is_changed = false;
        self.waiting.clear();
    }

    pub(super) fn set_pause(&mut self, reason: Option<&str>) {
        self.pause = reason.map(str::to_owned);
        self.is_changed = true;
    }

    /// Whether something of it is not on its way to the store.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// Whether this command of another node is new. The next stored state removes it from the store, even if only a
    /// later version of the program knows the command.
    pub(super) fn takes(&mut self, command: CommandId) -> bool {
        let is_new = command > self.applied_through;
        if is_new {
            self.applied_through = command;
            self.is_changed = true;
        }
        is_new
    }

    /// `told` is answered when the present state is stored.
    pub(super) fn wait(&mut self, told: oneshot::Sender<()>) {
        self.waiting.push(told);
    }

    /// The state to be stored, with the breaker as given, if it has changed.
    pub(super) fn take(&mut self, breaker: impl FnOnce() -> Option<String>) -> Option<ToStore> {
        let id = self.id().filter(|_| self.is_changed)?;
        self.is_changed = false;
        let state = Registered { id, paused: self.pause.clone(), breaker: breaker() };
        let told = std::mem::take(&mut self.waiting);
        Some(ToStore::State { state, applied: self.applied_through, told })
    }

    pub(super) fn stored(&mut self, state: Registered) {
        self.stored = Some(state);
    }

    /// The state may not have been stored, so the then present state is stored again.
    pub(super) fn not_stored(&mut self, told: Vec<oneshot::Sender<()>>) {
        self.is_changed = true;
        self.waiting.extend(told);
    }
}
