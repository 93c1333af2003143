//! What a client has persistence store: the outcomes of attempts, its own events, and the state of its service.

use std::time::Duration;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::messages::ServiceCommand;
use super::{Client, STORE_RETRY};
use crate::actors::persistence::Persistence;
use crate::domain::event::{Append, NewEvent};
use crate::domain::lease::Fence;
use crate::domain::pending_writes::PendingWrites;
use crate::domain::work::WorkId;
use crate::runtime::address::Address;
use crate::storage::{
    CallOutcome, CallSettled, CommandId, DeliveryOutcome, EndedCall, Outcome, Registered, ServiceChange, Write,
};

/// A write of a client.
#[derive(Debug)]
pub(super) enum ToStore {
    /// The outcome of an attempt.
    Ended(DeliveryOutcome),
    /// The outcome of an attempt at a call.
    CallEnded(CallOutcome),
    /// An event of the Event Handler itself.
    Event(NewEvent),
    /// A command of an operator, for the process that holds the lease.
    Command { command: ServiceCommand, told: oneshot::Sender<()> },
    /// The state of the service, after all commands up to `applied`.
    State { state: Registered, applied: CommandId, told: Vec<oneshot::Sender<()>> },
}

impl ToStore {
    /// Whether it says how an attempt ended.
    fn is_outcome(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::CallEnded(_))
    }
}

/// The writes that are not known to be stored.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pending: PendingWrites<ToStore>,
    /// How many of them are outcomes of attempts, of both kinds.
    unsettled: usize,
}

impl Writes {
    pub(super) fn push(&mut self, write: ToStore) {
        self.unsettled += usize::from(write.is_outcome());
        self.pending.push(write);
    }

    /// Whether nothing is to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What was collected by an earlier holder is not written: only commands remain, for whoever holds the service.
    pub(super) fn void(&mut self) {
        let void = self.pending.withdraw(|write| !matches!(write, ToStore::Command { .. }));
        self.unsettled -= void.iter().filter(|write| write.is_outcome()).count();
    }

    /// Attempts that have ended, and are not known to be settled in the store.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    pub(super) fn ended(&self) -> impl Iterator<Item = WorkId> {
        self.pending.iter().filter_map(|write| match write {
            ToStore::Ended(delivery_outcome) => Some(WorkId::Delivery(delivery_outcome.event_id)),
            ToStore::CallEnded(_) | ToStore::Event(_) | ToStore::Command { .. } | ToStore::State { .. } => None,
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
        // Who has lost the lease writes nothing before the store has answered.
        if self.lease.is_held() && !self.lease.may_act() {
            return;
        }
        let Some((writes, ends)) = self.begin() else { return };
        let ended: Vec<EndedCall> = ends.iter().filter_map(|outcome| self.calls.ended(outcome)).collect();
        let fence = self.fence().filter(|_| !ended.is_empty() && ended.len() == ends.len());
        let taken = fence.and_then(|fence| self.parts.call_ends.hand(fence, ended));
        let stored = store(self.parts.persistence.clone(), self.fence(), writes, (ends, taken));
        ctx.spawn(stored.into_actor(self).map(|stored, this, ctx| match stored {
            Some(outcomes) if outcomes.contains(&Outcome::Void) => this.voided(ctx),
            Some(_) => this.stored(ctx),
            None => this.not_stored(ctx),
        }));
    }

    /// Begins a batch of writes, if there is something to write. The ends of calls are apart.
    fn begin(&mut self) -> Option<(Vec<Write>, Vec<CallOutcome>)> {
        let service = self.kept.id()?;
        let batch = self.writes.pending.begin()?;
        // All outcomes are one write, since one statement stores them.
        let (mut delivery_outcomes, mut again) = (Vec::with_capacity(batch.len()), Vec::new());
        let (mut writes, mut ends) = (Vec::new(), Vec::new());
        for write in batch {
            match write {
                ToStore::Ended(delivery_outcome) => delivery_outcomes.push(delivery_outcome.clone()),
                ToStore::CallEnded(outcome) => match outcome.settled {
                    CallSettled::Again(_) => again.push(outcome.clone()),
                    CallSettled::Ended { .. } => ends.push(outcome.clone()),
                },
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
        if !again.is_empty() {
            writes.push(Write::SettleCalls(again));
        }
        if !delivery_outcomes.is_empty() {
            writes.insert(0, Write::Settle(delivery_outcomes));
        }
        Some((writes, ends))
    }

    fn stored(&mut self, ctx: &mut Context<Self>) {
        let mut delivery_outcomes = Vec::new();
        for write in self.writes.pending.ended() {
            self.writes.unsettled -= usize::from(write.is_outcome());
            match write {
                ToStore::Ended(delivery_outcome) => delivery_outcomes.push(delivery_outcome),
                ToStore::CallEnded(call_outcome) => self.call_settled(call_outcome, ctx),
                ToStore::Event(_) => {}
                ToStore::Command { told, .. } => tell(told),
                ToStore::State { state, told, .. } => {
                    self.kept.stored(state);
                    told.into_iter().for_each(tell);
                }
            }
        }
        self.settled(delivery_outcomes, ctx);
        self.look_for_calls(ctx);
        self.pump(ctx);
    }

    /// Another node has taken the lease: nothing of it was written, and nothing is, but what operators have said.
    fn voided(&mut self, ctx: &mut Context<Self>) {
        log::warn!(service = self.name(); "the lease of a service is lost");
        self.lease.lose();
        for write in self.writes.pending.ended() {
            match write {
                ToStore::Command { .. } => self.writes.pending.push(write),
                ToStore::Ended(_) => self.writes.unsettled -= 1,
                ToStore::CallEnded(call_outcome) => {
                    self.writes.unsettled -= 1;
                    self.calls.voided(call_outcome.id);
                }
                ToStore::Event(_) | ToStore::State { .. } => {}
            }
        }
        self.ask_for_lease(ctx);
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

/// How long the ends of calls may be with who follows them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Stores `writes` and `ends`, which somebody may have `taken`, in the name of the holder of the lease. The outcomes; none
/// if something is not known to be stored.
async fn store(
    persistence: Address<Persistence>,
    fence: Option<Fence>,
    mut writes: Vec<Write>,
    (ends, taken): (Vec<CallOutcome>, Option<oneshot::Receiver<()>>),
) -> Option<Vec<Outcome>> {
    let Some(taken) = taken else {
        writes.extend((!ends.is_empty()).then_some(Write::SettleCalls(ends)));
        return persistence.commit_all(fence, writes)?.await.ok()?.ok();
    };
    // Nothing else waits for those who follow calls.
    let others = if writes.is_empty() { None } else { Some(persistence.commit_all(fence.clone(), writes)?) };
    let is_taken = matches!(timeout(PATIENCE, taken).await, Ok(Ok(())));
    let mut outcomes = match others {
        Some(others) => others.await.ok()?.ok()?,
        None => Vec::new(),
    };
    if !is_taken {
        outcomes.extend(persistence.commit_all(fence, vec![Write::SettleCalls(ends)])?.await.ok()?.ok()?);
    }
    Some(outcomes)
}

/// Tells an operator that the command is stored. The operator may have gone.
fn tell(told: oneshot::Sender<()>) {
    let _ = told.send(());
}
