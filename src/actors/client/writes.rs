//! What a client has the store write down: how attempts ended, what it tells, and the state of its service.

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use tokio::sync::oneshot;

use super::messages::ServiceCommand;
use super::{Client, STORE_RETRY};
use crate::domain::event::{Append, NewEvent};
use crate::domain::pending_writes::PendingWrites;
use crate::domain::work::WorkId;
use crate::storage::{CommandId, DeliveryOutcome, Registered, ServiceChange, Write};

/// One thing to be written down.
#[derive(Debug)]
pub(super) enum ToStore {
    /// An attempt ended.
    Ended(DeliveryOutcome),
    /// An event of the Event Handler itself.
    Event(NewEvent),
    /// What an operator has said, for the process that holds the service.
    Command { command: ServiceCommand, told: oneshot::Sender<()> },
    /// The state of the service; commands up to `applied` are in it.
    State { state: Registered, applied: CommandId, told: Vec<oneshot::Sender<()>> },
}

/// What is not known to be stored.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pending: PendingWrites<ToStore>,
    /// How many deliveries have ended of which that is so.
    unsettled: usize,
}

impl Writes {
    pub(super) fn push(&mut self, write: ToStore) {
        self.unsettled += usize::from(matches!(write, ToStore::Ended(_)));
        self.pending.push(write);
    }

    /// Deliveries that have ended, and are not known to be settled in the store.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// The same deliveries, one by one.
    pub(super) fn ended(&self) -> impl Iterator<Item = WorkId> {
        self.pending.iter().filter_map(|write| match write {
            ToStore::Ended(delivery_outcome) => Some(WorkId::Delivery(delivery_outcome.event_id)),
            ToStore::Event(_) | ToStore::Command { .. } | ToStore::State { .. } => None,
        })
    }
}

impl Client {
    /// Has all that is to be written down written, in one transaction at a time.
    pub(super) fn write(&mut self, ctx: &mut Context<Self>) {
        // The state is changed by nobody but who holds the service for certain (CL-5).
        if self.lease.is_certain() && self.writes.pending.is_idle() {
            let (breaker, clock) = (self.dispatcher.breaker(), &self.clock);
            let snapshot = || serde_json::to_string(&breaker.snapshot().on_clock_ahead(-clock.lead())).ok();
            if let Some(state) = self.kept.take(snapshot) {
                self.writes.push(state);
            }
        }
        let Some(writes) = self.begin() else { return };
        let answer = self.parts.persistence.commit_all(writes);
        let stored = async move { answer?.await.ok()?.ok() };
        ctx.spawn(stored.into_actor(self).map(|stored, this, ctx| match stored {
            Some(_) => this.stored(ctx),
            None => this.not_stored(ctx),
        }));
    }

    /// Begins a batch, if there is one.
    fn begin(&mut self) -> Option<Vec<Write>> {
        let service = self.kept.id()?;
        let batch = self.writes.pending.begin()?;
        // Settlements together: one statement writes them.
        let (mut delivery_outcomes, mut writes) = (Vec::with_capacity(batch.len()), Vec::new());
        for write in batch {
            match write {
                ToStore::Ended(delivery_outcome) => delivery_outcomes.push(delivery_outcome.clone()),
                ToStore::Event(event) => writes.push(Write::Append(Append::single(event.clone()))),
                ToStore::Command { command, .. } => {
                    let command = command.as_str().to_owned();
                    writes.push(Write::ChangeService(ServiceChange::Asked { service, command }));
                }
                ToStore::State { state, applied, .. } => {
                    self.parts.slot.keep(state.paused.clone(), state.breaker.clone());
                    let kept = ServiceChange::Kept { state: state.clone(), applied: *applied };
                    writes.push(Write::ChangeService(kept));
                }
            }
        }
        if !delivery_outcomes.is_empty() {
            writes.insert(0, Write::Settle(delivery_outcomes));
        }
        Some(writes)
    }

    fn stored(&mut self, ctx: &mut Context<Self>) {
        let mut delivery_outcomes = Vec::new();
        for write in self.writes.pending.ended() {
            match write {
                ToStore::Ended(delivery_outcome) => delivery_outcomes.push(delivery_outcome),
                ToStore::Event(_) => {}
                ToStore::Command { told, .. } => tell(told),
                ToStore::State { state, told, .. } => {
                    self.kept.stored(state);
                    told.into_iter().for_each(tell);
                }
            }
        }
        self.writes.unsettled -= delivery_outcomes.len();
        self.settled(delivery_outcomes, ctx);
        self.pump(ctx);
    }

    /// All is written again, in order; nothing more goes out meanwhile than may be unsettled.
    fn not_stored(&mut self, ctx: &mut Context<Self>) {
        self.writes.pending.failed();
        for state in self.writes.pending.withdraw(|write| matches!(write, ToStore::State { .. })) {
            if let ToStore::State { told, .. } = state {
                self.kept.not_stored(told);
            }
        }
        self.lease.doubt();
        ctx.run_later(STORE_RETRY, |this, ctx| {
            this.writes.pending.rested();
            this.ask_for_lease(ctx);
            this.pump(ctx);
        });
    }
}

/// What was to be stored is; whoever waited may have gone.
fn tell(told: oneshot::Sender<()>) {
    let _ = told.send(());
}
