//! What a client has persistence store: the outcomes of attempts, its own events, and the state of its service.

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use tokio::sync::oneshot;

use super::messages::ServiceCommand;
use super::{Client, STORE_RETRY};
use crate::domain::event::{Append, NewEvent};
use crate::domain::pending_writes::PendingWrites;
use crate::domain::work::WorkId;
use crate::storage::{CommandId, DeliveryOutcome, Registered, ServiceChange, Write};

/// A write of a client.
#[derive(Debug)]
pub(super) enum ToStore {
    /// The outcome of an attempt.
    Ended(DeliveryOutcome),
    /// An event of the Event Handler itself.
    Event(NewEvent),
    /// A command of an operator, for the process that holds the lease.
    Command { command: ServiceCommand, told: oneshot::Sender<()> },
    /// The state of the service, after all commands up to `applied`.
    State { state: Registered, applied: CommandId, told: Vec<oneshot::Sender<()>> },
}

/// The writes that are not known to be stored.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pending: PendingWrites<ToStore>,
    /// How many of them are outcomes of attempts.
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

    pub(super) fn ended(&self) -> impl Iterator<Item = WorkId> {
        self.pending.iter().filter_map(|write| match write {
            ToStore::Ended(delivery_outcome) => Some(WorkId::Delivery(delivery_outcome.event_id)),
            ToStore::Event(_) | ToStore::Command { .. } | ToStore::State { .. } => None,
        })
    }
}

impl Client {
    /// Sends all pending writes to persistence. One transaction is under way at a time.
    pub(super) fn write(&mut self, ctx: &mut Context<Self>) {
        // Only a process that certainly holds the lease may change the stored state (CL-5).
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

    /// Begins a batch of writes, if there is something to write.
    fn begin(&mut self) -> Option<Vec<Write>> {
        let service = self.kept.id()?;
        let batch = self.writes.pending.begin()?;
        // All outcomes are one write, since one statement stores them.
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

    /// The batch is written again later, in the same order. Until then only as much is sent as may be unsettled.
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

/// Tells an operator that the command is stored. The operator may have gone.
fn tell(told: oneshot::Sender<()>) {
    let _ = told.send(());
}
