//! Commands of operators.

use actix::prelude::{ActorFutureExt as _, Context, Handler, ResponseActFuture, WrapFuture as _};
use serde_json::json;
use tokio::sync::oneshot;

use super::Client;
use super::messages::{Applied, Operate, ServiceCommand};
use super::telling::Cause;
use super::writes::ToStore;
use crate::actors::synchronizer::messages::{Demand, Synchronize};
use crate::storage::CommandId;

impl Client {
    fn apply(&mut self, command: ServiceCommand) {
        let transition = match command {
            ServiceCommand::Pause => {
                self.pause_for("by an operator");
                None
            }
            ServiceCommand::Resume => {
                self.resume();
                None
            }
            ServiceCommand::Open => self.dispatcher.force_open(),
            ServiceCommand::Close => self.dispatcher.force_close(),
            ServiceCommand::Reset => self.dispatcher.reset(),
            ServiceCommand::Synchronize(demand) => {
                self.synchronize(demand);
                // The command is done with when the state is stored anew.
                return self.kept.changed();
            }
        };
        if let Some(transition) = transition {
            self.turned(transition, Cause::Operator);
        }
        self.kept.changed();
        self.claims.look_again();
    }

    /// Passes it on to the synchronizer, which works for the services that this node delivers to.
    pub(super) fn synchronize(&mut self, demand: Demand) {
        if self.parts.service.sync.is_none() || !self.lease.is_held() {
            return;
        }
        let told = self.parts.synchronizer.tell(Synchronize { service: self.parts.service.name.clone(), demand });
        if let Err(reason) = told {
            log::warn!(service = self.name(), demand:?, reason:%; "the synchronizer was not told");
        }
    }

    /// Applies commands that were given to other nodes. The store removes them when it stores the resulting state.
    pub(super) fn apply_all(&mut self, commands: Vec<(CommandId, String)>) {
        for (id, command) in commands {
            if self.kept.takes(id) {
                ServiceCommand::parse(&command).into_iter().for_each(|command| self.apply(command));
            }
        }
    }

    /// Sends nothing more, and keeps what comes.
    pub(super) fn pause_for(&mut self, reason: &str) {
        if self.lease.is_held() && !self.dispatcher.is_paused() {
            self.dispatcher.pause();
            self.kept.set_pause(Some(reason));
            self.announce("paused", json!({ "reason": reason }));
        }
    }

    fn resume(&mut self) {
        if self.dispatcher.is_paused() {
            self.dispatcher.resume();
            self.kept.set_pause(None);
            self.told.resumed();
            self.announce("resumed", json!({}));
        }
    }
}

impl Handler<Operate> for Client {
    type Result = ResponseActFuture<Self, Option<Applied>>;

    /// Applies the command, after those that other nodes have taken before, or stores it for the holder of the lease.
    /// Answers when that is stored, so that it survives a restart.
    fn handle(&mut self, Operate(command): Operate, _: &mut Context<Self>) -> Self::Result {
        if self.kept.id().is_none() {
            return Box::pin(actix::fut::ready(None));
        }
        Box::pin(self.lease_asked().then(move |(), this, ctx| {
            let (told, stored) = oneshot::channel();
            let by = if this.lease.may_act() {
                this.apply(command);
                this.kept.wait(told);
                Applied::Here
            } else {
                this.writes.push(ToStore::Command { command, told });
                Applied::Elsewhere
            };
            this.pump(ctx);
            stored.into_actor(this).map(move |stored, _, _| stored.ok().map(|()| by))
        }))
    }
}
