//! What of a service outlives the process: its pause, its breaker, and what operators have said.

use tokio::sync::oneshot;

use super::writes::ToStore;
use crate::domain::routes::ServiceId;
use crate::storage::{CommandId, Registered};

/// The state that is kept in the store, and who waits until it is there.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What the store has, as last known; none before the store knows the service.
    stored: Option<Registered>,
    /// Why nothing is sent, if an operator or the service has said so.
    pause: Option<String>,
    /// Something of it is not on its way to the store.
    is_changed: bool,
    /// Commands up to this one, which came by other nodes, were applied.
    applied_through: CommandId,
    /// Operators who wait until what they have said is stored.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Kept {
    pub(super) fn id(&self) -> Option<ServiceId> {
        self.stored.as_ref().map(|stored| stored.id)
    }

    pub(super) fn pause(&self) -> Option<&str> {
        self.pause.as_deref()
    }

    /// Whether the store has something else than is known.
    pub(super) fn differs_from(&self, stored: &Registered) -> bool {
        self.stored.as_ref() != Some(stored)
    }

    /// Goes on from what is stored.
    pub(super) fn adopt(&mut self, stored: Registered) {
        self.pause = stored.paused.clone();
        self.stored = Some(stored);
    }

    /// Another process has the lease: what would have been kept is its business, and who waits for it is told that it
    /// is not stored.
    pub(super) fn void(&mut self) {
        self.is_changed = false;
        self.waiting.clear();
    }

    pub(super) fn set_pause(&mut self, reason: Option<&str>) {
        self.pause = reason.map(str::to_owned);
        self.is_changed = true;
    }

    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// Whether a command of another node was not applied before. It is forgotten in the store with the next state, also
    /// if only a later version knows it.
    pub(super) fn takes(&mut self, command: CommandId) -> bool {
        let is_new = command > self.applied_through;
        if is_new {
            self.applied_through = command;
            self.is_changed = true;
        }
        is_new
    }

    /// Told when the state of this moment is stored.
    pub(super) fn wait(&mut self, told: oneshot::Sender<()>) {
        self.waiting.push(told);
    }

    /// The state, with the breaker as given, if it is to be stored.
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

    /// The state was not stored, as far as is known: it is stored anew, as it will be then.
    pub(super) fn not_stored(&mut self, told: Vec<oneshot::Sender<()>>) {
        self.is_changed = true;
        self.waiting.extend(told);
    }
}
